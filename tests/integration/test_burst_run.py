"""Whole bursts by Locust against the real stack: every way to ask, every fault of the agent."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from conftest import open_rooms
from livekit import api as livekit_api

from lk_users.local.stack import Stack
from lk_users.settings.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Finished, Running

    Burst = Callable[..., Finished]
    Start = Callable[..., Running]

pytestmark = pytest.mark.real

IDS = (
    "room_sid",
    "dispatch_id",
    "job_id",
    "worker_id",
    "participant_sid",
    "agent_sid",
    "agent_identity",
)


def fault(name: str, delay_ms: int = 0) -> str:
    return json.dumps({"lk": {"fault": name, "delay_ms": delay_ms}})


def job_metadata(stack: Stack, rooms: list[str]) -> list[str]:
    """What the server was told for the agent's job in each room, as the official client reads it."""
    target = Target.from_environment(stack.env())

    async def ask() -> list[str]:
        async with livekit_api.LiveKitAPI(target.http_url, target.key, target.secret) as client:
            lists = [await client.agent_dispatch.list_dispatch(room) for room in rooms]
        return [dispatch.metadata for found in lists for dispatch in found if dispatch.agent_name]

    return asyncio.run(ask())


def assert_real(record: dict[str, Any]) -> None:
    """Everything that only a real server can have said."""
    assert 0 < record["created_at_ns"] < record["started_at_ns"] <= record["joined_at_ns"] + 1_000_000
    assert all(record[name] for name in IDS), record
    assert record["evidence"].get("worst_quality", "good") in ("good", "excellent")


@pytest.mark.parametrize("way", ["api", "room", "token"])
def test_ten_users_hear_their_welcome_by(burst: Burst, stack: Stack, way: str) -> None:
    done = burst(10, "--dispatch", way)
    assert done.code == 0, done.stdout
    assert done.summary["sessions"]["intended"] == done.summary["sessions"]["recorded"] == 10
    assert done.outcomes == {"ok": 10}
    assert done.summary["start_error_ms"]["n"] == 10
    assert done.summary["start_error_ms"]["p99"] < 50
    assert done.summary["phases"]["server_queue"]["n"] == done.summary["phases"]["accept_to_join"]["n"] == 10
    for record in done.records:
        assert_real(record)
        assert ("ghost_dispatch" in record["findings"]) == (way == "api")
    assert open_rooms(stack, [record["room"] for record in done.records]) == ()


def test_an_unnamed_agent_comes_unasked(burst: Burst) -> None:
    with Stack(agent_name="", say=lambda line: None) as unnamed:
        done = burst(10, "--agent-name", "", env=unnamed.env())
        assert open_rooms(unnamed, [record["room"] for record in done.records]) == ()
    assert (done.code, done.outcomes) == (0, {"ok": 10})
    assert {record["dispatch"] for record in done.records} == {"none"}
    assert done.summary["start_error_ms"]["p99"] < 50
    for record in done.records:
        assert_real(record)
        assert "ghost_dispatch" not in record["findings"]


def test_users_may_join_first(burst: Burst) -> None:
    done = burst(10, "--order", "join-first")
    assert (done.code, done.outcomes) == (0, {"ok": 10})
    assert {(record["dispatch"], record["order"]) for record in done.records} == {("api", "join-first")}
    assert all(record["marks_ns"]["connected"] < record["marks_ns"]["dispatched"] for record in done.records)


