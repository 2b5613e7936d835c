"""Sessions that a backend of the user's own starts: by its token endpoint at T0, or by the locustfile."""

from __future__ import annotations

import json
import re
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from conftest import ROOT, free_port, open_rooms
from token_endpoint import OWN_PATH, PATH, TokenEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Finished, Running

    from lk_users.local.stack import Stack

    Burst = Callable[..., Finished]
    Start = Callable[..., Running]

pytestmark = pytest.mark.real

EXAMPLE_URL = "https://app.example.com/start"
AUTHORIZATION = "Bearer app-key-hunter2"
NO_KEY_LINE = "The server's clock phases (server_queue, accept_to_join) and what became of jobs are not known"


def without_key(stack: Stack, **more: str) -> dict[str, str]:
    """What the generator has: the server's URL, and what opens the backend; no key, no secret."""
    return {
        "LIVEKIT_URL": stack.env()["LIVEKIT_URL"], "LK_SESSION_AUTHORIZATION": AUTHORIZATION, **more,
    }  # fmt: skip


def backed(endpoint: TokenEndpoint) -> tuple[str, ...]:
    """The burst alone: a request for each session of it, and no other."""
    return ("--session-url", endpoint.url, "--baseline", "0")


def test_200_sessions_without_a_key(burst: Burst, stack: Stack) -> None:
    with TokenEndpoint(stack.env()) as endpoint:
        done = burst(200, *backed(endpoint), env=without_key(stack), timeout_s=150)
    assert (done.code, done.outcomes) == (0, {"ok": 200}), done.stdout + done.stderr
    assert len(done.records) == len(endpoint.requests) == 200
    error = done.summary["start_error_ms"]
    print(f"start error of 200: {error}")
    assert error["n"] == 200
    assert error["p99"] < 50
    marks, phases = done.summary["marks"], done.summary["phases"]
    assert marks["session_created"]["n"] == marks["first_audio"]["n"] == 200
    assert marks["dispatched"]["n"] == phases["server_queue"]["n"] == 0
    assert phases["session_api"]["n"] == phases["user_join"]["n"] == 200
    assert all(record["room"].startswith("own-lk-") for record in done.records)
    # The connection for the join was open before: nobody opened one after T0.
    assert done.summary["backend"] == {
        "asked": "session-url", "api_key": False, "servers": {},
        "connect_ms": {"n": 0, "p50": None, "p99": None, "max": None},
    }  # fmt: skip
    assert NO_KEY_LINE in " ".join(done.stdout.split())
    headers, asked = endpoint.requests[0]
    assert headers["Authorization"] == AUTHORIZATION
    assert asked["room_config"] == {"agents": [{"agent_name": "welcome"}]}


def test_over_tls_to_a_server_that_only_the_answer_names(burst: Burst, stack: Stack, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    pem = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(pem))
    with TokenEndpoint(stack.env(), tls=context, agent_name="welcome") as endpoint:
        env = {"SSL_CERT_FILE": str(pem)}
        done = burst(50, *backed(endpoint), "--agent-name", "", env=env)
    assert (done.code, done.outcomes) == (0, {"ok": 50}), done.stdout + done.stderr
    error, found = done.summary["start_error_ms"], done.summary["backend"]
    print(f"start error of 50 over TLS: {error}; connected after T0: {found['connect_ms']}")
    assert error["p99"] < 50
    assert found["servers"] == {stack.env()["LIVEKIT_URL"]: 50}
    assert found["connect_ms"]["n"] == 50
    assert not any("rearmed" in record["findings"] for record in done.records)
    assert "agent any, dispatch by backend, session-first" in done.stdout
    assert {record["agent_name"] for record in done.records} == {"*"}


FAULTS = {
    "": ("ok", ""),
    "camel": ("ok", ""),
    "other name": ("ok", ""),
    "429": ("rate_limited", "HTTP 429: slow down"),
    "500": ("session_failed", "HTTP 500: what is …? (token)"),
    "slow": ("session_failed", "no answer within 8 s"),
    "garbage": ("session_failed", "its answer is no JSON"),
    "no token": ("session_failed", "its answer has no participant_token (it has server_url, token)"),
    "reset": ("session_failed", "closed by the server"),
    "wrong token": ("connect_failed", "HTTP 401"),
    "cloud": (
        "session_failed",
        "server_url leads to LiveKit Cloud (p.livekit.cloud), where every session is",
    ),
    "nowhere": ("connect_failed", "connection refused"),
}


