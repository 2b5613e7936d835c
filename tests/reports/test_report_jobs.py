"""What the report says of clocks, of the slowest tenth, and of agents that entered twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from builders import T0_WALL_NS, marks_ns, record, trailer, welcomed, write_run
from test_report import summary_of

from lk_users.clock import NS_PER_MS
from lk_users.health import Trailer
from lk_users.record import Mark, Record
from lk_users.report import console, markdown, words
from lk_users.report.clocks import contradictions
from lk_users.report.make import make_report

if TYPE_CHECKING:
    from pathlib import Path

MS = NS_PER_MS
CLOCK = {
    "offset_ms": -3.25, "uncertainty_ms": 1.4, "brackets": 1200, "apart": 0, "nodes": 1,
    "nodes_apart_ms": 0.0,
}  # fmt: skip


def on_server(ms: float) -> int:
    return T0_WALL_NS + round(ms * MS)


def stamped(ordinal: int = 0, **changes: Any) -> Record:
    """A session in which all stamps and marks agree, the server's clock known to ±2 ms."""
    at_ms = {
        Mark.FIRED: 5, Mark.DISPATCHED: 20, Mark.CONNECTED: 40, Mark.AGENT_JOINED: 200, Mark.AGENT_SEEN: 230,
        Mark.WELCOMED: 300,
    }  # fmt: skip
    values: dict[str, Any] = {
        "created_at_ns": on_server(12),
        "started_at_ns": on_server(60),
        "joined_at_ns": on_server(200),
        "marks_ns": marks_ns({**at_ms, **changes.pop("marks", {})}),
        "evidence": {"intended_server_ns": T0_WALL_NS, "server_clock_uncertainty_ms": 2.0},
        **changes,
    }
    return welcomed(ordinal, **values)


# Stamps and marks.


@pytest.mark.parametrize(
    "agreeing",
    [
        {},
        {"created_at_ns": on_server(-1.9)},
        {"created_at_ns": on_server(22)},
        {"joined_at_ns": on_server(232)},
        {"started_at_ns": on_server(201)},
        {"order": "join-first", "created_at_ns": on_server(39), "marks": {Mark.DISPATCHED: 60}},
        {"dispatch": "token", "order": "join-first", "created_at_ns": on_server(39)},
        {"dispatch": "none", "order": "join-first", "created_at_ns": on_server(1)},
        {"dispatch": "room", "created_at_ns": on_server(41)},
        {"created_at_ns": 0, "started_at_ns": 0, "joined_at_ns": 0},
        {"started_at_ns": on_server(900), "findings": {"job_retried": "…"}},
    ],
)
def test_stamps_that_agree_within_the_uncertainty(agreeing: dict[str, Any]) -> None:
    assert contradictions(stamped(**agreeing)) == []


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (
            {"created_at_ns": on_server(-2.1)},
            "the request was due at 0.00 ms, its dispatch was stored at -2.10 ms (2.00 ms uncertain)",
        ),
        (
            {"created_at_ns": on_server(22.1)},
            "its dispatch was stored at 22.10 ms, that was answered at 20.00 ms (2.00 ms uncertain)",
        ),
        (
            {"joined_at_ns": on_server(233)},
            "the agent joined at 233.00 ms, it was seen at 230.00 ms (2.00 ms uncertain)",
        ),
        ({"started_at_ns": on_server(11)}, "the job was offered 1.00 ms before its dispatch was stored"),
        ({"started_at_ns": on_server(202)}, "the agent joined 2.00 ms before its job was offered"),
        (
            {"dispatch": "token", "order": "join-first", "created_at_ns": on_server(43)},
            "its dispatch was stored at 43.00 ms, that was answered at 40.00 ms (2.00 ms uncertain)",
        ),
        (
            {"dispatch": "room", "created_at_ns": on_server(43)},
            "its dispatch was stored at 43.00 ms, that was answered at 40.00 ms (2.00 ms uncertain)",
        ),
        (
            {"order": "join-first", "created_at_ns": on_server(36), "marks": {Mark.DISPATCHED: 60}},
            "the request was due at 40.00 ms, its dispatch was stored at 36.00 ms (2.00 ms uncertain)",
        ),
    ],
)
def test_stamps_that_contradict_the_marks(wrong: dict[str, Any], line: str) -> None:
    assert contradictions(stamped(**wrong)) == [line]


def test_without_a_server_s_clock_there_is_nothing_to_compare() -> None:
    assert contradictions(welcomed()) is None


def test_the_summary_counts_what_agrees_and_says_how_far_clocks_are_apart() -> None:
    records = [stamped(0), stamped(1, created_at_ns=on_server(90)), welcomed(2)]
    other = {**CLOCK, "offset_ms": 9.0, "uncertainty_ms": 12.0, "brackets": 3}
    trailers = (trailer("w1", server_clock=CLOCK), trailer("w2", server_clock=other), trailer("w3"))
    summary = summary_of(records, trailers)
    assert summary["server_clock"] == {
        "offset_ms": -3.25, "uncertainty_ms": 12.0, "brackets": 1203, "apart": 0, "nodes": 1,
        "nodes_apart_ms": 0.0, "agree": True, "compared": 2, "contradicted": 1,
    }  # fmt: skip
    assert words.clock_line(summary) == (
        "Server's clock known to ±12 ms from 1203 brackets; 1 of 2 sessions contradict it."
    )
    assert words.clock_line(summary_of([stamped()], trailers[:1])) == (
        "Server's clock known to ±1.4 ms from 1200 brackets, and no session of 1 contradicts it."
    )
    assert summary_of(records)["server_clock"] is None
    assert words.clock_line(summary_of(records)) == ""