def test_batches_start_at_their_offsets(burst: Burst) -> None:
    done = burst(10, "--batch-size", "5", "--batch-delay", "0.5")
    first = done.records[0]["intended_wall_ns"]
    offsets_ms = [(record["intended_wall_ns"] - first) // 1_000_000 for record in done.records]
    assert (done.code, offsets_ms) == (0, [0] * 5 + [500] * 5)
    assert [record["ordinal"] for record in done.records] == list(range(10))
    assert done.summary["start_error_ms"]["n"] == 10
    assert done.summary["start_error_ms"]["max"] < 50


def test_several_bursts_in_one_run(burst: Burst) -> None:
    done = burst(10, "--bursts", "2")
    assert (done.code, done.outcomes) == (0, {"ok": 20})
    assert [record["burst"] for record in done.records] == [1] * 10 + [2] * 10
    assert [record["ordinal"] for record in done.records] == [*range(10), *range(10)]
    assert len({record["room"] for record in done.records}) == 20
    assert done.summary["start_error_ms"]["p99"] < 50


def test_a_welcome_is_all_that_is_listed(burst: Burst) -> None:
    done = burst(5, "--welcome", "state,track,audio,text")
    assert (done.code, done.outcomes) == (0, {"ok": 5})
    for record in done.records:
        marks = record["marks_ns"]
        parts = [marks[name] for name in ("agent_speaking", "agent_track", "first_audio", "first_text")]
        assert marks["welcomed"] == max(parts)


def test_a_slow_join_is_the_workers_time(burst: Burst) -> None:
    done = burst(5, "--metadata", fault("slow_join", 1500))
    assert (done.code, done.outcomes) == (0, {"ok": 5})
    assert done.summary["phases"]["accept_to_join"]["p50"] >= 1400
    assert done.summary["bottleneck"]["phase"] == "accept_to_join"


def test_metadata_reaches_the_job_filled_in(start: Start, stack: Stack) -> None:
    template = {"lk": {"fault": "ignore"}, "who": "{session_id}", "where": "{region}/{burst}/{engine}"}
    options = ("--agent-name", "welcome", "--region", "here", "--session-timeout", "6")
    running = start("-u", "3", "-r", "3", *options, "--metadata", json.dumps(template))
    running.wait_for_text("3 wait")
    (run_dir,) = running.runs.iterdir()
    ids = [f"{run_dir.name}-b1-{ordinal}" for ordinal in range(3)]
    told = [json.loads(text) for text in job_metadata(stack, [f"lk-{name}" for name in ids])]
    assert [item["who"] for item in told] == ids
    assert {item["where"] for item in told} == {"here/1/listen"}
    assert running.finish().outcomes == {"never_assigned": 3}


def test_a_file_of_metadata_goes_round(burst: Burst, tmp_path: Path) -> None:
    lines = tmp_path / "jobs.jsonl"
    lines.write_text(f"{fault('none')}\n{fault('silent')}\n")
    done = burst(4, "--metadata", f"@{lines}", "--session-timeout", "4")
    assert (done.code, done.outcomes) == (10, {"welcome_missing": 2, "ok": 2})
    silent = [record["ordinal"] for record in done.records if "welcome_missing" in record["findings"]]
    assert silent == [1, 3]


def test_users_that_watch_on_stay_well_connected(burst: Burst) -> None:
    """The server's own score of each user's connection, which it gives every 5 s."""
    done = burst(5, "--watch", "6")
    assert (done.code, done.outcomes) == (0, {"ok": 5})
    for record in done.records:
        assert record["evidence"]["worst_quality"] in ("good", "excellent")
        assert record["decided_ns"] >= record["marks_ns"]["welcomed"] + 5_900_000_000


@pytest.mark.parametrize(
    ("metadata", "options", "outcome", "cause"),
    [
        (
            fault("slow_welcome", 3000),
            ("--welcome-timeout", "1", "--slo", "count(welcome_late) == 0"),
            "welcome_late",
            "s after the agent joined",
        ),
        (fault("silent"), (), "welcome_missing", "its audio arrived, but silent"),
        (fault("freeze"), (), "welcome_missing", "its track was there, but it never spoke"),
        (fault("reject"), (), "rejected", "without an agent"),
        (fault("ignore"), (), "never_assigned", "the API lists no job for the dispatch"),
        (fault("end"), (), "agent_ended", "client_initiated"),
    ],
    ids=["slow_welcome", "silent", "freeze", "reject", "ignore", "end"],
)
def test_a_fault_of_the_agent_has_its_name(
    burst: Burst, metadata: str, options: tuple[str, ...], outcome: str, cause: str
) -> None:
    done = burst(3, "--metadata", metadata, "--session-timeout", "6", *options)
    assert (done.code, done.outcomes) == (10, {outcome: 3}), done.stdout
    assert all(cause in found for found in done.causes(outcome)), done.causes(outcome)
    assert outcome in done.stdout
    assert "SLO_FAILED" in done.stdout


def test_an_agent_that_nobody_serves_is_never_assigned(burst: Burst) -> None:
    done = burst(3, "--agent-name", "nobody", "--session-timeout", "4")
    assert (done.code, done.outcomes) == (10, {"never_assigned": 3})
    assert done.causes("never_assigned") == {"the API lists no job for the dispatch"}


def test_a_missed_slo_fails_the_run(burst: Burst) -> None:
    done = burst(3, "--slo", "p95(first_audio) <= 1 ms", "--slo", "count(lost) == 0")
    assert (done.code, done.summary["verdict"]) == (10, "SLO_FAILED")
    assert [(result["text"], result["ok"]) for result in done.summary["slo"]] == [
        ("p95(first_audio) <= 1 ms", False),
        ("count(lost) == 0", True),
    ]
    assert "  MISSED  p95(first_audio) <= 1 ms   (was " in done.stdout


def test_slos_by_batch_and_the_same_run_judged_anew(burst: Burst) -> None:
    batches = ("--batch-size", "3", "--batch-delay", "0.5")
    done = burst(6, "--processes", "2", *batches, "--slo", "max(welcomed) by batch <= 60s")
    assert (done.code, done.outcomes) == (0, {"ok": 6}), done.stderr
    assert sorted((record["ordinal"], record["batch"]) for record in done.records) == list(
        zip(range(6), (1, 1, 1, 2, 2, 2), strict=True)
    )
    slowest = {batch: max(welcomed_ms(done, batch)) for batch in (1, 2)}
    (result,) = done.summary["slo"]
    assert result["value"] == pytest.approx(max(slowest.values()), abs=1e-6)
    assert result["worst"] == f"batch={max(slowest, key=slowest.__getitem__)}"

    for rule, code in (
        ("p100(welcomed) in batch=2 <= 60s", 0),
        ("p100(welcomed) in batch=2 <= 1ms", 10),
        ("p100(welcomed) in batch=3 <= 60s", 11),
        ("p100(welcomed) in batch=two <= 60s", 12),
    ):
        command = [sys.executable, "-m", "lk_users.cli", "report", str(done.run_dirs[0]), "--slo", rule]
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        assert again.returncode == code, again.stdout + again.stderr


def welcomed_ms(done: Finished, batch: int) -> list[float]:
    return [one["marks_ns"]["welcomed"] / 1e6 for one in done.records if one["batch"] == batch]


def test_free_users_go_round_and_every_start_is_recorded(burst: Burst) -> None:
    done = burst(3, "--release", "free", "-t", "8s", "--stop-timeout", "6")
    sessions = done.summary["sessions"]
    assert done.code == 0, done.stdout
    assert sessions["intended"] == sessions["recorded"] == len(done.records) >= 3
    assert len({record["session_id"] for record in done.records}) == len(done.records)
    assert done.outcomes["ok"] >= 3


def test_two_processes_share_one_t0(burst: Burst) -> None:
    done = burst(10, "--processes", "2")
    assert (done.code, done.outcomes) == (0, {"ok": 10}), done.stderr
    assert [worker["sessions"] for worker in done.summary["workers"]] == [5, 5]
    assert sorted(record["ordinal"] for record in done.records) == list(range(10))
    assert done.summary["start_error_ms"]["p99"] < 50
