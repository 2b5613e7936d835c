"""No secret, key, token or text that a user gave for its agents is in anything that a run leaves behind.

Real runs that fail in ways that tempt: the server answers a token that it does not take with that token.
"""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest
from conftest import free_port, without_library
from token_endpoint import TokenEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Finished, Running

    from lk_users.local.stack import Stack

    Start = Callable[..., Running]

pytestmark = pytest.mark.real

WRONG_SECRET = "wrong-secret-of-a-worker-0123456789abcdef"
UNKNOWN_KEY = "APIunknown4711"
URL_USER, URL_PASSWORD = "url-user-hunter2", "url-password-hunter2"
INFLUX_TOKEN = "influx-token-hunter2=="
TEMPLATE_TEXT = "crm-key-hunter2"
BACKEND_KEY = "backend-key-hunter2"
TOKEN = re.compile(rb"eyJ[A-Za-z0-9_-]{10,}")
TURN = (b"turn_password", b"turnPassword")


def environment(stack: Stack, **changes: str) -> dict[str, str]:
    """The stack's own key and secret, and a URL and a token with more to hide."""
    given = stack.env()
    url = given["LIVEKIT_URL"].replace("://", f"://{URL_USER}:{URL_PASSWORD}@")
    return {**given, "LIVEKIT_URL": url, "INFLUX_TOKEN": INFLUX_TOKEN, **changes}


def never_shown(stack: Stack) -> dict[str, bytes]:
    """What must not be found, each under its name."""
    given = stack.env()
    plain = {
        "secret": given["LIVEKIT_API_SECRET"],
        "wrong secret": WRONG_SECRET,
        "key": given["LIVEKIT_API_KEY"][4:],
        "unknown key": UNKNOWN_KEY[4:],
        "user in the URL": URL_USER,
        "password in the URL": URL_PASSWORD,
        "InfluxDB token": INFLUX_TOKEN,
        "text of a template": TEMPLATE_TEXT,
        "what opens the user's own backend": BACKEND_KEY,
    }
    found = {name: value.encode() for name, value in plain.items()}
    for name, value in list(found.items()):
        # Inside a longer text its base64 begins at one of three places; its ends mix with what is around.
        for shift in range(3):
            coded = base64.b64encode(b"\0" * shift + value)[4 if shift else 0 : -4]
            found[f"{name} in base64, shifted by {shift}"] = coded
            found[f"{name} in url-safe base64, shifted by {shift}"] = coded.translate(
                bytes.maketrans(b"+/", b"-_")
            )
    assert all(len(value) >= 8 for value in found.values())
    return found


