"""Whole bursts by Locust against the real stack: every way to ask, every fault of the agent."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from lk_users.local.stack import Stack
from lk_users.settings import Target
from lk_users.wire.api import Api, Keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Finished

    Burst = Callable[..., Finished]

pytestmark = pytest.mark.real


def fault(name: str, delay_ms: int = 0) -> str:
    return json.dumps({"lk": {"fault": name, "delay_ms": delay_ms}})


def open_rooms(stack: Stack, names: list[str]) -> tuple[str, ...]:
    target = Target.from_environment(stack.env())

    async def ask() -> tuple[str, ...]:
        api = Api(target.http_url, Keys(target.key, target.secret))
        try:
            return await api.rooms(names)
        finally:
            await api.close()

    return asyncio.run(ask())


def assert_real(record: dict[str, Any]) -> None:
    """Everything that only a real server can have said."""
    assert 0 < record["created_at_ns"] <= record["started_at_ns"] <= record["joined_at_ns"] + 1_000_000
    for name in ("room_sid", "dispatch_id", "job_id", "worker_id", "participant_sid", "agent_sid"):
        assert record[name], name
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
        done = burst(5, "--agent-name", "", env=unnamed.env())
    assert (done.code, done.outcomes) == (0, {"ok": 5})
    assert {record["dispatch"] for record in done.records} == {"none"}


def test_users_may_join_first(burst: Burst) -> None:
    done = burst(5, "--order", "join-first")
    assert (done.code, done.outcomes) == (0, {"ok": 5})
    assert all(record["marks_ns"]["connected"] < record["marks_ns"]["dispatched"] for record in done.records)


def test_batches_start_at_their_offsets(burst: Burst) -> None:
    done = burst(6, "--batch-size", "3", "--batch-delay", "0.5")
    first = done.records[0]["intended_wall_ns"]
    offsets_ms = [(record["intended_wall_ns"] - first) // 1_000_000 for record in done.records]
    assert (done.code, offsets_ms) == (0, [0, 0, 0, 500, 500, 500])
    assert done.summary["start_error_ms"]["max"] < 50


def test_several_bursts_in_one_run(burst: Burst) -> None:
    done = burst(5, "--bursts", "2")
    assert (done.code, done.outcomes) == (0, {"ok": 10})
    assert [record["burst"] for record in done.records] == [1] * 5 + [2] * 5


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


def test_free_users_go_round_and_every_start_is_recorded(burst: Burst) -> None:
    done = burst(3, "--release", "free", "-t", "8s", "--stop-timeout", "6")
    sessions = done.summary["sessions"]
    assert done.code == 0, done.stdout
    assert sessions["intended"] == sessions["recorded"] >= 3


def test_two_processes_share_one_t0(burst: Burst) -> None:
    done = burst(10, "--processes", "2")
    assert (done.code, done.outcomes) == (0, {"ok": 10}), done.stderr
    assert [worker["sessions"] for worker in done.summary["workers"]] == [5, 5]
    assert sorted(record["ordinal"] for record in done.records) == list(range(10))
    assert done.summary["start_error_ms"]["p99"] < 50