def test_each_fault_of_the_backend_is_told_as_what_it_is(burst: Burst, stack: Stack) -> None:
    faults = {f"user-{number}": fault for number, fault in enumerate(FAULTS)}
    with TokenEndpoint(stack.env(), faults) as endpoint:
        options = (*backed(endpoint), "--session-timeout", "8")
        done = burst(len(FAULTS), *options, env=without_key(stack))
    assert done.code == 10, done.stdout + done.stderr
    found = {}
    for record in done.records:
        outcome = next(iter(record["findings"]))
        found[faults[f"user-{record['ordinal']}"]] = (outcome, record["findings"][outcome])
    assert {fault: outcome for fault, (outcome, _) in found.items()} == {
        fault: outcome for fault, (outcome, _) in FAULTS.items()
    }
    wrong = [fault for fault, (_, cause) in FAULTS.items() if not found[fault][1].startswith(cause)]
    assert wrong == [], found
    assert "eyJ" not in json.dumps(done.records)


def test_with_a_key_all_is_read_and_deleted_as_before(burst: Burst, stack: Stack) -> None:
    with TokenEndpoint(stack.env()) as endpoint:
        done = burst(5, *backed(endpoint), env=stack.env())
    assert (done.code, done.outcomes) == (0, {"ok": 5}), done.stdout + done.stderr
    assert done.summary["phases"]["server_queue"]["n"] == done.summary["phases"]["accept_to_join"]["n"] == 5
    assert all(record["dispatch_id"] and record["job_id"] for record in done.records)
    assert done.summary["server_clock"]["contradicted"] == 0
    assert done.summary["backend"]["api_key"]
    assert NO_KEY_LINE not in " ".join(done.stdout.split())
    assert open_rooms(stack, [record["room"] for record in done.records]) == ()


def test_no_agent_and_no_key_is_not_blamed_on_anybody_s_word(burst: Burst, stack: Stack) -> None:
    with TokenEndpoint(stack.env()) as endpoint:
        options = (*backed(endpoint), "--session-timeout", "3")
        done = burst(2, *options, "--metadata", '{"lk": {"fault": "ignore"}}', env=without_key(stack))
    assert done.outcomes == {"never_assigned": 2}
    cause = "no agent came; whether a worker took a job is not known without an API key"
    assert done.causes("never_assigned") == {cause}


def test_a_witness_and_two_processes(burst: Burst, stack: Stack) -> None:
    with TokenEndpoint(stack.env()) as endpoint:
        options = (*backed(endpoint), "--witness", "2", "--processes", "2")
        done = burst(4, *options, env=without_key(stack))
    assert (done.code, done.outcomes) == (0, {"ok": 4}), done.stdout + done.stderr
    assert {record["engine"] for record in done.records} == {"listen", "sdk"}
    assert all("session_created" in record["marks_ns"] for record in done.records)


LOCUSTFILE = """
import os

from livekit import api
from livekit.protocol.agent_dispatch import RoomAgentDispatch
from livekit.protocol.room import RoomConfiguration

from lk_users import AgentUser


class Caller(AgentUser):
    def credentials(self, session):
        if session.ordinal == 1:
            raise LookupError("no seat left")
        if session.ordinal == 2:
            return "no URL"
        if session.ordinal == 3:
            return "wss://p.livekit.cloud", "eyJ.e30.x"
        token = api.AccessToken(os.environ["OWN_KEY"], os.environ["OWN_SECRET"])
        token = token.with_identity(session.identity).with_grants(
            api.VideoGrants(room_join=True, room="own-" + session.room)
        )
        agents = [RoomAgentDispatch(agent_name="welcome", metadata=session.metadata)]
        return os.environ["OWN_URL"], token.with_room_config(RoomConfiguration(agents=agents)).to_jwt()
"""


@pytest.mark.parametrize("release", ["barrier", "free"])
def test_credentials_of_the_locustfile(start: Start, stack: Stack, tmp_path: Path, release: str) -> None:
    path = tmp_path / "own.py"
    path.write_text(LOCUSTFILE)
    own = {
        name.replace("LIVEKIT_API_", "OWN_").replace("LIVEKIT_", "OWN_"): v for name, v in stack.env().items()
    }
    options = [
        "-f",
        str(path),
        "--baseline",
        "0",
        "-u",
        "6",
        "-r",
        "6",
        "--release",
        release,
        "--agent-name",
        "welcome",
    ]
    if release == "free":
        options += ["-t", "6", "--stop-timeout", "10"]
    done = start(*options, env=own).finish()
    if release == "free":
        assert done.outcomes["ok"] >= 6, done.stdout + done.stderr
        return
    assert done.outcomes == {"ok": 3, "session_failed": 3}, done.stdout + done.stderr
    assert done.causes("session_failed") == {
        "before T0: credentials() raised LookupError: no seat left",
        "before T0: credentials() returned str, not (url, token)",
        "before T0: credentials(): server_url leads to LiveKit Cloud (p.livekit.cloud), where every session "
        "is billed: not joined without --allow-cloud yes",
    }
    ok = [record for record in done.records if "ok" in record["findings"]]
    assert all(record["room"].startswith("own-lk-") for record in ok)
    assert {record["order"] for record in ok} == {"join-first"}
    assert done.summary["backend"]["asked"] == "credentials"


