from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from builders import never_assigned, queued_session, record, settings, welcomed

from lk_users import slo
from lk_users.outcome import OUTCOMES, Finding, fault_of
from lk_users.record import Phase

if TYPE_CHECKING:
    from lk_users.record import Record
    from lk_users.slo import SloResult


def value_of(text: str, records: list[Record]) -> tuple[float | None, bool]:
    (one,) = slo.parse(text)
    result = one.evaluate(records)
    return result.value, result.ok


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
    assert value_of("max(welcomed) == 120 s", records) == (120_000, False)


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


def result_of(text: str, records: list[Record]) -> SloResult:
    (one,) = slo.parse(text)
    return one.evaluate(records)


def spread() -> list[Record]:
    """Two regions, two engines, two batches: agent_joined after 100, 200, … 800 ms, but 3 has no agent."""
    return [
        record(
            ordinal,
            region=("eu", "ap")[ordinal % 2],
            engine=("listen", "sdk")[ordinal == 7],
            batch=1 + ordinal // 4,
            burst=1,
            marks_ns={} if ordinal == 3 else {"fired": 0, "agent_joined": 100_000_000 * (ordinal + 1)},
        )
        for ordinal in range(8)
    ]


def test_a_mark_counts_the_sessions_that_reached_it() -> None:
    assert value_of("count(agent_joined) == 7", spread()) == (7, True)
    assert value_of("rate(agent_joined) >= 87.5%", spread()) == (0.875, True)
    assert value_of("rate(agent_joined) >= 87.6%", spread()) == (0.875, False)
    assert value_of("count(agent_joined) in region=ap == 3", spread()) == (3, True)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("region=eu", 700),
        ("engine=sdk", 800),
        ("batch=2", 800),
        ("batch=1, region=eu", 300),
        ("burst=1, region=eu", 700),
    ],
)
def test_only_the_sessions_that_are_asked_for(where: str, value: int) -> None:
    result = result_of(f"max(agent_joined) in {where} <= {value} ms", spread())
    assert (result.value, result.ok, result.worst) == (value, True, "")
    assert not result_of(f"max(agent_joined) in {where} < {value} ms", spread()).ok


@pytest.mark.parametrize(
    ("text", "value", "ok", "worst"),
    [
        ("p50(agent_joined) by region <= 600 ms", 600, True, "region=ap"),
        ("p50(agent_joined) by region < 600 ms", 600, False, "region=ap"),
        ("p50(agent_joined) by region >= 300 ms", 300, True, "region=eu"),
        ("p50(agent_joined) by region > 300 ms", 300, False, "region=eu"),
        ("p50(agent_joined) by region == 300 ms", 600, False, "region=ap"),
        ("p50(agent_joined) by region == 600 ms", 300, False, "region=eu"),
        ("p50(agent_joined) by region != 600 ms", 600, False, "region=ap"),
        ("p50(agent_joined) by region != 500 ms", 600, True, "region=ap"),
        ("p50(agent_joined) by engine <= 500 ms", 800, False, "engine=sdk"),
        ("p50(agent_joined) by batch <= 600 ms", 600, True, "batch=2"),
        ("max(agent_joined) by batch in region=eu <= 700 ms", 700, True, "batch=2"),
        ("count(agent_joined) by batch >= 4", 3, False, "batch=1"),
        ("rate(agent_joined) by region >= 75 %", 0.75, True, "region=ap"),
        ("rate(agent_joined) by burst >= 87.5 %", 0.875, True, "burst=1"),
    ],
)
def test_by_a_key_it_holds_where_it_does_for_each_and_names_the_worst(
    text: str, value: float, ok: bool, worst: str
) -> None:
    result = result_of(text, spread())
    assert (result.value, result.ok, result.worst) == (value, ok, worst)


def test_of_equal_ones_the_first_is_named_and_numbers_are_numbers() -> None:
    records = [record(i, batch=i + 1, marks_ns={"agent_joined": 1_000_000}) for i in range(12)]
    assert result_of("max(agent_joined) by batch <= 1 s", records).worst == "batch=1"
    assert result_of("max(agent_joined) by batch <= 1 s", records[1:]).worst == "batch=2"


@pytest.mark.parametrize("op", ["<=", "<", "=="])
def test_who_never_got_there_is_later_than_any_limit(op: str) -> None:
    records = [record(0, deadline_ns=5_000_000_000)]
    result = result_of(f"p95(agent_joined) {op} 10 s", records)
    assert (result.value, result.ok, result.never) == (5000, False, True)
    assert not result_of(f"p95(agent_joined) {op} 5 s", records).ok


