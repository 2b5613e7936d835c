"""``lk-users probe``: the right proposal for agents that speak, write, stay silent, and for none at all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import FOREIGN, ROOT, free_port, open_rooms
from token_endpoint import TokenEndpoint

from lk_users.errors import StackError
from lk_users.local import real_agent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lk_users.local.stack import Stack

pytestmark = pytest.mark.real

WELCOME = "Welcome, how can I help"
AGENTS = ROOT / "docker" / "agents"


def probe(environ: Mapping[str, str], *options: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a probe as it is typed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    done = subprocess.run(
        [sys.executable, "-m", "lk_users.cli", "probe", *options],
        env={**clean, **environ}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def fault(name: str) -> tuple[str, str]:
    return "--metadata", json.dumps({"lk": {"fault": name}})


def proposal(stdout: str) -> str:
    (line,) = [line for line in stdout.splitlines() if line.startswith("Proposal: ")]
    return line.removeprefix("Proposal: ")


def moment_s(stdout: str, text: str) -> float:
    """When the timeline says so, from the first write."""
    found = re.search(rf"^ *([\d.]+) s  .*{text}", stdout, re.MULTILINE)
    assert found is not None, stdout
    return float(found[1])


def test_the_reference_agent_is_heard_and_read(stack: Stack) -> None:
    code, out, err = probe(stack.env(), "--agent-name", "welcome")
    assert code == 0, out + err
    assert proposal(out) == f"--welcome audio,text --expect-text '{WELCOME}'"
    assert out.splitlines()[-1] == (
        "  locust -f locustfiles/burst.py --headless -u 50 -r 50 --agent-name welcome "
        f"--welcome audio,text --expect-text '{WELCOME}'"
    )
    joined, speaking = moment_s(out, "the agent joined"), moment_s(out, "lk.agent.state = speaking")
    assert 0 < joined < moment_s(out, "agent seen: agent-AJ_")
    assert moment_s(out, "the microphone of the agent reaches the user") <= moment_s(out, "HEARD: the agent")
    heard, over = moment_s(out, "HEARD: the agent"), moment_s(out, "the agent is silent again")
    assert abs(heard - speaking) < 0.5
    (length,) = re.findall(r"the agent is silent again: ([\d.]+) s of sound", out)
    assert float(length) == pytest.approx(over - heard, abs=0.06)
    assert 1.0 <= float(length) < 4.0
    assert f"READ: transcription of the agent, final: '{WELCOME}?'" in out
    # The transcript of the reference agent follows its voice by 300 ms.
    assert moment_s(out, "READ") - heard == pytest.approx(0.3, abs=0.2)
    assert "The room also asked for the unnamed agent" in out
    (room,) = re.findall(r"one session in room (lk-probe-[\w-]+),", out)
    assert open_rooms(stack, [room]) == ()


@pytest.mark.parametrize(
    ("name", "proposed", "said"),
    [
        ("silent", "--welcome state,track", "its audio came, and is silent"),
        ("freeze", "--welcome track", "It was neither heard nor read in 5 s."),
        ("text_only", f"--welcome text --expect-text '{WELCOME}'", "Nothing of it was heard, but it wrote"),
    ],
)
def test_an_agent_that_is_not_heard(stack: Stack, name: str, proposed: str, said: str) -> None:
    options = ("--agent-name", "welcome", "--dispatch", "token", "--for", "5", *fault(name))
    code, out, err = probe(stack.env(), *options)
    assert (code, proposal(out)) == (0, proposed), out + err
    assert said in out
    assert "HEARD" not in out
    assert f"--dispatch token --metadata '{fault(name)[1]}' {proposed}" in out.splitlines()[-1]


def test_no_agent_of_that_name(stack: Stack) -> None:
    code, out, _ = probe(stack.env(), "--agent-name", "wellcome", "--wait", "5")
    assert code == 10
    assert "No agent came within 5 s: no agent worker got the job (never_assigned: " in out
    assert "a worker must be registered under exactly this name" in out
    assert "Proposal" not in out


def test_an_agent_that_declines(stack: Stack) -> None:
    code, out, _ = probe(stack.env(), "--agent-name", "welcome", "--wait", "3", *fault("reject"))
    assert code == 10
    assert "No agent came within 3 s: an agent worker declined the job (rejected: " in out


def test_a_real_agent_is_heard_and_read(stack: Stack, tmp_path: Path) -> None:
    try:
        python = real_agent.environment(AGENTS, print)
    except StackError as error:
        pytest.fail(str(error), pytrace=False)
    env = {**stack.env(), "LIVEKIT_AGENT_NAME": "greeter", "GREETER_LOAD_THRESHOLD": "inf"}
    with real_agent.RealAgent(python, AGENTS / "greeter.py", tmp_path / "agent.log", env) as agent:
        agent.rest()
        code, out, err = probe(stack.env(), "--agent-name", "greeter")
        # A worker that is busy, be it with the end of a job, is offered none.
        agent.rest()
        silent_code, silent, _ = probe(stack.env(), "--agent-name", "greeter", "--for", "5", *fault("silent"))
    assert code == 0, out + err
    assert proposal(out) == "--welcome audio,text --expect-text 'Hello, this is a real'"
    assert "published a track: roomio_audio (audio, microphone)" in out
    (length,) = re.findall(r"the agent is silent again: ([\d.]+) s of sound", out)
    # Its greeting is two seconds long.
    assert float(length) == pytest.approx(2.0, abs=0.4)
    assert "final: 'Hello, this is a real agent speaking.'" in out
    # An AgentSession that says nothing publishes its track all the same.
    assert (silent_code, proposal(silent)) == (0, "--welcome track"), silent


@pytest.mark.parametrize("url", ["known", "not known"])
def test_a_session_of_the_users_own_backend_without_a_key(stack: Stack, url: str) -> None:
    with TokenEndpoint(stack.env()) as endpoint:
        given = {"LK_SESSION_AUTHORIZATION": "Bearer app-key-hunter2"}
        if url == "known":
            given["LIVEKIT_URL"] = stack.env()["LIVEKIT_URL"]
        code, out, err = probe(given, "--agent-name", "welcome", "--session-url", endpoint.url)
        requests = len(endpoint.requests)
    assert (code, requests) == (0, 1), out + err
    assert proposal(out) == f"--welcome audio,text --expect-text '{WELCOME}'"
    assert "one session in room own-lk-probe-" in out
    written, answered = (
        moment_s(out, "the request to your backend was written"),
        moment_s(out, "your backend answered"),
    )
    assert 0 == written < answered <= moment_s(out, "the user is in the room")
    assert f"--agent-name welcome --session-url {endpoint.url} --welcome audio,text" in out.splitlines()[-1]
    assert "hunter2" not in out + err


def test_a_backend_that_gives_nothing(stack: Stack) -> None:
    with TokenEndpoint(stack.env(), faults={"user-0": "500"}) as endpoint:
        code, out, _ = probe(stack.env(), "--agent-name", "welcome", "--session-url", endpoint.url)
    assert code == 10
    assert "(session_failed: HTTP 500" in " ".join(out.split())
    assert "your backend gave nothing to join with" in out


@pytest.mark.parametrize(
    ("options", "changes", "lines"),
    [
        (("--wait", "soon", "--for", "0"), {}, ["--wait soon: must be", "--for 0: must be"]),
        (("--dispatch", "mail", "--agent-name", "a"), {}, ["--dispatch mail: unknown"]),
        (("--agent-name", "a"), {"LIVEKIT_URL": ""}, ["LIVEKIT_URL is not set"]),
        (("--agent-name", "a"), {"LIVEKIT_API_SECRET": "w" * 40}, ["ws://127.0.0.1:"]),
        (
            ("--agent-name", "a"),
            {"LIVEKIT_URL": f"ws://127.0.0.1:{free_port()}"},
            ["LIVEKIT_URL ws://127.0.0.1:"],
        ),
    ],
    ids=["seconds", "option", "no url", "wrong secret", "nobody there"],
)
def test_bad_input(stack: Stack, options: tuple[str, ...], changes: dict[str, str], lines: list[str]) -> None:
    code, out, err = probe({**stack.env(), **changes}, *options)
    said = [line for line in err.splitlines() if not line.endswith("…")]
    assert (code, out, len(said)) == (12, "", len(lines)), err
    for line, start in zip(said, lines, strict=True):
        assert line.startswith(f"lk-users: {start}")
