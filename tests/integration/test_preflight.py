"""``lk-users preflight``: all well, and each fault by its own line; a run's own start says the same."""

from __future__ import annotations

import datetime as dt
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trustme
from conftest import FOREIGN, free_port, open_rooms
from test_tls import TlsProxy
from token_endpoint import TokenEndpoint

from lk_users.local.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from conftest import Finished

    from lk_users.local.influxd import Influxd

pytestmark = pytest.mark.real

NAMES = (
    "options", "reach", "key", "server", "rooms", "media", "agent", "clock", "API", "handles",
    "priority", "cores", "memory",
)  # fmt: skip


class Told:
    """What a preflight printed."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.checks: dict[str, tuple[str, str]] = {}
        for line in self.out.splitlines():
            level, name, rest = line[2:6].strip(), line[8:19].strip(), line[19:]
            if level in ("ok", "warn", "FAIL", "-") and line.startswith("  "):
                self.checks[name] = (level, rest)
                last = name
            elif line.startswith(" " * 19):
                self.checks[last] = (self.checks[last][0], f"{self.checks[last][1]} {line.strip()}")

    def levels(self) -> dict[str, str]:
        return {name: level for name, (level, _) in self.checks.items()}


def preflight(environ: Mapping[str, str], cache: Path, *options: str, max_handles: int | None = None) -> Told:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}

    def limit() -> None:
        if max_handles is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max_handles, max_handles))

    done = subprocess.run(
        [sys.executable, "-m", "lk_users.cli", "preflight", *options, "--run-dir", str(cache / "runs")],
        env={**clean, "XDG_CACHE_HOME": str(cache), **environ}, capture_output=True, text=True, timeout=120,
        check=False, preexec_fn=limit,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return Told(done)


def test_all_is_well(stack: Stack, tmp_path: Path) -> None:
    told = preflight(stack.env(), tmp_path, "-u", "100", "--agent-name", "welcome", "--probe")
    assert (told.code, told.err) == (0, "")
    assert told.levels() == dict.fromkeys(NAMES, "ok"), told.out
    assert told.out.splitlines()[-1] == "13 ok, 0 warn, 0 fail. The run can start."
    assert "welcome came after 0." in told.checks["agent"][1]
    assert "open source 1.13.5" in told.checks["server"][1]
    assert "TCP in " in told.checks["reach"][1]
    assert told.checks["API"][1].startswith("up to 600 requests, 100 of them CreateDispatch at T0")
    assert stack.env()["LIVEKIT_API_SECRET"] not in told.out
    assert stack.env()["LIVEKIT_API_KEY"] not in told.out
    assert [room for room in open_rooms(stack, []) if "preflight" in room or "probe" in room] == []


def test_the_command_line_of_a_run_will_do(stack: Stack, tmp_path: Path) -> None:
    told = preflight(
        stack.env(), tmp_path, "-f", "locustfiles/burst.py", "--headless", "-u", "600", "-r", "600",
        "--processes", "2", "--agent-name", "welcome", "--batch-size", "50", "--slo", "count(lost) == 0",
    )  # fmt: skip
    assert told.code == 0, told.out
    assert told.levels() == {**dict.fromkeys(NAMES, "ok"), "agent": "-"}
    assert "2 processes on" in told.checks["cores"][1]
    led = preflight(stack.env(), tmp_path, "-u", "600", "--agent-name", "welcome", "--master")
    assert (led.code, led.levels()["cores"], "handles" in led.checks) == (0, "-", False), led.out


def test_an_agent_that_does_not_do_what_is_waited_for(stack: Stack, tmp_path: Path) -> None:
    freeze = ("--metadata", json.dumps({"lk": {"fault": "freeze"}}))
    told = preflight(stack.env(), tmp_path, "-u", "5", "--agent-name", "welcome", "--probe", *freeze)
    level, text = told.checks["agent"]
    assert (told.code, level) == (0, "warn"), told.out
    assert "did not do audio" in text
    assert text.endswith("what would do: --welcome track")
    words = ("--expect-text", "good morning")
    told = preflight(stack.env(), tmp_path, "-u", "5", "--agent-name", "welcome", "--probe", *words)
    level, text = told.checks["agent"]
    assert (level, "did not do text like --expect-text good morning" in text) == ("warn", True), told.out


def test_an_agent_that_nobody_has(stack: Stack, tmp_path: Path) -> None:
    reject = ("--metadata", json.dumps({"lk": {"fault": "reject"}}))
    told = preflight(stack.env(), tmp_path, "-u", "5", "--agent-name", "welcome", "--probe", *reject)
    level, text = told.checks["agent"]
    assert (told.code, level) == (12, "FAIL"), told.out
    assert "welcome did not come within 30 s: rejected" in text


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({"LIVEKIT_URL": ""}, "keys", "LIVEKIT_URL is not set"),
        ({"LIVEKIT_API_SECRET": ""}, "keys", "LIVEKIT_API_SECRET is not set"),
        ({"LIVEKIT_API_SECRET": "w" * 40}, "key", "does not take LIVEKIT_API_KEY"),
        (
            {"LIVEKIT_URL": "ws://no-such-host.invalid"},
            "reach",
            "name: no-such-host.invalid cannot be resolved",
        ),
        ({"LIVEKIT_URL": f"ws://127.0.0.1:{free_port()}"}, "reach", "TCP: 127.0.0.1 port "),
        ({"LIVEKIT_URL": "wss://a.livekit.cloud.invalid"}, "reach", "cannot be resolved"),
    ],
    ids=["no url", "no secret", "wrong secret", "no such host", "nobody there", "no such cloud"],
)
def test_a_target_that_will_not_do(
    stack: Stack, tmp_path: Path, changes: dict[str, str], name: str, said: str
) -> None:
    told = preflight({**stack.env(), **changes}, tmp_path, "-u", "5", "--agent-name", "welcome")
    assert told.code == 12
    level, text = told.checks[name]
    assert (level, said in text) == ("FAIL", True), told.out
    assert "server" not in told.checks
    assert told.out.splitlines()[-1].endswith("1 fail. This run would not do.")


def test_livekit_cloud_is_not_touched_unasked(stack: Stack, tmp_path: Path) -> None:
    environ = {**stack.env(), "LIVEKIT_URL": "wss://my-project.livekit.cloud"}
    told = preflight(environ, tmp_path, "-u", "1200", "--agent-name", "welcome")
    assert told.code == 12
    assert told.levels() | {"reach": ""} == {
        "options": "ok", "cloud": "FAIL", "reach": "", "API": "warn", "plan": "warn", "handles": "ok",
        "priority": "ok", "cores": "warn", "memory": "ok",
    }  # fmt: skip
    assert "LiveKit Cloud takes 1,000 a minute: the rest are rate_limited" in told.checks["API"][1]
    assert "--dispatch token" in told.checks["API"][1]


def test_a_port_without_tls(stack: Stack, tmp_path: Path) -> None:
    url = stack.env()["LIVEKIT_URL"].replace("ws:", "wss:")
    told = preflight({**stack.env(), "LIVEKIT_URL": url}, tmp_path, "-u", "5", "--agent-name", "welcome")
    level, text = told.checks["reach"]
    assert (told.code, level) == (12, "FAIL"), told.out
    assert "TLS: TLS failed" in text
    assert "ws:// or http://, if that port is without TLS" in text


def test_tls_that_is_trusted_and_tls_that_is_not(stack: Stack, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with TlsProxy(authority, stack.server.port) as proxy:
        environ = {**stack.env(), "LIVEKIT_URL": f"wss://localhost:{proxy.port}"}
        trusting = {**environ, "SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        good = preflight(trusting, tmp_path, "-u", "5", "--agent-name", "welcome")
        bad = preflight(environ, tmp_path, "-u", "5", "--agent-name", "welcome")
    assert good.code == 0, good.out
    assert "TLSv1.3 in " in good.checks["reach"][1]
    level, text = bad.checks["reach"]
    assert (bad.code, level) == (12, "FAIL")
    assert "TLS: certificate not trusted" in text
    assert "SSL_CERT_FILE" in text


@contextmanager
def a_web_server(ahead_s: float) -> Iterator[int]:
    """Any HTTP server but LiveKit's, whose clock is off by so much; its port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                taken, _ = listening.accept()
            except OSError:
                return
            with taken:
                taken.settimeout(2)
                try:
                    if not taken.recv(65536):
                        continue
                    date = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=ahead_s)
                    head = (
                        f"HTTP/1.1 418 no\r\nDate: {date:%a, %d %b %Y %H:%M:%S} GMT\r\nContent-Length: 0\r\n"
                    )
                    taken.sendall(f"{head}Connection: close\r\n\r\n".encode())
                except OSError:
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


