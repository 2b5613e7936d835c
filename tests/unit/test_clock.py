from __future__ import annotations

import random

import pytest

from lk_users.clock import NS_PER_MS, NS_PER_S, Offset, OtherClock, ServerClock, SystemClock, WallWatch

MS = NS_PER_MS


def test_offset_goes_both_ways() -> None:
    offset = Offset(500, 10)
    assert offset.to_theirs_ns(100) == 600
    assert offset.to_ours_ns(600) == 100


def pings() -> OtherClock:
    return OtherClock(newest_stands=True)


def test_one_ping_is_known_to_half_its_round_trip() -> None:
    clock = pings()
    assert clock.offset(0) is None
    clock.add(1000 * MS, 5005 * MS, 1010 * MS)
    # And to what the clocks drift in one: 1 us in 10 ms.
    assert clock.offset(1010 * MS) == Offset(4000 * MS + 500, 5 * MS + 500)
    assert clock.trip_ns == 10 * MS


def test_two_pings_keep_the_quick_way_of_each() -> None:
    clock = pings()
    clock.add(0, 1 * MS, 100 * MS)  # 1 ms there, 99 back: the offset is at most 1 ms.
    clock.add(100 * MS, 199 * MS, 200 * MS)  # 99 ms there, 1 back: it is at least -1 ms.
    known = clock.offset(200 * MS)
    assert known is not None
    assert abs(known.offset_ns) <= 20_000
    assert 1 * MS <= known.uncertainty_ns <= 1 * MS + 20_000
    assert (clock.trip_ns, clock.apart) == (100 * MS, 0)


@pytest.mark.parametrize("step_s", [3.0, -3.0, 0.05])
def test_a_clock_that_was_moved_is_followed_and_told(step_s: float) -> None:
    clock, step_ns = pings(), round(step_s * NS_PER_S)
    for number in range(10):
        sent_ns = number * NS_PER_S
        moved_ns = step_ns if number >= 5 else 0
        clock.add(sent_ns, sent_ns + MS + moved_ns, sent_ns + 2 * MS)
    known = clock.offset(10 * NS_PER_S)
    assert known is not None
    assert abs(known.offset_ns - step_ns) <= known.uncertainty_ns <= 2 * MS
    assert clock.apart == 1
    assert abs(step_ns) - 3 * MS <= clock.moved_ns <= abs(step_ns)


def test_a_late_answer_from_before_a_step_does_not_undo_it() -> None:
    clock = pings()
    clock.add(0, MS, 2 * MS)
    clock.add(500 * MS, 3501 * MS, 502 * MS)
    clock.add(300 * MS, 301 * MS, 503 * MS)
    known = clock.offset(503 * MS)
    assert known is not None
    assert abs(known.offset_ns - 3 * NS_PER_S) <= known.uncertainty_ns <= 2 * MS
    assert clock.apart == 1


def test_brackets_in_any_order_lead_to_the_same() -> None:
    """An old one that comes late knows no more of now than it did when it was new."""
    spans = [(0, MS, 2 * MS), (600 * NS_PER_S, 600 * NS_PER_S + 30 * MS, 600 * NS_PER_S + 70 * MS)]
    known = []
    for order in (spans, spans[::-1]):
        clock = OtherClock()
        for span in order:
            clock.add(*span)
        known.append(clock.interval_ns(700 * NS_PER_S))
    assert known[0] == known[1]


class Set:
    """A clock that goes on by a second a look at it, and a wall clock that is set and slewed."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.ahead_ns = 1_000 * NS_PER_S

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns + self.ahead_ns


@pytest.mark.parametrize(
    ("after_s", "change_ms", "step_ms"),
    [
        (1, 0, 0), (1, 100, 0), (1, 102, 102), (1, -102, -102), (600, 3000, 3000), (600, -7000, -7000),
        # Ten minutes of slewing at 500 ppm, either way.
        (600, 300, 0), (600, -300, 0), (600, 401, 401),
    ],
)  # fmt: skip
def test_a_wall_clock_that_is_set_is_told_from_one_that_is_slewed(
    after_s: int, change_ms: int, step_ms: int
) -> None:
    clock = Set()
    watch = WallWatch(clock)
    clock.now_ns += after_s * NS_PER_S
    clock.ahead_ns += change_ms * MS
    assert watch.step_ns() == step_ms * MS


def test_a_node_without_brackets() -> None:
    assert OtherClock().offset(0) is None
    assert ServerClock().offset("N1", 0) is None


def test_a_node_intersects_brackets() -> None:
    clock = OtherClock()
    clock.add(after_ns=0, stamp_ns=1000, before_ns=100)  # 900 to 1000
    clock.add(after_ns=200, stamp_ns=1150, before_ns=230)  # 920 to 950
    # And a nanosecond of drift while the second was under way.
    assert clock.offset(230) == Offset(935, 16)
    assert (clock.brackets, clock.apart) == (2, 0)


def test_a_node_allows_for_cut_stamps() -> None:
    clock = OtherClock()
    clock.add(after_ns=0, stamp_ns=1_000_000, before_ns=0, resolution_ns=1_000_000)
    assert clock.offset(0) == Offset(1_500_000, 500_000)


def test_where_brackets_of_a_node_do_not_meet_the_narrowest_stands() -> None:
    clock = OtherClock()
    clock.add(0, 1000, 100)
    clock.add(0, 5010, 10)
    clock.add(0, 9000, 50)
    assert clock.offset(50) == Offset(5005, 8)
    assert (clock.brackets, clock.apart) == (3, 2)


def test_a_bracket_that_ends_before_it_begins_is_left_out() -> None:
    clock = OtherClock()
    clock.add(100, 1000, 0)
    assert (clock.offset(0), clock.brackets) == (None, 0)


def test_what_is_known_of_a_node_ages_by_100_ppm() -> None:
    clock = OtherClock()
    clock.add(0, 1000 * MS, 2 * MS)
    later = clock.offset(2 * MS + 3600 * NS_PER_S)
    assert later is not None
    assert later.uncertainty_ns == 1 * MS + 100 + 360 * MS


def test_a_node_s_true_offset_lies_within_the_uncertainty_through_hours_of_drift() -> None:
    rng = random.Random(5)
    for _ in range(50):
        true_ns, drift_ppm = rng.randrange(-(10**15), 10**15), rng.uniform(-90, 90)
        clock, now = OtherClock(), 0

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
    assert server.offset("N1", now) == Offset(ahead + 100, MS + 100)
    assert server.offset("N2", now) == Offset(ahead + 310 * MS + 1000, 10 * MS + 1000)
    assert server.summary(Still()) == {
        "offset_ms": 0.0, "uncertainty_ms": 10.001, "brackets": 3, "apart": 0, "nodes": 2,
        "nodes_apart_ms": 299.0,
    }  # fmt: skip


def test_system_clock_moves_on() -> None:
    clock = SystemClock()
    assert clock.monotonic_ns() <= clock.monotonic_ns()
    assert clock.wall_ns() > 1_700_000_000 * NS_PER_S
