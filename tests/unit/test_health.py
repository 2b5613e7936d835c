from __future__ import annotations

import json
import random
from typing import Any

import pytest
from builders import settings, trailer

from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.errors import RecordError
from lk_users.health import LAG_INTERVAL_NS, Lag, LagMeter, Trailer, worker_void_reasons

MS = NS_PER_MS


def metered(lags_ms: list[int]) -> LagMeter:
    """A loop whose ticks came so late, one after another."""
    meter, now = LagMeter(), 0
    for lag in lags_ms:
        now += LAG_INTERVAL_NS + lag * MS
        meter.add(now, lag * MS)
    return meter


def test_percentiles_are_weighted_by_time() -> None:
    # 99 quiet ticks are 990 ms, one stall is 460 ms: almost a third of the time, though 1 % of the samples.
    meter = metered([0] * 99 + [450])
    assert meter.summary(0, 10 * NS_PER_S) == Lag(0.0, 450.0, 450.0)
    assert metered([0] * 9999 + [450]).summary(0, 1000 * NS_PER_S) == Lag(0.0, 0.0, 450.0)


def test_percentiles_of_even_lag() -> None:
    assert metered([5] * 50).summary(0, NS_PER_S) == Lag(5.0, 5.0, 5.0)


def test_summary_of_nothing() -> None:
    assert LagMeter().summary(0, NS_PER_S) == Lag()
    assert metered([5]).summary(NS_PER_S, 2 * NS_PER_S) == Lag()


def test_a_stall_counts_where_any_part_of_it_fell_into_the_window() -> None:
    meter = LagMeter()
    meter.add(1000 * MS, 300 * MS)  # from 700 to 1000
    assert meter.largest_ns(0, 699 * MS) == 0
    assert meter.largest_ns(0, 700 * MS) == 300 * MS
    assert meter.largest_ns(999 * MS, 2000 * MS) == 300 * MS
    assert meter.largest_ns(1001 * MS, 2000 * MS) == 0


def test_an_early_tick_is_no_lag() -> None:
    meter = LagMeter()
    meter.add(10, -5)
    assert meter.largest_ns(0, 20) == 0


def test_running_largest_equals_brute_force() -> None:
    rng = random.Random(5)
    for _ in range(50):
        meter = metered([rng.choice((0, 0, 1, 7, rng.randrange(500))) for _ in range(rng.randrange(60))])
        start = rng.randrange(3000) * MS
        ends = [start + rng.randrange(4000) * MS for _ in range(40)]
        assert meter.running_largest_ns(start, ends) == [meter.largest_ns(start, end) for end in ends]


def test_trailer_round_trip() -> None:
    one = trailer(
        intended=5, recorded=5, lag={"asyncio": Lag(1, 2, 3)}, start_lag={"gevent": Lag(4, 5, 6)}, void=("x",)
    )
    assert Trailer.from_dict(json.loads(json.dumps(one.to_dict()))) == one


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"worker": "w"},
        {"worker": "w", "region": "r", "burst": "0", "intended": 0, "recorded": 0},
        {"worker": "w", "region": "r", "burst": 0, "intended": 0, "recorded": 0, "lag": []},
        {"worker": "w", "region": "r", "burst": 0, "intended": 0, "recorded": 0, "lag": {"a": {"p1": 0}}},
    ],
)
def test_other_trailers_are_refused(data: object) -> None:
    with pytest.raises(RecordError):
        Trailer.from_dict(data)


def test_a_trailer_of_a_newer_version_is_read() -> None:
    data = {**trailer().to_dict(), "shoe_size": 44}
    assert Trailer.from_dict(data) == trailer()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"lag": {"gevent": Lag(0, 0, 1000.1)}}, "its gevent loop stalled for 1000 ms (--max-stall 1000)"),
        ({"clock_uncertainty_ms": 250.1}, "known only to ±250 ms (--max-clock-uncertainty 250)"),
        ({"intended": 7, "recorded": 6}, "6 records of 7 sessions in burst 0"),
        ({"void": ("the disk was full",)}, "the disk was full"),
        ({"clock_moved_ms": 3000.0}, "its clock moved by 3.0 s against the master's during the run"),
        ({"clock_moved_ms": 10.6}, "its clock moved by 11 ms against the master's during the run"),
        # One cause, one line.
        ({"clock_moved_ms": 3000.0, "clock_uncertainty_ms": 3001.0}, "its clock moved by 3.0 s"),
        ({"wall_step_ms": 3000.0}, "its wall clock was set by +3.0 s during the run"),
        ({"wall_step_ms": -150.0}, "its wall clock was set by -150 ms during the run"),
    ],
)
def test_void_reasons(changes: dict[str, Any], part: str) -> None:
    (reason,) = worker_void_reasons(trailer(**changes), settings())
    assert reason.startswith("worker w1 (eu): ")
    assert part in reason


def test_no_void_reason_at_the_limits() -> None:
    fine = trailer(
        lag={"asyncio": Lag(0, 0, 1000.0)},
        clock_uncertainty_ms=250.0,
        intended=3,
        recorded=3,
        clock_moved_ms=10.0,
    )
    assert worker_void_reasons(fine, settings()) == []
