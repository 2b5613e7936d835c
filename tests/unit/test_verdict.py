from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from builders import never_assigned, record, settings, trailer, welcomed

from lk_users.health import Lag
from lk_users.outcome import ExitCode, Verdict
from lk_users.slo import SloResult
from lk_users.verdict import Judgement, counted, judge

if TYPE_CHECKING:
    from lk_users.record import Record

MET = SloResult("count(lost) == 0", 0, ok=True)
MISSED = SloResult("count(lost) == 0", 1, ok=False)


def judged(records: list[Record], slos: tuple[SloResult, ...] = (MET,), **changes: Any) -> Judgement:
    """With a trailer of each worker that fits its records, unless told otherwise."""
    workers = {(one.worker, one.region, one.burst) for one in records}
    fitting = []
    for worker, region, burst in sorted(workers):
        n = sum((r.worker, r.burst) == (worker, burst) for r in records)
        fitting.append(trailer(worker, region, burst=burst, intended=n, recorded=n))
    values = {
        "trailers": fitting,
        "intended": len(records),
        "settings": settings(max(1, len(records)), **changes.pop("options", {})),
        **changes,
    }
    return judge(records, slo_results=slos, **values)


def void_of(*arguments: Any, **changes: Any) -> tuple[str, ...]:
    judgement = judged(*arguments, **changes)
    assert (judgement.verdict, judgement.exit_code) == (Verdict.VOID, ExitCode.VOID)
    return judgement.void_reasons


def test_pass() -> None:
    judgement = judged([welcomed(0), welcomed(1)])
    assert judgement == Judgement(Verdict.PASS, ExitCode.PASS, (), (MET,))


def test_slo_failed() -> None:
    judgement = judged([welcomed(0), never_assigned(1)], (MET, MISSED))
    assert judgement == Judgement(Verdict.SLO_FAILED, ExitCode.SLO_FAILED, (), (MET, MISSED))
    assert judgement.exit_code == 10


def test_void_comes_before_a_missed_slo() -> None:
    judgement = judged([welcomed(0)], (MISSED,), intended=2)
    assert judgement.verdict is Verdict.VOID
    assert judgement.exit_code == 11
    assert judgement.slo == (MISSED,)


def test_no_record_is_void() -> None:
    assert void_of([]) == ("no session was recorded: nothing was measured",)


def test_no_slo_is_void() -> None:
    assert void_of([welcomed(0)], ()) == ("no SLO was evaluated: nothing says what a pass would be",)


def test_an_slo_without_data_is_void_and_named() -> None:
    nothing = SloResult("max(speak) < 1 s", None, ok=False, missing="no session has speak")
    assert void_of([welcomed(0)], (MET, MISSED, nothing)) == (
        "no data for max(speak) < 1 s: no session has speak",
    )
    assert len(void_of([], (nothing,))) == 1


@pytest.mark.parametrize("intended", [1, 3])
def test_records_must_equal_intended(intended: int) -> None:
    (reason,) = void_of([welcomed(0), welcomed(1)], intended=intended)
    assert reason.startswith(f"2 records of {intended} intended sessions")


def test_duplicate_session_ids_are_void() -> None:
    (reason,) = void_of([welcomed(0), welcomed(0)])
    assert reason == f"recorded more than once: 1 session, for example {welcomed(0).session_id}"


def test_each_outcome_of_ours_is_void_and_says_how_many() -> None:
    lost = [record(i, findings={"generator_lost": ""}) for i in range(3)]
    crashed = [record(3, findings={"engine_crashed": ""})]
    cancelled = [record(i, findings={"cancelled": ""}) for i in range(4, 16)]
    reasons = void_of([*lost, *crashed, *cancelled, welcomed(16)])
    assert reasons == (
        "3 sessions were lost with their worker: it died, or its last records never came",
        "1 session was cut short by a crash of the generator's own engine",
        "12 sessions were cancelled: the run was stopped before their outcome",
    )


