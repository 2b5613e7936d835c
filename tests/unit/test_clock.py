from __future__ import annotations

import random

from lk_users.clock import NS_PER_MS, NS_PER_S, NodeClock, Offset, PingEstimator, ServerClock, SystemClock

MS = NS_PER_MS


def test_offset_goes_both_ways() -> None:
    offset = Offset(500, 10)
    assert offset.to_theirs_ns(100) == 600
    assert offset.to_ours_ns(600) == 100


def test_no_ping_no_offset() -> None:
    assert PingEstimator().at(0) is None


def test_one_ping_is_known_to_half_its_round_trip() -> None:
    estimator = PingEstimator()
    estimator.add(1000 * MS, 5005 * MS, 1010 * MS)
    assert estimator.at(1010 * MS) == Offset(4000 * MS, 5 * MS)


def test_uncertainty_grows_by_100_ppm_of_age() -> None:
    estimator = PingEstimator()
    estimator.add(0, 5, 10)
    later = estimator.at(10 + 60 * NS_PER_S)
    assert later == Offset(0, 5 + 6 * MS)


def test_the_smallest_round_trip_wins_and_a_slow_one_changes_nothing() -> None:
    estimator = PingEstimator()
    estimator.add(0, 101 * MS, 2 * MS)
    estimator.add(10 * MS, 150 * MS, 50 * MS)
    estimate = estimator.at(50 * MS)
    assert estimate is not None
    assert estimate.offset_ns == 100 * MS


def test_an_old_estimate_gives_way_to_a_slower_fresh_one() -> None:
    estimator = PingEstimator()
    estimator.add(0, 1 * MS, 2 * MS)
    after = 3600 * NS_PER_S
    estimator.add(after, after + 50 * MS, after + 20 * MS)
    assert estimator.at(after + 20 * MS) == Offset(40 * MS, 10 * MS)


def test_the_true_offset_lies_within_the_uncertainty_whatever_the_delays_and_drift() -> None:
    rng = random.Random(11)
    for _ in range(100):
        true_ns, drift_ppm = rng.randrange(-(10**12), 10**12), rng.uniform(-90, 90)
        estimator, now = PingEstimator(), 0

        def theirs(ours_ns: int, true_ns: int = true_ns, drift_ppm: float = drift_ppm) -> int:
            return ours_ns + true_ns + round(ours_ns * drift_ppm / 1_000_000)

        for _ in range(40):
            out, back = rng.randrange(1, 30 * MS), rng.randrange(1, 30 * MS)
            estimator.add(now, theirs(now + out), now + out + back)
            now += out + back + rng.randrange(2 * NS_PER_S)
            estimate = estimator.at(now)
            assert estimate is not None
            error = abs(estimate.to_theirs_ns(now) - theirs(now))
            # Rounding to whole nanoseconds, a few of them.
            assert error <= estimate.uncertainty_ns + 4


def test_a_node_without_brackets() -> None:
    assert NodeClock().offset(0) is None
    assert ServerClock().offset("N1", 0) is None


def test_a_node_intersects_brackets() -> None:
    clock = NodeClock()
    clock.add(after_ns=0, stamp_ns=1000, before_ns=100)  # 900 to 1000
    clock.add(after_ns=200, stamp_ns=1150, before_ns=230)  # 920 to 950
    assert clock.offset(230) == Offset(935, 15)
    assert (clock.brackets, clock.apart) == (2, 0)


def test_a_node_allows_for_cut_stamps() -> None:
    clock = NodeClock()
    clock.add(after_ns=0, stamp_ns=1_000_000, before_ns=0, resolution_ns=1_000_000)
    assert clock.offset(0) == Offset(1_500_000, 500_000)


def test_where_brackets_of_a_node_do_not_meet_the_narrowest_stands() -> None:
    clock = NodeClock()
    clock.add(0, 1000, 100)
    clock.add(0, 5010, 10)
    clock.add(0, 9000, 50)
    assert clock.offset(50) == Offset(5005, 5)
    assert (clock.brackets, clock.apart) == (3, 2)


def test_a_bracket_that_ends_before_it_begins_is_left_out() -> None:
    clock = NodeClock()
    clock.add(100, 1000, 0)
    assert (clock.offset(0), clock.brackets) == (None, 0)


def test_what_is_known_of_a_node_ages_by_100_ppm() -> None:
    clock = NodeClock()
    clock.add(0, 1000 * MS, 2 * MS)
    later = clock.offset(2 * MS + 3600 * NS_PER_S)
    assert later is not None
    assert later.uncertainty_ns == 1 * MS + 360 * MS


def test_a_node_s_true_offset_lies_within_the_uncertainty_through_hours_of_drift() -> None:
    rng = random.Random(5)
    for _ in range(50):
        true_ns, drift_ppm = rng.randrange(-(10**15), 10**15), rng.uniform(-90, 90)
        clock, now = NodeClock(), 0

        def theirs(ours_ns: int, true_ns: int = true_ns, drift_ppm: float = drift_ppm) -> int:
            return ours_ns + true_ns + round(ours_ns * drift_ppm / 1_000_000)

        for _ in range(60):
            after, inside = now, now + rng.randrange(1, 500 * MS)
            now = inside + rng.randrange(1, 500 * MS)
            stamp = theirs(inside)
            resolution = rng.choice((0, MS))
            clock.add(after, stamp - (stamp % MS if resolution else 0), now, resolution)
            now += rng.randrange(300 * NS_PER_S)
            at = now - rng.randrange(100 * NS_PER_S)
            estimate = clock.offset(at)
            assert estimate is not None
            assert abs(estimate.to_theirs_ns(at) - theirs(at)) <= estimate.uncertainty_ns + 4
        assert clock.apart == 0


class Still:
    """A clock that stands: one second on, at 500 s wall time."""

    def monotonic_ns(self) -> int:
        return NS_PER_S

    def wall_ns(self) -> int:
        return 500 * NS_PER_S


def test_each_node_has_its_own_clock_and_the_summary_says_how_far_they_are_apart() -> None:
    server, now = ServerClock(), NS_PER_S
    assert server.summary(Still()) == {}
    ahead = 499 * NS_PER_S  # No offset between the wall clocks.
    server.add("N1", now - 2 * MS, now + ahead - MS, now)
    server.add("N1", now - 4 * MS, now + ahead - 2 * MS, now)
    assert server.summary(Still()) == {
        "offset_ms": 0.0, "uncertainty_ms": 1.0, "brackets": 2, "apart": 0, "nodes": 1, "nodes_apart_ms": 0.0,
    }  # fmt: skip
    server.add("N2", now - 20 * MS, now + ahead + 300 * MS, now)
    assert server.offset("N1", now) == Offset(ahead, MS)
    assert server.offset("N2", now) == Offset(ahead + 310 * MS, 10 * MS)
    assert server.summary(Still()) == {
        "offset_ms": 0.0, "uncertainty_ms": 10.0, "brackets": 3, "apart": 0, "nodes": 2,
        "nodes_apart_ms": 299.0,
    }  # fmt: skip


def test_system_clock_moves_on() -> None:
    clock = SystemClock()
    assert clock.monotonic_ns() <= clock.monotonic_ns()
    assert clock.wall_ns() > 1_700_000_000 * NS_PER_S
