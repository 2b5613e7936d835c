"""The real agent's environment, made with stand-ins for venv and pip; its start, with one for the program."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from lk_users.errors import StackError
from lk_users.local import real_agent

if TYPE_CHECKING:
    from pathlib import Path

# `python -m venv DIR` makes one whose python notes how it is called, and fails as its file `fails` says.
PYTHON = """#!/bin/sh
echo "$*" >> "{calls}"
if [ "$2" = venv ]; then
    mkdir -p "$3/bin"
    printf '#!/bin/sh\\necho "$*" >> "{calls}"\\ncase "$*" in *"$(cat {fails})"*) ' > "$3/bin/python"
    echo 'echo no matching distribution >&2; exit 1;; esac' >> "$3/bin/python"
    chmod +x "$3/bin/python"
fi
"""


class Bench:
    """A folder with pins, an empty cache, and the stand-in for Python."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "agents"
        self.folder.mkdir()
        (self.folder / "requirements.txt").write_text("livekit-agents==1.8.9\n")
        self.cache = root / "cache"
        self._calls, self._fails = root / "calls", root / "fails"
        self.python = root / "python"
        self.python.write_text(PYTHON.format(calls=self._calls, fails=self._fails))
        self.python.chmod(0o755)
        self.fail_at("nothing")

    def fail_at(self, text: str) -> None:
        self._fails.write_text(text)

    def calls(self) -> list[str]:
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.unlink(missing_ok=True)
        return [" ".join(line.split()[:3]) for line in lines]


MADE = ["-m venv", "-m pip install", "-c import livekit.agents"]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setattr(sys, "executable", str(made.python))
    monkeypatch.setenv("LK_CACHE_DIR", str(made.cache))
    return made


@pytest.fixture
def said() -> list[str]:
    return []


def started(calls: list[str]) -> list[str]:
    return [next(step for step in MADE if call.startswith(step)) for call in calls]


def test_is_made_once_and_kept_by_its_pins(bench: Bench, said: list[str]) -> None:
    python = real_agent.environment(bench.folder, said.append)
    assert python.is_relative_to(bench.cache)
    assert started(bench.calls()) == MADE
    assert said[0] == "making the real agent's environment with pip (about a minute, only this once) …"
    assert said[1].startswith("made the real agent's environment in 0 s, kept as ")
    assert real_agent.environment(bench.folder, said.append) == python
    assert bench.calls() == []
    (bench.folder / "requirements.txt").write_text("livekit-agents==1.8.10\n")
    assert real_agent.environment(bench.folder, said.append) != python
    assert started(bench.calls()) == MADE


@pytest.mark.parametrize("step", ["pip install", "import livekit"])
def test_a_failed_one_is_said_and_never_counts(bench: Bench, said: list[str], step: str) -> None:
    bench.fail_at(step)
    with pytest.raises(StackError) as caught:
        real_agent.environment(bench.folder, said.append)
    [fault] = caught.value.faults
    assert f"no environment for the real agent: {step.split(' livekit')[0]} ended with code 1" in fault
    assert "no matching distribution" in fault
    assert "apt install python3-venv" in fault
    assert f"pip download -r {bench.folder / 'requirements.txt'}" in fault
    bench.calls()
    bench.fail_at("nothing")
    real_agent.environment(bench.folder, said.append)
    assert started(bench.calls()) == MADE


def test_what_a_killed_maker_left_is_made_anew(bench: Bench, said: list[str]) -> None:
    python = real_agent.environment(bench.folder, said.append)
    bench.calls()
    (python.parent.parent.parent / "ready").unlink()
    assert real_agent.environment(bench.folder, said.append) == python
    assert started(bench.calls()) == MADE


def test_is_made_anew_when_its_python_is_gone(bench: Bench, said: list[str]) -> None:
    python = real_agent.environment(bench.folder, said.append)
    bench.calls()
    python.unlink()
    python.symlink_to("/nowhere/python")
    assert real_agent.environment(bench.folder, said.append) == python
    assert started(bench.calls()) == MADE


def test_a_second_maker_waits_and_takes_what_the_first_made(bench: Bench, said: list[str]) -> None:
    python = real_agent.environment(bench.folder, said.append)
    home = python.parent.parent.parent
    (home / "ready").unlink()
    bench.calls()
    looks = [0]
    with (home / "build.lock").open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)

        def pause(_: float) -> None:
            looks[0] += 1
            if looks[0] == 3:
                (home / "ready").touch()
                fcntl.flock(first, fcntl.LOCK_UN)

        assert real_agent.environment(bench.folder, said.append, pause=pause) == python
    assert bench.calls() == []
    assert said[-1] == "another process is making the real agent's environment: waiting for it …"


def test_a_folder_without_pins(tmp_path: Path, said: list[str]) -> None:
    with pytest.raises(StackError, match=r"cannot read .*requirements\.txt: No such file"):
        real_agent.environment(tmp_path, said.append)


def agent(tmp_path: Path, body: str) -> real_agent.RealAgent:
    """A program in the agent's place."""
    program = tmp_path / "program"
    program.write_text(body)
    log = tmp_path / "agent.log"
    shell = tmp_path / "sh"
    shell.symlink_to("/bin/sh")
    return real_agent.RealAgent(shell, program, log, {"LIVEKIT_URL": "ws://127.0.0.1:1"})


def living(group: int) -> list[str]:
    """The members of a process group; zombies, which wait for their new parent to notice, are none."""
    found = []
    for process in psutil.process_iter(["name", "status"]):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.info["name"])
    return found


LISTENS = 'echo \'{"message": "HTTP server listening on 127.0.0.1:4321"}\'\n'
REGISTERED = 'echo \'{"message": "registered worker", "id": "AW_1"}\'\n'


def test_it_is_started_when_it_is_registered_and_nothing_of_it_stays(tmp_path: Path) -> None:
    with agent(tmp_path, f"{LISTENS}test $LIVEKIT_URL = ws://127.0.0.1:1 && {REGISTERED}sleep 60") as running:
        assert running.url == "http://127.0.0.1:4321"
        group = running.pid
        assert group is not None
        assert living(group)
    # Killed, which takes a moment to be dead.
    deadline_s = time.monotonic() + 2.0
    while living(group) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert living(group) == []


def test_the_environment_steers_it_only_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LIVEKIT_AGENT_NAME", "GREETER_LOAD_THRESHOLD", "HTTPS_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "outside")
    with agent(tmp_path, f"env\n{LISTENS}{REGISTERED}sleep 60") as running:
        told = running.log.read_text()
    assert "outside" not in told
    assert "LIVEKIT_URL=ws://127.0.0.1:1\n" in told
    assert "GREETER_HTTP=127.0.0.1:0\n" in told


def test_one_that_ends_before_says_how(tmp_path: Path) -> None:
    running = agent(tmp_path, f"{LISTENS}echo no key >&2; exit 3")
    with pytest.raises(
        StackError, match=r"the real agent ended with code 3 before it was registered; .*no key"
    ):
        running.start()
    assert running.pid is None


def test_one_that_never_registers_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_agent, "READY_S", 0.3)
    running = agent(tmp_path, f"{LISTENS}sleep 60")
    with pytest.raises(StackError, match=r"the real agent was not registered within 0 s; the end of its log"):
        running.start()
    assert running.pid is None
