from __future__ import annotations

import json
import random
from typing import Any

import pytest
from builders import marks_ns, queued_session, record, welcomed

from lk_users.errors import RecordError
from lk_users.outcome import Finding
from lk_users.record import Mark, Phase, Record


def test_round_trip_is_exact_and_one_line() -> None:
    one = queued_session(random.Random(3), 17, evidence={"note": "línea\nzwei", "jobs": []}, lag_ms=0.1)
    line = one.to_json()
    assert "\n" not in line
    assert Record.from_json(line) == one
    assert Record.from_json(line).to_json() == line


@pytest.mark.parametrize("line", ["", "{", "[]", "null", "1", '"x"', "{}"])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(RecordError):
        Record.from_json(line)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"schema": None},
        {"shoe_size": 44},
        {"findings": {"no_such_finding": ""}},
        {"findings": ["ok"]},
        {"marks_ns": {"fired": "soon"}},
        {"marks_ns": None},
        {"ordinal": "7"},
        {"room": 7},
    ],
)
def test_other_fields_are_refused(changes: dict[str, Any]) -> None:
    data = {**json.loads(record().to_json()), **changes}
    with pytest.raises(RecordError):
        Record.from_dict(data)


def test_a_lacking_field_is_refused() -> None:
    data = json.loads(record().to_json())
    del data["session_id"]
    with pytest.raises(RecordError, match="session_id"):
        Record.from_dict(data)


def test_phases() -> None:
    one = record(
        marks_ns=marks_ns(
            {
                Mark.FIRED: 2,
                Mark.DISPATCHED: 5,
                Mark.CONNECTED: 9,
                Mark.MEDIA_UP: 30,
                Mark.AGENT_JOINED: 700,
                Mark.AGENT_TRACK: 740,
                Mark.FIRST_AUDIO: 900,
                Mark.FIRST_TEXT: 800,
            }
        ),
        created_at_ns=10_000_000,
        started_at_ns=510_000_000,
        joined_at_ns=690_000_000,
    )
    expected_ms = {
        Phase.DISPATCH_API: 3,
        Phase.USER_JOIN: 4,
        Phase.MEDIA_SETUP: 21,
        Phase.SERVER_QUEUE: 500,
        Phase.ACCEPT_TO_JOIN: 180,
        Phase.AGENT_START: 40,
        Phase.SPEAK: 160,
    }
    assert one.phases_ns == {phase: ms * 1_000_000 for phase, ms in expected_ms.items()}


def test_join_first_counts_the_users_join_from_the_first_write() -> None:
    marks = marks_ns({Mark.FIRED: 2, Mark.DISPATCHED: 12, Mark.CONNECTED: 9})
    assert record(order="join-first", marks_ns=marks).phases_ns[Phase.USER_JOIN] == 7_000_000


def test_a_phase_without_both_ends_is_none_and_crossed_clocks_give_zero() -> None:
    assert record().phases_ns == {}
    assert record(created_at_ns=20, started_at_ns=10).phases_ns == {Phase.SERVER_QUEUE: 0}


def test_outcome_cause_and_groups() -> None:
    one = record(findings={"ghost_dispatch": "g", "agent_left": "it went", "welcome_late": "x"})
    assert (one.outcome, one.cause, one.lost) == (Finding.AGENT_LEFT, "it went", True)
    assert not welcomed(findings={"agent_left": "it went"}).lost
    assert record().outcome is Finding.OK


def test_start_error_and_order() -> None:
    assert record().start_error_ns is None
    assert welcomed().start_error_ns == 1_000_000
    records = [record(1, burst=1), record(2), record(0)]
    assert [(r.burst, r.ordinal) for r in sorted(records, key=Record.sort_key)] == [(0, 0), (0, 2), (1, 1)]


def test_an_agent_that_came_twice_and_never_spoke_leaves_its_user_lost() -> None:
    silent = record(findings={"agent_rejoined": "…", "welcome_missing": "…"})
    assert (silent.outcome, silent.lost) == (Finding.AGENT_REJOINED, True)
    heard = welcomed(findings={"agent_rejoined": "…", "agent_left": "…"})
    assert not heard.lost
    assert not record(findings={"cancelled": "…", "never_assigned": "…"}).lost
    assert not record(findings={"duplicate_agent": "…"}).lost