def test_never_is_only_said_of_the_percentile_itself() -> None:
    assert not result_of("p85(agent_joined) <= 10 s", spread()).never
    assert result_of("p88(agent_joined) <= 10 s", spread()).never
    assert result_of("max(agent_joined) >= 10 s", spread()).ok
    assert result_of("max(agent_joined) by region <= 10 s", spread()).worst == "region=ap"


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("p95(agent_joined) in region=us <= 3 s", "no session has region us; there are ap, eu"),
        ("count(lost) in region=us == 0", "no session has region us; there are ap, eu"),
        ("rate(lost) in engine=idle == 0", "no session has engine idle; there are listen, sdk"),
        ("count(lost) in batch=10 == 0", "no session has batch 10; there are 1, 2"),
        ("count(lost) in region=eu, engine=sdk == 0", "there is no session of region=eu, engine=sdk"),
        ("max(speak) < 9 s", "no session has speak"),
        ("max(speak) in region=eu < 9 s", "no session of region=eu has speak"),
        ("max(speak) by region < 9 s", "no session of region=ap has speak"),
        ("max(speak) by batch in region=eu < 9 s", "no session of region=eu, batch=1 has speak"),
    ],
)
def test_what_there_is_no_session_of_is_missing(text: str, missing: str) -> None:
    result = result_of(text, spread())
    assert (result.value, result.ok, result.missing) == (None, False, missing)


def test_one_value_without_data_is_missing_whatever_the_others_are() -> None:
    fired = record(0, region="eu", marks_ns={"fired": 1_000_000})
    silent = record(1, region="ap", marks_ns={})
    result = result_of("max(start_error) by region <= 9 s", [fired, silent])
    assert result.missing == "no session of region=ap has start_error"


def test_many_values_are_not_all_listed() -> None:
    records = [record(i, batch=i + 1) for i in range(300)]
    missing = result_of("count(lost) in batch=301 == 0", records).missing
    assert missing == "no session has batch 301; there are 1, 2, 3, 4, 5 and 295 more"


def test_how_many_sessions_a_value_is_over() -> None:
    records = [record(0, marks_ns={"fired": 0}), record(1, marks_ns={})]
    result = result_of("max(start_error) <= 1 ms", records)
    assert (result.samples, result.sessions) == (1, 2)
    result = result_of("max(agent_joined) <= 1 ms", records)
    assert (result.samples, result.sessions) == (2, 2)


@pytest.mark.parametrize(
    ("text", "options", "fault"),
    [
        ("count(lost) in engine=sdk == 0", {}, "no session of this run has engine sdk; give --witness, for"),
        ("count(lost) in engine=sdk == 0", {"witness": "2"}, ""),
        ("count(lost) in engine=listen == 0", {}, ""),
        ("count(lost) in engine=idle == 0", {}, "no session of this run has engine idle; use engine=listen"),
        ("count(lost) in region=eu == 0", {}, ""),
        ("count(lost) in burst=2 == 0", {}, "this run has 1 (--bursts)"),
        ("count(lost) in burst=2 == 0", {"bursts": "2"}, ""),
        ("count(lost) in batch=2 == 0", {}, "this run's bursts have 1 (--batch-size)"),
        ("count(lost) in batch=7 == 0", {"batch_size": "100"}, "this run's bursts have 6 (--batch-size)"),
        ("count(lost) in batch=7 == 0", {"batch_size": "99"}, ""),
        ("count(lost) in batch=7 == 0", {"course": "batches"}, ""),
        ("count(lost) in region=eu == 0", {"region_users": "eu=300,us=300"}, ""),
        (
            "count(lost) in region=eu1 == 0",
            {"region_users": "eu=300,us=300"},
            "--region-users has no users for region eu1; nearest: eu",
        ),
        (
            "count(lost) in region=mars == 0",
            {"region_users": "eu=300,us=300"},
            "--region-users has no users for region mars; there are eu, us",
        ),
    ],
)
def test_what_can_only_be_void_is_known_before_the_start(
    text: str, options: dict[str, str], fault: str
) -> None:
    found = slo.unmeasurable(slo.parse(text), settings(600, **options))
    assert [line.partition("': ")[2][: len(fault)] for line in found] == ([fault] if fault else [])
    assert all(line.startswith(f"--slo '{text}': ") for line in found)


