"""However a run ends, every intended session has its record, and the blame is right."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from conftest import children

from lk_users.local.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Finished, Running

    Burst = Callable[..., Finished]
    Start = Callable[..., Running]

pytestmark = pytest.mark.real

WAITING = ("--agent-name", "welcome", "--metadata", '{"lk": {"fault": "ignore"}}')
SERVER_GONE = {"connection_lost", "connect_failed", "dispatch_failed"}
REPORT_FILES = ("summary.json", "summary.md", "junit.xml", "records.jsonl", "report.html")
SUPPORT_FILES = ("support.md", "support.zip")


def in_mid_burst(start: Start, *options: str, users: int = 5) -> Running:
    """A run whose sessions all wait for an agent that will not come."""
    running = start("-u", str(users), "-r", str(users), *WAITING, *options)
    running.wait_for_text(f"{users} wait")
    return running


def assert_all_recorded(done: Finished, users: int) -> None:
    sessions = done.summary["sessions"]
    assert (sessions["intended"], sessions["recorded"]) == (users, users)
    assert len({record["session_id"] for record in done.records}) == len(done.records) == users
    assert "Traceback" not in done.stderr + done.stdout


def assert_void(done: Finished) -> None:
    assert (done.code, done.summary["verdict"], done.summary["exit_code"]) == (11, "VOID", 11), done.stdout


def assert_stopped(done: Finished, users: int) -> None:
    assert_void(done)
    assert_all_recorded(done, users)
    assert done.outcomes == {"cancelled": users}
    reason = f"{users} sessions were cancelled: the run was stopped before their outcome"
    assert reason in done.summary["void_reasons"]
    assert done.stdout.count("VOID: ") == 1
    assert reason in done.stdout


def assert_made_again_from_disk(done: Finished) -> None:
    """``lk-users report`` makes the same bytes, and ends with the same code."""
    names = REPORT_FILES if done.code == 0 else (*REPORT_FILES, *SUPPORT_FILES)
    live = {name: (done.run_dir / name).read_bytes() for name in names}
    for name in live:
        (done.run_dir / name).unlink()
    command = [sys.executable, "-m", "lk_users.cli", "report", str(done.run_dir)]
    again = subprocess.run(command, capture_output=True, check=False)
    assert again.returncode == done.code
    assert {name: (done.run_dir / name).read_bytes() for name in names} == live
    assert [(done.run_dir / name).exists() for name in SUPPORT_FILES] == [done.code != 0] * 2


def test_sigint_in_mid_burst_cancels_what_is_open(start: Start) -> None:
    running = in_mid_burst(start)
    running.signal(signal.SIGINT)
    done = running.finish()
    assert_stopped(done, 5)
    assert_made_again_from_disk(done)


def test_sigterm_in_mid_burst_cancels_what_is_open(start: Start) -> None:
    running = in_mid_burst(start)
    running.signal(signal.SIGTERM)
    assert_stopped(running.finish(), 5)


def test_run_time_in_mid_burst_cancels_what_is_open(start: Start) -> None:
    assert_stopped(in_mid_burst(start, "-t", "4s").finish(), 5)


def test_ctrl_c_ends_all_processes(start: Start) -> None:
    running = in_mid_burst(start, "--processes", "2", users=6)
    running.signal_group(signal.SIGINT)
    assert_stopped(running.finish(), 6)


def test_sigterm_to_the_master_alone_ends_all_processes(start: Start) -> None:
    running = in_mid_burst(start, "--processes", "2", users=6)
    running.signal(signal.SIGTERM)
    done = running.finish()
    assert_stopped(done, 6)
    assert_made_again_from_disk(done)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_users_park_ends_at_once(start: Start, number: int) -> None:
    running = start("-u", "15", "-r", "1", "--agent-name", "welcome")
    running.wait_for_text("of 15 users parked")
    running.signal(number)
    done = running.finish(5)
    assert_void(done)
    assert_all_recorded(done, 0)
    assert "no session was recorded: nothing was measured" in done.stdout
    assert "KeyboardInterrupt" not in done.stderr


def test_a_killed_server_is_the_targets_doing(start: Start) -> None:
    with Stack(say=lambda line: None) as own:
        options = ("-u", "10", "-r", "10", *WAITING, "--session-timeout", "20")
        running = start(*options, env=own.env())
        running.wait_for_text("10 wait")
        assert own.server.pid is not None
        os.kill(own.server.pid, signal.SIGKILL)
        done = running.finish(40)
    assert (done.code, done.summary["verdict"]) == (10, "SLO_FAILED"), done.stdout
    assert_all_recorded(done, 10)
    assert set(done.outcomes) <= SERVER_GONE
    assert "the target's doing" in done.stdout
    assert done.summary["void_reasons"] == []


def test_a_frozen_server_is_the_targets_doing(start: Start) -> None:
    """It takes every request and answers none: all that waits for it has an end, and none of it is ours."""
    with Stack(say=lambda line: None) as own:
        options = ("-u", "40", "-r", "40", *WAITING, "--session-timeout", "6", "--trailer-timeout", "15")
        running = start(*options, env=own.env())
        running.wait_for_text("40 wait")
        assert own.server.pid is not None
        os.kill(own.server.pid, signal.SIGSTOP)
        try:
            done = running.finish(60)
        finally:
            os.kill(own.server.pid, signal.SIGCONT)
    assert (done.code, done.summary["verdict"]) == (10, "SLO_FAILED"), done.stdout
    assert_all_recorded(done, 40)
    assert done.summary["void_reasons"] == []
    assert done.outcomes == {"never_assigned": 40}
    unread = "no agent came, and the API could not be asked: "
    causes = {cause.removeprefix(unread) for cause in done.causes("never_assigned")}
    timed_out = "connection timed out"
    assert causes == {timed_out, f"not asked, since the server no longer answered: {timed_out}"}


def test_a_frozen_generator_voids_its_own_run(start: Start) -> None:
    running = in_mid_burst(start, "--session-timeout", "8")
    running.signal(signal.SIGSTOP)
    time.sleep(2)  # the stall itself
    running.signal(signal.SIGCONT)
    done = running.finish()
    assert_void(done)
    assert_all_recorded(done, 5)
    stalls = [re.search(r"loop stalled for (\d+) ms", reason) for reason in done.summary["void_reasons"]]
    assert max(int(stall[1]) for stall in stalls if stall) > 1000
    assert "loop stalled for" in done.stdout


def test_two_processes_share_a_burst(burst: Burst) -> None:
    done = burst(10, "--processes", "2")
    assert (done.code, done.summary["verdict"]) == (0, "PASS"), done.stdout
    assert_all_recorded(done, 10)
    assert done.outcomes == {"ok": 10}
    assert [worker["sessions"] for worker in done.summary["workers"]] == [5, 5]
    assert done.summary["start_error_ms"]["p99"] < 50
    assert_made_again_from_disk(done)


def test_a_killed_worker_is_the_generators_doing(start: Start) -> None:
    running = in_mid_burst(start, "--processes", "2", "--session-timeout", "12", users=6)
    victim, _ = psutil.Process(running.process.pid).children()
    victim.kill()
    done = running.finish()
    assert_void(done)
    assert_all_recorded(done, 6)
    assert done.outcomes == {"generator_lost": 3, "never_assigned": 3}
    (lost,) = {record["worker"] for record in done.records if "generator_lost" in record["findings"]}
    assert any(
        reason.startswith(f"worker {lost} (local) was lost") for reason in done.summary["void_reasons"]
    )
    assert_made_again_from_disk(done)


def test_who_makes_the_page_begins_before_the_end_and_ends_with_a_leader_that_is_killed(start: Start) -> None:
    def makers() -> list[psutil.Process]:
        return children(running.process.pid, "lk_users.report.page.write")

    running = start("-u", "5", "-r", "5", "--agent-name", "welcome")
    running.wait_for(lambda: bool(makers()))
    (maker,) = makers()
    (run_dir,) = running.runs.iterdir()
    assert not (run_dir / "summary.json").exists()
    running.signal(signal.SIGKILL)
    assert psutil.wait_procs([maker], timeout=10)[1] == []
    assert not (run_dir / "report.html").exists()


def test_a_failed_run_is_made_again_from_disk(burst: Burst) -> None:
    done = burst(4, "--slo", "p50(first_audio) <= 1 ms")
    assert (done.code, done.summary["verdict"]) == (10, "SLO_FAILED"), done.stdout
    assert_made_again_from_disk(done)