def test_no_livekit_and_a_clock_that_is_wrong(stack: Stack, tmp_path: Path) -> None:
    with a_web_server(ahead_s=90) as port:
        environ = {**stack.env(), "LIVEKIT_URL": f"ws://127.0.0.1:{port}"}
        told = preflight(environ, tmp_path, "-u", "5", "--agent-name", "welcome")
    assert told.code == 12
    assert (told.checks["key"][0], "is this a LiveKit server?" in told.checks["key"][1]) == ("FAIL", True)
    level, text = told.checks["clock"]
    assert (level, "90 s behind the server's" in text) == ("FAIL", True), text


def test_rooms_that_joining_does_not_make(tmp_path: Path, burst: Callable[..., Finished]) -> None:
    with Stack(server_extra={"room": {"auto_create": False}}, say=lambda line: None) as strict:
        asked = {
            way: preflight(strict.env(), tmp_path, "-u", "3", "--agent-name", "welcome", "--dispatch", way)
            for way in ("api", "token", "room")
        }
        runs = {way: burst(3, "--dispatch", way, env=strict.env()) for way in ("token", "room")}
        dispatched = burst(3, "--session-timeout", "20", env=strict.env())
    assert {way: told.code for way, told in asked.items()} == {"api": 12, "token": 12, "room": 0}, asked[
        "room"
    ].out
    for way in ("api", "token"):
        level, text = asked[way].checks["rooms"]
        assert (level, f"--dispatch {way} makes none" in text) == ("FAIL", True)
        assert text.endswith("what would do: --dispatch room, which makes each by CreateRoom")
    assert asked["room"].checks["rooms"][0] == "ok"
    # And so it is.
    assert (runs["token"].code, runs["room"].code, dispatched.code) == (10, 0, 10), dispatched.stdout
    assert runs["room"].outcomes == {"ok": 3}


