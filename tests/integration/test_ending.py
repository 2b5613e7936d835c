"""However a run ends, every intended session has its record, and the blame is right."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lk_users.local.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Finished, Running

    Burst = Callable[..., Finished]
    Start = Callable[..., Running]

pytestmark = pytest.mark.real

WAITING = ("--agent-name", "welcome", "--metadata", '{"lk": {"fault": "ignore"}}')


def in_mid_burst(start: Start, *options: str, users: int = 5) -> Running:
    """A run whose sessions all wait for an agent that will not come."""
    running = start("-u", str(users), "-r", str(users), *WAITING, *options)
    running.wait_for_text(f"{users} wait")
    return running


def assert_stopped(done: Finished, users: int) -> None:
    assert (done.code, done.summary["verdict"]) == (11, "VOID"), done.stdout
    assert done.summary["sessions"]["recorded"] == done.summary["sessions"]["intended"] == users
    assert done.outcomes == {"cancelled": users}
    assert "VOID" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_mid_burst_cancels_what_is_open(start: Start, number: int) -> None:
    running = in_mid_burst(start)
    running.signal(number)
    assert_stopped(running.finish(), 5)


def test_run_time_in_mid_burst_cancels_what_is_open(start: Start) -> None:
    assert_stopped(in_mid_burst(start, "-t", "6s").finish(), 5)


def test_ctrl_c_ends_all_processes(start: Start) -> None:
    running = in_mid_burst(start, "--processes", "2", users=6)
    running.signal_group(signal.SIGINT)
    assert_stopped(running.finish(), 6)


def test_ctrl_c_while_users_park_ends_at_once(start: Start) -> None:
    running = start("-u", "20", "-r", "1", "--agent-name", "welcome")
    running.wait_for_text("users parked")
    running.signal(signal.SIGINT)
    done = running.finish(20)
    assert (done.code, done.summary["verdict"]) == (11, "VOID")
    assert "Traceback" not in done.stderr


def test_a_killed_server_is_the_targets_doing(start: Start) -> None:
    with Stack(say=lambda line: None) as own:
        options = ("-u", "10", "-r", "10", *WAITING, "--session-timeout", "20")
        running = start(*options, env=own.env())
        running.wait_for_text("10 wait")
        running.wait_for(lambda: "10 wait" in running.output())
        assert own.server.pid is not None
        os.kill(own.server.pid, signal.SIGKILL)
        done = running.finish(45)
    assert (done.code, done.summary["verdict"]) == (10, "SLO_FAILED"), done.stdout
    assert done.summary["sessions"]["recorded"] == done.summary["sessions"]["intended"] == 10
    assert set(done.outcomes) <= {"connection_lost", "connect_failed", "dispatch_failed"}


def test_a_frozen_generator_voids_its_own_run(start: Start) -> None:
    running = in_mid_burst(start, "--session-timeout", "8")
    running.signal(signal.SIGSTOP)
    time.sleep(2)  # the stall itself
    running.signal(signal.SIGCONT)
    done = running.finish()
    assert (done.code, done.summary["verdict"]) == (11, "VOID")
    stalls = [
        re.search(r"asyncio loop stalled for (\d+) ms", reason) for reason in done.summary["void_reasons"]
    ]
    assert any(stall is not None and 1900 <= int(stall[1]) <= 4000 for stall in stalls)
    assert done.summary["sessions"]["recorded"] == 5


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_killed_worker_is_the_generators_doing(start: Start) -> None:
    running = in_mid_burst(start, "--processes", "2", "--session-timeout", "12", users=6)
    victim = children_of(running.process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    done = running.finish()
    assert (done.code, done.summary["verdict"]) == (11, "VOID"), done.stdout
    assert done.summary["sessions"]["recorded"] == done.summary["sessions"]["intended"] == 6
    assert done.outcomes["generator_lost"] == 3
    assert any("was lost" in reason for reason in done.summary["void_reasons"])


def report_again(run_dir: Path) -> tuple[int, dict[str, bytes]]:
    command = [sys.executable, "-m", "lk_users.cli", "report", str(run_dir)]
    code = subprocess.run(command, capture_output=True, check=False).returncode
    names = ("summary.json", "summary.md", "records.jsonl")
    return code, {name: (run_dir / name).read_bytes() for name in names}


def test_a_report_from_disk_equals_the_live_one(burst: Burst) -> None:
    done = burst(4, "--slo", "p50(first_audio) <= 1 ms")
    live = {
        name: (done.run_dir / name).read_bytes() for name in ("summary.json", "summary.md", "records.jsonl")
    }
    for name in live:
        (done.run_dir / name).unlink()
    assert report_again(done.run_dir) == (10, live)