QUEUE = {"created_at_ns": 1_000_000_000, "started_at_ns": 1_100_000_000}  # 100 ms


def queued(ordinal: int, **changes: int) -> Record:
    """An agent came to it; the server's stamps only if they are given."""
    return record(ordinal, marks_ns={"agent_seen": 400_000_000}, **changes)


@pytest.mark.parametrize(
    ("text", "value", "ok", "missing", "bound"),
    [
        # 18 waited 100 ms; of 2, whose agents came too, it is not known.
        ("p90(server_queue) <= 100 ms", 100, True, "", ""),
        ("p50(server_queue) < 100 ms", 100, False, "", ""),
        ("p95(server_queue) <= 100 ms", None, False, "server_queue is not known of 2 of 20 sessions", ""),
        ("p95(server_queue) <= 50 ms", 100, False, "", "at least"),
        ("max(server_queue) <= 9 s", None, False, "server_queue is not known of 2 of 20 sessions", ""),
        ("p5(server_queue) >= 100 ms", None, False, "server_queue is not known of 2 of 20 sessions", ""),
        ("p15(server_queue) >= 100 ms", 100, True, "", ""),
        ("p50(server_queue) == 100 ms", 100, True, "", ""),
        ("p95(server_queue) == 200 ms", None, False, "server_queue is not known of 2 of 20 sessions", ""),
        ("p95(server_queue) == 50 ms", 100, False, "", "at least"),
    ],
)
def test_a_phase_that_is_not_known_of_some_is_the_least_and_the_most_that_it_can_be(
    text: str, value: float | None, ok: bool, missing: str, bound: str
) -> None:
    records = [*(queued(n, **QUEUE) for n in range(18)), queued(18), queued(19), record(20)]
    result = result_of(text, records)
    assert (result.value, result.ok, result.missing) == (value, ok, missing)
    if not missing:
        assert (result.samples, result.sessions, result.unknown, result.bound) == (20, 21, 2, bound)


def test_every_phase_has_marks_by_which_it_is_over() -> None:
    assert set(slo.ENDS) == set(Phase)


def test_a_phase_that_is_known_of_none_is_missing() -> None:
    assert result_of("p50(server_queue) <= 9 s", [queued(0)]).missing == "no session has server_queue"


LEFT = ", whose users had their welcome and did not wait for it (--welcome, --watch)"


@pytest.mark.parametrize(
    ("text", "value", "ok", "missing"),
    [
        ("p95(first_text) <= 5 s", None, False, f"first_text is not known of 10 of 10 sessions{LEFT}"),
        ("p95(first_text) <= 200 ms", 250, False, ""),
        ("rate(first_text) >= 99 %", None, False, f"first_text is not known of 10 of 10 sessions{LEFT}"),
        ("count(first_text) <= 10", 10, True, ""),
        ("count(first_text) == 5", None, False, f"first_text is not known of 10 of 10 sessions{LEFT}"),
        ("count(first_text) == 11", 0, False, ""),
        ("count(welcomed) == 10", 10, True, ""),
    ],
)
def test_what_a_welcomed_user_did_not_wait_for_is_not_known(
    text: str, value: float | None, ok: bool, missing: str
) -> None:
    result = result_of(text, [welcomed(n, 250) for n in range(10)])
    assert (result.value, result.ok, result.missing) == (value, ok, missing)


def test_what_a_lost_user_did_not_get_never_came() -> None:
    result = result_of("rate(first_text) >= 99 %", [never_assigned(0)])
    assert (result.value, result.ok) == (0, False)


def test_an_agent_that_was_seen_has_joined_before() -> None:
    records = [record(0, marks_ns={"agent_seen": 400_000_000})]
    assert value_of("count(agent_joined) == 1", records) == (1, True)
    assert value_of("p50(agent_joined) <= 400 ms", records) == (400, True)
    assert result_of("p50(agent_joined) <= 399 ms", records).missing.startswith(
        "agent_joined is not known of 1"
    )


def test_a_mark_after_the_deadline_is_no_later_than_never() -> None:
    late = record(0, marks_ns={"agent_joined": 121_000_000_000})
    assert result_of("max(agent_joined) <= 200 s", [late, record(1)]).never
    assert value_of("p50(agent_joined) <= 121 s", [late, record(1)]) == (121_000, True)