def test_the_example_of_the_docs(start: Start, stack: Stack, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "own-backend.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "own.py"
    with TokenEndpoint(stack.env(), agent_name="welcome") as endpoint:
        assert EXAMPLE_URL in example
        path.write_text(example.replace(EXAMPLE_URL, endpoint.url.replace(PATH, OWN_PATH)))
        options = ("-u", "3", "-r", "3", "--baseline", "0", "--agent-name", "welcome")
        done = start("-f", str(path), *options, env={}).finish()
        assert len(endpoint.requests) == 3
    assert (done.code, done.outcomes) == (0, {"ok": 3}), done.stdout + done.stderr


def test_free_users_of_a_token_endpoint(start: Start, stack: Stack) -> None:
    with TokenEndpoint(stack.env()) as endpoint:
        options = ("-u", "2", "-r", "2", "--release", "free", "--agent-name", "welcome", "-t", "5")
        done = start(*options, *backed(endpoint), env=without_key(stack)).finish()
    assert done.outcomes["ok"] >= 2, done.stdout + done.stderr


# Refused before the start.


def refused(done: Finished) -> list[str]:
    assert done.code == 12, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert done.run_dirs == []
    return [line for line in done.stderr.splitlines() if "lk-users: " in line]


def test_nothing_listens_there(burst: Burst, stack: Stack) -> None:
    url = f"http://127.0.0.1:{free_port()}/token"
    (line,) = refused(burst(5, "--session-url", url, env=without_key(stack)))
    assert line == f"lk-users: --session-url {url}: connection refused; is your backend listening there?"


def test_no_server_at_livekit_url_and_no_key(burst: Burst, stack: Stack) -> None:
    url = f"ws://127.0.0.1:{free_port()}"
    with TokenEndpoint(stack.env()) as endpoint:
        (line,) = refused(burst(5, *backed(endpoint), env={"LIVEKIT_URL": url}))
        assert endpoint.requests == []
    assert line == f"lk-users: LIVEKIT_URL {url}: connection refused; is a LiveKit server listening there?"


def test_a_check_sends_no_request(burst: Burst, stack: Stack) -> None:
    with TokenEndpoint(stack.env()) as endpoint:
        done = burst(1, *backed(endpoint), env=without_key(stack))
        assert done.code == 0, done.stdout + done.stderr
        assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("options", "environ", "lines"),
    [
        (["--session-url", "ftp://h"], {}, ["--session-url ftp://h: must be http:// or https://"]),
        (["--session-url", "http://me:pw@h/x"], {}, ["--session-url http://h/x: must be without user"]),
        (["--session-body", "{}"], None, ["--session-body: goes nowhere without --session-url"]),
        (["--dispatch", "backend"], None, ["--dispatch backend: needs --session-url, or a locustfile with"]),
        (
            ["--session-url", "http://h/x", "--dispatch", "api", "--order", "join-first"], {},
            ["--dispatch api: with --session-url your backend asks", "--order join-first: with --session-"],
        ),
        (
            ["--session-url", "http://h/x"], {"LK_SESSION_HEADERS": "hunter2"},
            ["LK_SESSION_HEADERS: must be a JSON object of strings"],
        ),
        (
            ["--session-url", "http://h/x"], {"LIVEKIT_API_KEY": "devkey"},
            ["LIVEKIT_URL is not set", "LIVEKIT_API_SECRET is not set"],
        ),
        (
            ["--session-url", "http://h/x"], {"LIVEKIT_URL": "wss://p.livekit.cloud"},
            ["wss://p.livekit.cloud: LiveKit Cloud bills agent minutes"],
        ),
        (
            ["--session-url", "http://h/x", "--ice", "relay"], {},
            ["--ice relay: without LIVEKIT_API_KEY no TURN server can be tried"],
        ),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_start_that_will_not_do(
    burst: Burst, options: list[str], environ: dict[str, str] | None, lines: list[str]
) -> None:
    found = refused(burst(5, *options, env=environ))
    assert len(found) == len(lines), found
    assert all(line.startswith(f"lk-users: {told}") for line, told in zip(found, lines, strict=True)), found
    assert "hunter2" not in "".join(found)
