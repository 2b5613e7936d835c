from __future__ import annotations

from fractions import Fraction

import pytest
from builders import never_assigned, queued_session, record, welcomed

from lk_users import slo
from lk_users.errors import Refused
from lk_users.outcome import ORDER, OUTCOMES, Finding, fault_of
from lk_users.record import Mark, Phase


def value_of(text: str, records: list) -> tuple[float | None, bool]:
    (one,) = slo.parse(text)
    result = one.evaluate(records)
    return result.value, result.ok


def faults_of(text: str) -> tuple[str, ...]:
    with pytest.raises(Refused) as refused:
        slo.parse(text)
    return refused.value.faults


@pytest.mark.parametrize(
    ("text", "kind", "name", "op", "limit", "percent"),
    [
        ("count(lost) == 0", "count", "lost", "==", 0, 100),
        ("count(ok)>=600", "count", "ok", ">=", 600, 100),
        ("rate(ok) >= 0.99", "rate", "ok", ">=", Fraction("0.99"), 100),
        ("rate( ok )  >  99.9 %", "rate", "ok", ">", Fraction("0.999"), 100),
        ("rate(theirs) != 0%", "rate", "theirs", "!=", 0, 100),
        ("p95(welcomed) <= 3000", "p95", "welcomed", "<=", 3000, 95),
        ("p99.9(first_audio) < 2.5 s", "p99.9", "first_audio", "<", 2500, Fraction("99.9")),
        ("p50(server_queue) <= 3000 ms", "p50", "server_queue", "<=", 3000, 50),
        ("max(start_error) <= 50ms", "max", "start_error", "<=", 50, 100),
    ],
)
def test_forms(text: str, kind: str, name: str, op: str, limit: Fraction, percent: Fraction) -> None:
    (one,) = slo.parse(text)
    assert (one.kind, one.name, one.op, one.limit, one.percent) == (kind, name, op, limit, percent)
    assert one.text == " ".join(text.split())


def test_every_name_is_known() -> None:
    for finding in ORDER:
        assert len(slo.parse(f"count({finding}) == 0; rate({finding}) <= 1")) == 2
    for name in ("lost", "duplicate", "ours", "open", "theirs"):
        assert len(slo.parse(f"count({name}) == 0")) == 1
    for name in (*Mark, *Phase, "start_error"):
        assert len(slo.parse(f"p90({name}) < 1 s; max({name}) < 1 s")) == 2


def test_several_are_separated_by_semicolons() -> None:
    assert [one.text for one in slo.parse(" count(lost) == 0 ;; max(speak) < 1 s; ")] == [
        "count(lost) == 0",
        "max(speak) < 1 s",
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("lost == 0", ["not of a known form", "count(lost) == 0"]),
        ("count(lots) == 0", ["unknown name lots", "lost, duplicate", "never_assigned"]),
        ("count(welcomed) == 0", ["unknown name welcomed"]),
        ("count(lost) = 0", ["unknown operator =", "== != <= < >= >"]),
        ("count(lost) == 0.5", ["'0.5' is no count"]),
        ("count(lost) == 1 %", ["'1 %' is no count"]),
        ("count(lost) == -1", ["'-1' is no count"]),
        ("count(lost) ==", ["'' is no count"]),
        ("rate(ok) >= 99", ["'99' is no rate", "99 %"]),
        ("rate(ok) >= 1 s", ["'1 s' is no rate"]),
        ("rate(ok) >= 101 %", ["'101 %' is no rate"]),
        ("p95(lost) <= 3 s", ["unknown name lost", "welcomed", "server_queue", "start_error"]),
        ("p95(welcomed) <= 3 m", ["'3 m' is no time", "3 s"]),
        ("p95(welcomed) <= 3 %", ["'3 %' is no time"]),
        ("p0(welcomed) <= 3 s", ["p0() is no percentile"]),
        ("p100.1(welcomed) <= 3 s", ["p100.1() is no percentile"]),
        ("avg(welcomed) <= 3 s", ["unknown function avg()"]),
    ],
)
def test_a_bad_expression_is_one_line_that_says_what_would_do(text: str, parts: list[str]) -> None:
    (fault,) = faults_of(text)
    assert fault.startswith(f"--slo {text!r}: ")
    assert "\n" not in fault
    for part in parts:
        assert part in fault


