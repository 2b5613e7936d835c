"""The witness against the real stack: users on the official SDK beside ours, and the end of their process."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from conftest import children, free_port, without_library

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Finished, Running

pytestmark = pytest.mark.real

USERS = ("-u", "12", "-r", "12", "--agent-name", "welcome", "--witness", "6")
SDK_CHILD = "lk_users.engines.sdk_child"
SLOW = json.dumps({"lk": {"fault": "slow_welcome", "delay_ms": 5000}})


def test_both_engines_hear_their_welcome(burst: Callable[..., Finished]) -> None:
    done = burst(12, "--witness", "6")
    assert (done.code, done.outcomes) == (0, {"ok": 12}), done.stdout
    witness = done.summary["witness"]
    assert witness["outcomes"] == {"listen": {"ok": 6}, "sdk": {"ok": 6}}
    assert witness["cpu_s"] > 0
    assert "6 sessions beside 6 of engine listen ran on the official livekit SDK" in done.stdout
    mine = [record for record in done.records if record["engine"] == "sdk"]
    assert [record["ordinal"] for record in mine] == [1, 3, 5, 7, 9, 11]
    for record in mine:
        marks = record["marks_ns"]
        assert 0 <= marks["fired"] < marks["connected"] == marks["media_up"] < marks["first_audio"]
        assert marks["agent_joined"] <= marks["agent_seen"] <= marks["agent_track"] <= marks["first_audio"]
        assert all(record[name] for name in ("room_sid", "participant_sid", "agent_sid", "job_id"))
        assert record["evidence"]["sdk"].startswith("1.")
        assert record["evidence"]["mic"] == "silence"
        assert record["evidence"].get("worst_quality", "good") in ("good", "excellent")
        # Louder than its threshold, and no later than a jitter buffer can hold it.
        assert record["evidence"]["audible_dbfs"] > -30
        assert 0 < record["evidence"].get("receive_delay_ms", 1.0) < 500
    for path in done.run_dir.rglob("*"):
        assert path.is_dir() or b"eyJ" not in without_library(path.read_bytes()), f"a token in {path}"


def test_a_killed_child_costs_its_own_sessions_only(start: Callable[..., Running]) -> None:
    running = start(*USERS, "--metadata", SLOW)
    running.wait_for_text("12 wait")
    (child,) = children(running.process.pid, SDK_CHILD)
    os.kill(child.pid, signal.SIGKILL)
    done = running.finish()
    assert (done.code, done.summary["verdict"]) == (11, "VOID")
    assert done.outcomes == {"engine_crashed": 6, "ok": 6}
    assert len(done.records) == 12
    crashed = [record for record in done.records if "engine_crashed" in record["findings"]]
    assert {record["engine"] for record in crashed} == {"sdk"}
    assert done.causes("engine_crashed") == {"its SDK child ended: killed by SIGKILL"}


def test_ctrl_c_ends_the_run_and_not_its_children(start: Callable[..., Running]) -> None:
    """A terminal's goes to all processes: sessions are cancelled, not crashed."""
    running = start(*USERS, "--metadata", SLOW)
    running.wait_for_text("12 wait")
    running.signal_group(signal.SIGINT)
    done = running.finish()
    assert (done.code, done.outcomes) == (11, {"cancelled": 12}), done.stdout


def test_children_end_with_a_worker_that_is_killed(start: Callable[..., Running]) -> None:
    running = start(*USERS, "--metadata", SLOW)
    running.wait_for_text("12 wait")
    assert len(children(running.process.pid, SDK_CHILD)) == 1
    running.signal(signal.SIGKILL)
    running.process.wait()
    assert running.group_is_gone()


def test_a_worker_elsewhere_knows_only_what_its_master_tells(start: Callable[..., Running]) -> None:
    """Options that depend on the size of the burst, which no message of Locust's has."""
    port = str(free_port())
    worker = start("--worker", "--master-host", "127.0.0.1", "--master-port", port)
    options = ("--witness", "2", "--batch-size", "2", "--batch-delay", "0.1")
    master = start(
        "-u", "4", "-r", "4", "--agent-name", "welcome", *options, "--master", "--expect-workers", "1",
        "--master-bind-host", "127.0.0.1", "--master-bind-port", port,
    )  # fmt: skip
    done = master.finish()
    assert (done.code, done.outcomes) == (0, {"ok": 4}), done.stdout + done.stderr
    assert [record["engine"] for record in done.records] == ["listen", "sdk", "listen", "sdk"]
    assert worker.process.wait(30) == 0


def test_each_worker_process_has_its_own_children(start: Callable[..., Running]) -> None:
    running = start(*USERS, "--processes", "2", "--metadata", SLOW)
    running.wait_for_text("12 wait")
    found = children(running.process.pid, SDK_CHILD)
    assert len({process.ppid() for process in found}) == len(found) == 2
    os.kill(found[0].pid, signal.SIGKILL)
    done = running.finish()
    assert done.outcomes == {"engine_crashed": 3, "ok": 9}
