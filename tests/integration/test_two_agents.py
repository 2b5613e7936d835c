"""Whole bursts in which more than one agent comes, or the same one twice, or none: who, when, why."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from conftest import Running
from livekit import api as livekit_api
from moving_api import SECOND_WORKER, MovingApi

from lk_users.agents_seen import REPLACED
from lk_users.record import Phase, Record
from lk_users.report.clocks import contradictions
from lk_users.settings.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Finished

    from lk_users.local.stack import Stack

    Burst = Callable[..., Finished]
    Start = Callable[..., Running]

pytestmark = pytest.mark.real

MS: Final = 1_000_000
CUT: Final = {"fault": "cut", "delay_ms": 2000, "back_ms": 2000}


def of(done: Finished, outcome: str) -> list[Record]:
    records = [Record.from_dict(record) for record in done.records]
    return [record for record in records if record.outcome == outcome]


def agents_of(record: Record) -> list[dict[str, Any]]:
    """As the record keeps them, by when they were seen."""
    return sorted(record.evidence["agents"], key=lambda agent: float(agent["seen_ms"]))


FAULTS: Final[tuple[dict[str, Any], ...]] = (
    {"fault": "slow_join", "delay_ms": 2000},
    {"fault": "slow_join", "delay_ms": 120_000},
    {"fault": "reject"},
    {"fault": "ignore"},
    {"fault": "end"},
    {"fault": "die_after_join"},
    {"fault": "rejoin"},
    CUT,
    {"fault": "duplicate"},
    {"fault": "bystander"},
)


@pytest.fixture(scope="module")
def every_fault(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Finished, list[list[Record]]]:
    """One burst in which every agent does something wrong, each thing twice; the records by fault."""
    out: Path = tmp_path_factory.mktemp("faults")
    lines = out / "jobs.jsonl"
    lines.write_text("".join(json.dumps({"lk": fault}) + "\n" for fault in FAULTS))
    users = str(2 * len(FAULTS))
    # An agent that died without a word is missed by the server after some 20 s.
    times = ("--watch", "6", "--welcome-timeout", "4", "--session-timeout", "35")
    options = ["--headless", "--only-summary", "-u", users, "-r", users, "--agent-name", "welcome"]
    running = Running(
        [*options, "--dispatch", "room", "--metadata", f"@{lines}", *times], stack.env(), out / "runs", out
    )
    done = running.finish(120)
    records = [Record.from_dict(record) for record in done.records]
    assert len(records) == 2 * len(FAULTS)
    return done, [
        [record for record in records if record.ordinal % len(FAULTS) == row] for row in range(len(FAULTS))
    ]


Faults = tuple["Finished", list[list[Record]]]


def test_a_slow_join_is_the_agent_s_way_into_the_room(every_fault: Faults) -> None:
    for record in every_fault[1][0]:
        assert record.outcome == "ok", record.findings
        assert 1900 * MS < record.phases_ns[Phase.ACCEPT_TO_JOIN] < 6000 * MS
        assert record.marks_ns["agent_joined"] > 1900 * MS
        assert record.evidence["agent"]["attributes"]["lk.agent.name"] == "welcome"
        assert "agents" not in record.evidence


def test_an_agent_too_slow_to_join_was_assigned(every_fault: Faults) -> None:
    for record in every_fault[1][1]:
        assert record.outcome == "assigned_not_joined", record.findings
        assert record.cause == f"job {record.job_id} is running on {record.worker_id}"
        assert record.worker_id.startswith("AW_")
        assert "agent_seen" not in record.marks_ns
        assert record.phases_ns[Phase.SERVER_QUEUE] > 0
        assert abs(record.decided_ns - 35_000 * MS) < 500 * MS


def test_a_declined_job_is_rejected(every_fault: Faults) -> None:
    for record in every_fault[1][2]:
        assert record.outcome == "rejected", record.findings
        assert record.cause == f"job {record.job_id} ended as success without an agent"
        assert "agent_seen" not in record.marks_ns


def test_an_offer_that_nobody_answers_is_never_assigned(every_fault: Faults) -> None:
    for record in every_fault[1][3]:
        assert (record.outcome, record.cause) == ("never_assigned", "the API lists no job for the dispatch")
        assert (record.job_id, record.started_at_ns) == ("", 0)
        assert record.dispatch_id.startswith("AD_")


def test_an_agent_that_ends_has_left_on_purpose(every_fault: Faults) -> None:
    for record in every_fault[1][4]:
        assert record.outcome == "agent_ended", record.findings
        (agent,) = agents_of(record)
        assert (agent["sid"], agent["gone_reason"]) == (record.agent_sid, "client_initiated")
        assert agent["joined_ms"] < agent["gone_ms"] < agent["joined_ms"] + 4000
        assert record.lost


def test_an_agent_that_dies_is_missed_by_the_server(every_fault: Faults) -> None:
    for record in every_fault[1][5]:
        assert record.outcome == "agent_left", record.findings
        assert record.cause == "it left before the welcome: connection_timeout"
        (agent,) = agents_of(record)
        assert 10_000 < agent["gone_ms"] - agent["joined_ms"] < 30_000
        assert record.lost


def assert_two_stays(record: Record, reason: str, *, replaced: bool) -> None:
    """The same agent under two sids, and when and why the first one went."""
    first, second = agents_of(record)
    assert first["identity"] == second["identity"] == f"agent-{record.job_id}"
    assert first["sid"] != second["sid"]
    assert first["worker_id"] == second["worker_id"] == record.worker_id
    assert (first["gone_reason"], first["replaced_by"]) == (reason, second["sid"] if replaced else "")
    assert first["joined_ms"] < first["gone_ms"] <= second["seen_ms"]
    assert second["gone_ms"] is None
    for word in (first["sid"], second["sid"], reason, record.job_id, record.worker_id):
        assert word in record.cause
    assert record.welcomed


def test_an_agent_that_joins_again_has_come_back(every_fault: Faults) -> None:
    for record in every_fault[1][6]:
        assert record.outcome == "agent_rejoined", record.findings
        # It is back at once: the server may tell of its new stay alone.
        replaced = bool(agents_of(record)[0]["replaced_by"])
        assert_two_stays(record, REPLACED if replaced else "client_initiated", replaced=replaced)


def test_an_agent_that_was_cut_off_has_come_back(every_fault: Faults) -> None:
    for record in every_fault[1][7]:
        assert record.outcome == "agent_rejoined", record.findings
        assert_two_stays(record, REPLACED, replaced=True)
        first, second = agents_of(record)
        assert 3900 < second["joined_ms"] - first["joined_ms"] < 8000


def test_two_of_it_at_once_are_a_duplicate(every_fault: Faults) -> None:
    done, rows = every_fault
    for record in rows[8]:
        assert record.outcome == "duplicate_agent", record.findings
        first, second = agents_of(record)
        assert first["identity"] != second["identity"]
        assert all(agent["named"] and agent["gone_ms"] is None for agent in (first, second))
        assert first["sid"] in record.cause
        assert second["sid"] in record.cause
    assert done.summary["groups"]["duplicate"] == 2
    assert [
        item["room"] for item in done.summary["entered_twice"] if item["finding"] == "duplicate_agent"
    ] == [record.room for record in rows[8]]
    assert "make the entrypoint idempotent per job id" in " ".join(done.stdout.split())


def test_another_agent_in_the_room_is_a_bystander(every_fault: Faults) -> None:
    for record in every_fault[1][9]:
        assert record.outcome == "ok", record.findings
        _, other = agents_of(record)
        assert record.findings["bystander_agent"] == other["identity"]
        assert [agent["named"] for agent in agents_of(record)] == [True, False]


def test_stamps_and_marks_agree_in_every_session(every_fault: Faults) -> None:
    done, rows = every_fault
    for record in (record for row in rows for record in row):
        assert contradictions(record) == [], record
    clock = done.summary["server_clock"]
    assert (clock["agree"], clock["nodes"], clock["compared"], clock["contradicted"]) == (True, 1, 20, 0)
    # The same machine, and so the same clock.
    assert abs(clock["offset_ms"]) <= clock["uncertainty_ms"] < 30


def test_a_job_that_moves_to_another_worker_is_a_retry(burst: Burst, stack: Stack) -> None:
    with MovingApi(stack.server.url, moved_after_s=3.0) as proxy:
        env = {**stack.env(), "LIVEKIT_URL": proxy.url}
        # By two processes: that nobody waits any more is known to their master alone.
        options = ("--processes", "2", "--dispatch", "room", "--watch", "12")
        done = burst(3, *options, "--metadata", json.dumps({"lk": CUT}), env=env)
        first_workers = dict(proxy.first_workers)
    assert done.outcomes == {"job_retried": 3}, done.stdout
    for record in of(done, "job_retried"):
        first, second = agents_of(record)
        worker = first_workers[record.job_id]
        assert (first["worker_id"], second["worker_id"]) == (worker, SECOND_WORKER)
        assert first["identity"] == second["identity"]
        offers = record.evidence["offers"]
        assert [(offer["job_id"], offer["worker_id"]) for offer in offers] == [
            (record.job_id, worker),
            (record.job_id, SECOND_WORKER),
        ]
        assert offers[1]["started_ms"] - offers[0]["started_ms"] == pytest.approx(3000, abs=1)
        assert 3900 < second["joined_ms"] - first["joined_ms"] < 8000
        for agent in (first, second):
            assert (
                f"at {agent['joined_ms'] / 1000:.2f} s on {agent['worker_id']} ({agent['sid']}"
                in record.cause
            )
    assert (done.code, done.summary["groups"]["duplicate"]) == (10, 3)
    said = " ".join(done.stdout.split())
    assert "make the entrypoint idempotent per job id. So in 2 more sessions." in said


def test_a_room_that_was_asked_for_it_twice_is_no_duplicate(start: Start, stack: Stack) -> None:
    running = start("-u", "2", "-r", "2", "--agent-name", "welcome", "--watch", "9")
    running.wait_for_text("2 wait")
    (run_dir,) = running.runs.iterdir()
    rooms = [f"lk-{run_dir.name}-b1-{ordinal}" for ordinal in range(2)]
    target = Target.from_environment(stack.env())

    async def ask_again() -> None:
        async with livekit_api.LiveKitAPI(target.http_url, target.key, target.secret) as client:
            for room in rooms:
                request = livekit_api.CreateAgentDispatchRequest(agent_name="welcome", room=room)
                await client.agent_dispatch.create_dispatch(request)

    asyncio.run(ask_again())
    done = running.finish()
    assert (done.code, done.outcomes) == (0, {"ok": 2}), done.stdout
    for record in of(done, "ok"):
        first, second = agents_of(record)
        assert first["identity"] != second["identity"]
        assert first["job_id"] != second["job_id"]
        assert "duplicate_agent" not in record.findings
        assert record.dispatch_id in record.findings["double_dispatch"]
        assert "both ask for welcome" in record.findings["double_dispatch"]