def test_all_bad_expressions_are_listed_at_once() -> None:
    assert len(faults_of("count(x) == 0; count(lost) == 0; p95(y) < 1")) == 2


@pytest.mark.parametrize("text", ["", " ; ;"])
def test_no_objective_at_all_is_refused(text: str) -> None:
    (fault,) = faults_of(text)
    assert fault.startswith("--slo: empty")


@pytest.mark.parametrize(
    "text",
    ["count(lost) == 0", "count(ok) >= 0", "rate(lost) == 0", "p95(welcomed) <= 3 s", "max(speak) < 9 s"],
)
def test_zero_must_be_earned(text: str) -> None:
    assert value_of(text, []) == (None, False)


def test_a_phase_or_start_error_that_nobody_has_is_not_met() -> None:
    assert value_of("max(speak) < 9 s", [record(0)]) == (None, False)
    assert value_of("p99(start_error) < 9 s", [record(0)]) == (None, False)


def test_a_mark_that_nobody_reached_counts_at_the_deadline() -> None:
    assert value_of("p50(first_text) <= 119999", [record(0)]) == (120_000, False)


def test_count_of_groups() -> None:
    records = [
        welcomed(0),
        never_assigned(1),
        record(2, findings={"media_failed": ""}),
        record(3, findings={"cancelled": ""}),
        record(4, findings={"agent_left": ""}),
        welcomed(5, findings={"agent_left": ""}),
        welcomed(6, findings={"job_retried": ""}),
        record(7, findings={"room_closed": "", "duplicate_agent": ""}),
    ]
    expected = {"lost": 4, "duplicate": 2, "ours": 1, "open": 1, "theirs": 5, "ok": 1, "room_closed": 1}
    for name, count in expected.items():
        assert value_of(f"count({name}) == {count}", records) == (count, True)


def test_a_finding_counts_even_where_another_decided_the_outcome() -> None:
    one = record(0, findings={"room_closed": "", "duplicate_agent": "", "ghost_dispatch": ""})
    assert value_of("count(duplicate_agent) == 1", [one]) == (1, True)
    assert value_of("count(ghost_dispatch) == 1", [one]) == (1, True)


def test_groups_by_fault_cover_every_outcome_once() -> None:
    for outcome in OUTCOMES:
        one = record(0, findings={outcome.value: ""})
        names = [name for name in ("ours", "open", "theirs", "ok") if slo.belongs(one, name)]
        assert names == [fault_of(outcome).value if outcome is not Finding.OK else "ok"]


def test_rate_is_exact_at_its_limit() -> None:
    records = [never_assigned(i) for i in range(6)] + [welcomed(i) for i in range(6, 600)]
    assert value_of("rate(ok) >= 99 %", records) == (0.99, True)
    assert value_of("rate(ok) >= 0.99", records) == (0.99, True)
    assert value_of("rate(ok) > 99 %", records) == (0.99, False)
    assert value_of("rate(ok) >= 99.1 %", records) == (0.99, False)


def test_percentiles_of_marks_are_nearest_rank_over_all_sessions() -> None:
    records = [welcomed(i, 100 + i) for i in range(19)] + [never_assigned(19)]
    assert value_of("p95(welcomed) <= 118 ms", records) == (118, True)
    assert value_of("p95(welcomed) < 118 ms", records) == (118, False)
    assert value_of("p96(welcomed) <= 119.999 s", records) == (120_000, False)
    assert value_of("max(welcomed) == 120 s", records) == (120_000, True)


def test_percentiles_of_phases_are_over_the_sessions_that_have_them() -> None:
    import random

    rng = random.Random(1)
    records = [queued_session(rng, 0), never_assigned(1)]
    queue_ns = records[0].started_at_ns - records[0].created_at_ns
    value, ok = value_of("p99(server_queue) <= 2 s", records)
    assert value == pytest.approx(queue_ns / 1e6)
    assert ok


@pytest.mark.parametrize(
    ("op", "met"),
    [
        ("==", (False, True, False)),
        ("!=", (True, False, True)),
        ("<=", (True, True, False)),
        ("<", (True, False, False)),
        (">=", (False, True, True)),
        (">", (False, False, True)),
    ],
)
def test_operators(op: str, met: tuple[bool, bool, bool]) -> None:
    for count, expected in zip((1, 2, 3), met, strict=True):
        assert value_of(f"count(ok) {op} 2", [welcomed(i) for i in range(count)]) == (count, expected)