def test_nodes_that_differ_are_said_to() -> None:
    clock = {**CLOCK, "nodes": 2, "nodes_apart_ms": 310.0, "apart": 4}
    summary = summary_of([stamped()], (trailer(server_clock=clock),))
    assert not summary["server_clock"]["agree"]
    line = words.clock_line(summary)
    assert "the clocks of its 2 nodes differ by 310 ms or more" in line
    assert "; 4 of them do not agree with the others of their node" in line
    assert line in markdown.text(summary)


def test_a_trailer_keeps_its_server_clock_on_its_way() -> None:
    told = trailer(server_clock=CLOCK)
    assert Trailer.from_dict(json.loads(json.dumps(told.to_dict()))) == told


# The slowest tenth.


def waiting(ordinal: int, queue_ms: float, join_ms: float) -> Record:
    end = queue_ms + join_ms
    return stamped(
        ordinal,
        created_at_ns=on_server(0),
        started_at_ns=on_server(queue_ms),
        joined_at_ns=on_server(end),
        marks={Mark.WELCOMED: end},
    )


def test_the_slowest_tenth_may_have_waited_for_something_else() -> None:
    records = [waiting(n, 800, 200) for n in range(36)] + [waiting(n, 500, 4500) for n in range(36, 40)]
    summary = summary_of(records)
    assert summary["bottleneck"]["phase"] == "server_queue"
    assert summary["bottleneck_slowest_tenth"] == {"phase": "accept_to_join", "share": 0.9, "sessions": 4}
    assert (
        "In the slowest tenth (4 sessions) 90 % of the wait was in the agent's way into the room "
        "(accept_to_join)." in words.time_lines(summary)
    )


def test_the_slowest_tenth_is_rounded_up_and_a_few_are_no_sentence() -> None:
    summary = summary_of([waiting(n, 800, 200) for n in range(11)])
    assert summary["bottleneck_slowest_tenth"]["sessions"] == 2
    assert not any("slowest tenth" in line for line in words.time_lines(summary))
    assert summary_of([])["bottleneck_slowest_tenth"] is None


def test_more_of_the_same_is_said_so() -> None:
    summary = summary_of([waiting(n, 800 + n, 200) for n in range(30)])
    (line,) = [line for line in words.time_lines(summary) if "slowest tenth" in line]
    assert line.endswith("in the server's queue (server_queue), too.")


# Agents that entered twice.


def twice(ordinal: int, finding: str = "job_retried") -> Record:
    job = {"identity": f"agent-AJ_{ordinal}", "named": True, "job_id": f"AJ_{ordinal}"}
    first, second = f"PA_{ordinal}a", f"PA_{ordinal}b"
    gone = {"gone_ms": 49_260.0, "gone_reason": "duplicate_identity"}
    there = {"gone_ms": None, "gone_reason": ""}
    agents = [
        {"sid": first, "worker_id": "AW_1", "joined_ms": 5260.0, "seen_ms": 5310.0, **job, **gone},
        {"sid": second, "worker_id": "AW_2", "joined_ms": 49_210.0, "seen_ms": 49_260.0, **job, **there},
        {"sid": "PA_9", "identity": "notes", "named": False, "seen_ms": 1.0},
    ]
    cause = f"job AJ_{ordinal} entered at 5.26 s on AW_1 ({first}) and at 49.21 s on AW_2 ({second})"
    evidence = {"agents": agents}
    return stamped(ordinal, findings={finding: cause}, evidence=evidence, job_id=f"AJ_{ordinal}")


def test_the_report_says_which_job_entered_twice_and_what_to_do(tmp_path: Path) -> None:
    records = [twice(0), twice(1), stamped(2)]
    write_run(tmp_path, records, workers={"w1": ("eu", 0, 3)})
    make_report(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [(one["job_id"], one["finding"]) for one in summary["entered_twice"]] == [
        ("AJ_0", "job_retried"),
        ("AJ_1", "job_retried"),
    ]
    advice = (
        "Job AJ_0 entered at 5.26 s on AW_1 (PA_0a) and at 49.21 s on AW_2 (PA_0b): make the entrypoint "
        "idempotent per job id. So in 1 more session."
    )
    assert words.twice_lines(summary) == [advice]
    assert advice in " ".join(console.text(summary).split())
    text = (tmp_path / "summary.md").read_text()
    assert advice in text
    for row in (
        f"| job_retried | {records[0].room} | AJ_0 | AW_1 | PA_0a | 5.26 s | 49.3 s | duplicate_identity |",
        f"| job_retried | {records[1].room} | AJ_1 | AW_2 | PA_1b | 49.2 s | - | - |",
    ):
        assert row in text
    assert "notes" not in text


def test_a_mere_reconnect_is_listed_without_advice() -> None:
    summary = summary_of([twice(0, "agent_rejoined")])
    assert words.twice_lines(summary) == []
    assert "PA_0b" in markdown.text(summary)
    assert "idempotent" not in markdown.text(summary)


def test_a_double_dispatch_is_no_duplicate_of_the_target_s() -> None:
    mine = stamped(0, findings={"ok": "", "double_dispatch": "AD_1 and AD_2 both ask for front-desk"})
    summary = summary_of([mine])
    assert (summary["outcomes"], summary["groups"]["duplicate"]) == ({"ok": 1}, 0)
    assert summary["findings"]["double_dispatch"] == 1
    assert "double_dispatch 1" in markdown.text(summary)


def test_a_record_without_evidence_of_agents_is_still_listed() -> None:
    summary = summary_of([record(0, findings={"duplicate_agent": "agent-1 and agent-2"}, job_id="AJ_1")])
    assert summary["entered_twice"][0]["agents"] == []
    assert words.twice_lines(summary) == [
        "Agent-1 and agent-2: make the entrypoint idempotent per job id."
    ]  # fmt: skip