def everything(out: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below ``out``, names included; the members of a zip file as files."""
    for path in sorted(out.rglob("*")):
        yield f"the name {path}", path.name.encode()
        if path.is_file():
            yield str(path), without_library(path.read_bytes())
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield f"{path}: {name}", archive.read(name)


def leaks(out: Path, hidden: dict[str, bytes]) -> list[str]:
    found = []
    for where, content in everything(out):
        found += [f"{name} in {where}" for name, value in hidden.items() if value in content]
        found += [f"a token in {where}: {token[:20]!r}" for token in TOKEN.findall(content)]
        found += [f"{name.decode()} in {where}" for name in TURN if name in content]
    return found


def assert_nothing_leaks(
    done: Finished | Running, stack: Stack, tmp_path: Path, *, reported: bool = True
) -> None:
    assert leaks(tmp_path, never_shown(stack)) == []
    if reported:
        made = {path.name for path in tmp_path.rglob("*")}
        assert {
            "run.json",
            "summary.json",
            "summary.md",
            "report.html",
            "junit.xml",
            "support.md",
            "support.zip",
            "stdout",
        } <= made


def templates(way: str, fault: str) -> tuple[str, ...]:
    """Options of which every text is the user's own business."""
    text = {"crm": TEMPLATE_TEXT, "who": "{session_id}"}
    given = ["--metadata", json.dumps({"lk": {"fault": fault}, **text}), "--attributes", json.dumps(text)]
    return (*given, "--room-metadata", json.dumps(text), "--dispatch", way)


@pytest.mark.parametrize(("way", "fault"), [("api", "ignore"), ("token", "silent")])
def test_a_burst_that_fails(start: Start, stack: Stack, tmp_path: Path, way: str, fault: str) -> None:
    options = (
        "-u",
        "2",
        "-r",
        "2",
        "--agent-name",
        "welcome",
        "--session-timeout",
        "5",
        "--loglevel",
        "DEBUG",
    )
    done = start(*options, *templates(way, fault), env=environment(stack)).finish()
    assert (done.code, done.summary["outcomes"].get("ok", 0)) == (10, 0), done.stdout
    assert done.summary["settings"]["metadata"] == "(given, not shown)"
    assert_nothing_leaks(done, stack, tmp_path)


def test_a_backend_of_the_user_s_own_that_repeats_what_it_was_sent(
    start: Start, stack: Stack, tmp_path: Path
) -> None:
    """Its answers hold the token and what it was opened with; so do those of a server that takes neither."""
    faults = dict(zip((f"user-{n}" for n in range(4)), ("", "500", "garbage", "wrong token"), strict=True))
    names = {"room_name": "{room}", "participant_identity": "{identity}"}
    body = json.dumps({**names, "room_config": {"agents": [{"agent_name": "welcome"}]}, "crm": TEMPLATE_TEXT})
    environ = environment(stack, LK_SESSION_AUTHORIZATION=f"Bearer {BACKEND_KEY}")
    keyless = {name: value for name, value in environ.items() if not name.startswith("LIVEKIT_API_")}
    with TokenEndpoint(stack.env(), faults) as endpoint:
        options = ("-u", "4", "-r", "4", "--session-timeout", "10", "--loglevel", "DEBUG")
        backed = ("--session-url", endpoint.url, "--session-body", body, "--baseline", "0")
        done = start(*options, *backed, env=keyless).finish()
        assert {headers["Authorization"] for headers, _ in endpoint.requests} == {f"Bearer {BACKEND_KEY}"}
    assert done.outcomes == {"session_failed": 2, "connect_failed": 1, "ok": 1}, done.stdout + done.stderr
    assert done.summary["settings"]["session-body"] == "(given, not shown)"
    assert_nothing_leaks(done, stack, tmp_path)


def test_a_start_that_is_refused(start: Start, stack: Stack, tmp_path: Path) -> None:
    for changes in ({"LIVEKIT_API_SECRET": WRONG_SECRET}, {"LIVEKIT_API_KEY": UNKNOWN_KEY}):
        done = start(
            "-u", "2", "-r", "2", "--agent-name", "welcome", env=environment(stack, **changes)
        ).finish()
        assert done.code == 12
        assert "does not take LIVEKIT_API_KEY" in done.stderr
        assert_nothing_leaks(done, stack, tmp_path, reported=False)


def test_workers_whose_tokens_the_server_does_not_take(start: Start, stack: Stack, tmp_path: Path) -> None:
    """Nobody asks for them before T0, so the server's answers become the causes of failed sessions."""
    port = str(free_port())
    master = start(
        "--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--expect-workers", "2",
        "-u", "4", "-r", "4", "--agent-name", "welcome", "--session-timeout", "10", *templates("api", "none"),
        env=environment(stack),
    )  # fmt: skip
    workers = [
        start("--worker", "--master-port", port, headless=False, env=environment(stack, **changes))
        for changes in ({"LIVEKIT_API_SECRET": WRONG_SECRET}, {"LIVEKIT_API_KEY": UNKNOWN_KEY})
    ]
    done = master.finish()
    for worker in workers:
        worker.finish()
    causes = {record["findings"]["dispatch_failed"] for record in done.records}
    assert causes == {
        "HTTP 401: invalid token: (token), error: token signature is invalid: signature is invalid",
        f"HTTP 401: invalid API key: {UNKNOWN_KEY[:4]}…",
    }
    assert_nothing_leaks(done, stack, tmp_path)


def test_a_run_that_was_killed(start: Start, stack: Stack, tmp_path: Path) -> None:
    options = ("-u", "2", "-r", "2", "--agent-name", "welcome", *templates("api", "ignore"))
    running = start(*options, env=environment(stack))
    running.wait_for_text("2 wait")
    running.signal(signal.SIGKILL)
    running.process.wait()
    (run_dir,) = running.runs.iterdir()
    command = [sys.executable, "-m", "lk_users.cli", "report", str(run_dir)]
    again = subprocess.run(command, capture_output=True, check=False, env=environment(stack))
    assert again.returncode == 11
    (tmp_path / "report.out").write_bytes(again.stdout + again.stderr)
    assert_nothing_leaks(running, stack, tmp_path)


def test_the_search_finds_what_it_is_for(stack: Stack, tmp_path: Path) -> None:
    """Each hidden text, plain and in base64, in a file and in a zip member."""
    hidden = never_shown(stack)
    secret = stack.env()["LIVEKIT_API_SECRET"].encode()
    planted = {
        "plain": secret,
        "coded": base64.b64encode(b'{"k":"' + secret + b'"}'),
        "key": stack.env()["LIVEKIT_API_KEY"].encode(),
        "token": b"Bearer eyJhbGciOiJIUzI1NiJ9.e30",
        "turn": b'"turn_password":"x"',
    }
    for name, content in planted.items():
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner", content)
        assert leaks(tmp_path, hidden), name
        (tmp_path / f"{name}.zip").unlink()
    assert leaks(tmp_path, hidden) == []