def test_too_few_handles_by_the_same_figure_as_a_run(
    stack: Stack, tmp_path: Path, start: Callable[..., object]
) -> None:
    told = preflight(stack.env(), tmp_path, "-u", "500", "--agent-name", "welcome", max_handles=1024)
    level, text = told.checks["handles"]
    assert (told.code, level) == (12, "FAIL"), told.out
    assert text.startswith("too few: 500 users in a process need 1,564, the hard limit is 1,024")
    half = preflight(
        stack.env(), tmp_path, "-u", "500", "--processes", "2", "--agent-name", "welcome", max_handles=1024
    )
    assert half.checks["handles"][0] == "ok"


def test_influxdb(stack: Stack, influxd: Influxd, tmp_path: Path) -> None:
    where = ("--influx-url", influxd.url, "--influx-org", influxd.org, "--influx-bucket", influxd.bucket)
    run = ("-u", "5", "--agent-name", "welcome")
    good = preflight({**stack.env(), "INFLUX_TOKEN": influxd.token}, tmp_path, *run, *where)
    assert (good.code, good.checks["InfluxDB"][0]) == (0, "ok"), good.out
    away = ("--influx-url", f"http://127.0.0.1:{free_port()}")
    bad = preflight({**stack.env(), "INFLUX_TOKEN": "t"}, tmp_path, *run, *away)
    level, text = bad.checks["InfluxDB"]
    assert (bad.code, level, "connection refused" in text) == (0, "warn", True), bad.out


def test_a_backend_of_the_users_own_without_a_key(stack: Stack, tmp_path: Path) -> None:
    url = {"LIVEKIT_URL": stack.env()["LIVEKIT_URL"]}
    run = ("-u", "5", "--agent-name", "welcome", "--session-url")
    with TokenEndpoint(stack.env()) as endpoint:
        told = preflight(url, tmp_path, *run, endpoint.url)
        assert endpoint.requests == [], "each would start a session"
        probed = preflight({}, tmp_path, *run, endpoint.url, "--probe")
        assert len(endpoint.requests) == 1
    assert told.code == 0, told.out
    assert told.levels() == {
        "options": "ok", "backend": "ok", "reach": "ok", "key": "-", "agent": "-", "clock": "ok", "API": "ok",
        "handles": "ok", "priority": "ok", "cores": "ok", "memory": "ok",
    }  # fmt: skip
    assert (probed.code, probed.checks["server"][0], probed.checks["agent"][0]) == (0, "-", "ok"), probed.out
    nobody = preflight(url, tmp_path, *run, f"http://127.0.0.1:{free_port()}/token")
    level, text = nobody.checks["backend"]
    assert (nobody.code, level, "is your backend listening there?" in text) == (12, "FAIL", True)


def test_bad_input(stack: Stack, tmp_path: Path) -> None:
    told = preflight(stack.env(), tmp_path, "-u", "many", "--processes", "0")
    assert (told.code, told.out) == (12, "")
    assert told.err.splitlines() == [
        "lk-users: --users many: must be a whole number of at least 1",
        "lk-users: --processes 0: must be a whole number of at least 1",
    ]
    wrong = ("--batch-size", "9", "--watch", "soon", "--slo", "no", "--slo", "count(lost) == 0")
    told = preflight(stack.env(), tmp_path, "-u", "5", *wrong)
    assert told.code == 12
    lines = [line for line in told.out.splitlines() if line.startswith("  FAIL  options")]
    assert [line.split()[2] for line in lines] == ["--batch-size", "--watch", "--slo"]
    assert told.checks["rooms"][0] == "ok", "the rest is looked at all the same"