def test_the_end_of_a_free_run_cancels_without_voiding() -> None:
    cancelled = record(1, findings={"cancelled": ""})
    free = {"release": "free"}
    assert judged([welcomed(0), cancelled], options=free).verdict is Verdict.PASS
    assert void_of([cancelled], options=free) == (
        "1 session was cancelled: the run was stopped before their outcome",
    )
    assert len(void_of([welcomed(0), record(1, findings={"generator_lost": ""})], options=free)) == 1


def test_counted_leaves_out_only_what_the_end_of_a_free_run_cut() -> None:
    records = [welcomed(0), record(1, findings={"cancelled": ""}), record(2, findings={"generator_lost": ""})]
    assert counted(records, settings()) == records
    assert counted(records, settings(release="free")) == [records[0], records[2]]


def test_start_error_is_judged_at_p99_over_those_that_wrote() -> None:
    on_time = [welcomed(i, marks_ns={"fired": 50_000_000}) for i in range(99)]
    late = welcomed(99, marks_ns={"fired": 80_000_000})
    silent = [never_assigned(i, marks_ns={}) for i in range(100, 300)]
    assert judged([*on_time, late, *silent]).verdict is Verdict.PASS
    (reason,) = void_of([*on_time[1:], late])
    assert reason.startswith("the requests left 80.0 ms off their planned start (p99; --max-start-error 50)")
    assert judged([*on_time[1:], late], options={"max_start_error": "80"}).verdict is Verdict.PASS


def test_a_start_error_names_the_workers_that_it_comes_from() -> None:
    on_time = [welcomed(i, worker="w1", region="eu", marks_ns={"fired": 1_000_000}) for i in range(60)]
    late = [welcomed(i, worker="w2", region="ap", marks_ns={"fired": 2_000_000_000}) for i in range(60, 70)]
    trailers = [trailer(worker="w1"), trailer(worker="w2")]
    assert void_of([*on_time, *late], trailers=trailers)[1:] == (
        "worker w2 (ap): its requests left 2000.0 ms off (p99)",
    )


def test_an_early_start_is_an_error_too() -> None:
    assert "80.0 ms" in void_of([welcomed(0, marks_ns={"fired": -80_000_000})])[0]


def test_a_worker_with_records_must_leave_its_last_word_on_each_burst() -> None:
    records = [welcomed(0), welcomed(0, burst=1, session_id="b1")]
    (reason,) = void_of(records, trailers=[trailer(burst=0, intended=1, recorded=1)])
    assert reason == "worker w1 (eu): no last word on burst 1; it died or was cut off"


def test_an_expected_worker_must_leave_its_last_word() -> None:
    expected = [("w1", "eu"), ("w2", "us")]
    assert void_of([welcomed(0)], expected_workers=expected) == (
        "worker w2 (us): no last word; it died or was cut off",
    )
    assert judged([welcomed(0)], expected_workers=expected[:1]).verdict is Verdict.PASS


def test_a_lost_worker_is_named_once() -> None:
    (reason,) = void_of([welcomed(0)], trailers=[], expected_workers=[("w1", "eu")])
    assert reason == "worker w1 (eu): no last word on burst 0; it died or was cut off"


def test_reasons_of_workers_are_taken_over() -> None:
    stalled = trailer(
        intended=1,
        recorded=1,
        lag={"asyncio": Lag(1.0, 5.0, 1400.0)},
        clock_uncertainty_ms=300.0,
        void=("its disk was full",),
    )
    reasons = void_of([welcomed(0)], trailers=[stalled])
    assert [reason.startswith("worker w1 (eu): ") for reason in reasons] == [True, True, True]
    assert "its disk was full" in reasons[0]
    assert "asyncio loop stalled for 1400 ms (--max-stall 1000)" in reasons[1]
    assert "±300 ms (--max-clock-uncertainty 250)" in reasons[2]


def test_further_faults_void() -> None:
    assert void_of([welcomed(0)], faults=["x"]) == ("x",)
