from __future__ import annotations

import itertools
import random

import pytest
from builders import record, settings

from lk_users.clock import NS_PER_S
from lk_users.course import BASELINE_GAP_S, FREE, BurstCourse, Role, Round, RoundResult
from lk_users.courses import MAKERS, course_of
from lk_users.errors import RecordError
from lk_users.plan import Share, apportion
from lk_users.settings.options import COURSES

S = NS_PER_S


def results(*rounds: Round) -> list[RoundResult]:
    return [RoundResult(number, one) for number, one in enumerate(rounds, 1)]


def test_a_course_for_every_name() -> None:
    assert tuple(MAKERS) == COURSES
    assert isinstance(course_of(settings()), BurstCourse)


def test_a_burst_alone_is_one_round() -> None:
    course = BurstCourse(settings(600, batch_size="50", batch_delay="0.5"))
    burst = Round(Role.BURST, 600, batch_size=50, batch_delay_s=0.5, last=True)
    assert course.next([]) == burst
    assert course.next(results(burst)) is None
    assert course.void_reasons(results(burst)) == ()


def test_baseline_bursts_and_control_come_one_after_another() -> None:
    course = BurstCourse(settings(600, baseline="3", bursts="2", burst_interval="20", control="spread=60s"))
    assert course.rounds == (
        Round(Role.BASELINE, 3, batch_size=1, batch_delay_s=BASELINE_GAP_S),
        Round(Role.BURST, 600, batch_delay_s=1.0),
        Round(Role.BURST, 600, batch_delay_s=1.0, rest_s=20.0),
        Round(Role.CONTROL, 600, spread_s=60.0, rest_s=20.0, last=True),
    )
    for number, one in enumerate(course.rounds):
        assert course.next(results(*course.rounds[:number])) == one
    assert course.next(results(*course.rounds)) is None


def test_a_baseline_starts_one_by_one() -> None:
    baseline = BurstCourse(settings(600, baseline="3")).rounds[0]
    assert [baseline.offset_ns(ordinal) for ordinal in range(3)] == [0, 2 * S, 4 * S]
    assert baseline.length_ns == 4 * S


@pytest.mark.parametrize("users", [1, 2, 3, 7, 20, 100, 101, 599, 600, 5000])
def test_a_control_has_a_start_in_every_equal_part_of_its_time(users: int) -> None:
    control = Round(Role.CONTROL, users, spread_s=60.0)
    starts = sorted(control.offset_ns(ordinal) for ordinal in range(users))
    assert starts == [round(turn * 60 * S / users) for turn in range(users)]
    assert control.length_ns == starts[-1]


@pytest.mark.parametrize("users", [20, 100, 599, 600])
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_each_worker_of_a_control_is_spread_over_the_whole_time(users: int, workers: int) -> None:
    control = Round(Role.CONTROL, users, spread_s=60.0)
    size = users // workers
    for first in range(0, size * workers, size):
        starts = sorted(control.offset_ns(ordinal) for ordinal in range(first, first + size))
        gaps = [after - before for before, after in itertools.pairwise(starts)]
        # Its sessions in a row would have gaps of 60 s / users, and none of the rest of the time.
        assert max([starts[0], 60 * S - starts[-1], *gaps]) <= 2.7 * 60 * S / size


def test_batches_go_as_they_are_asked_for() -> None:
    burst = Round(Role.BURST, 600, batch_size=50, batch_delay_s=0.25)
    assert [burst.offset_ns(n) for n in (0, 49, 50, 599)] == [0, 0, S // 4, 11 * S // 4]
    assert burst.length_ns == 11 * S // 4
    assert (FREE.length_ns, FREE.offset_ns(7)) == (0, 0)


def test_a_round_of_fewer_than_are_there_takes_no_more() -> None:
    assert Round(Role.BURST, 600).of(40).users == 40
    assert Round(Role.BASELINE, 1).of(40).users == 1


def test_rounds_and_shares_round_trip() -> None:
    control = Round(Role.CONTROL, 20, spread_s=5.0, rest_s=1.5, last=True)
    assert Round.from_dict(control.to_dict()) == control
    share = Share("run", 3, 5, 4, control)
    data = {"run_id": "run", "burst": 3, "first": 5, "count": 4, "round": control.to_dict()}
    assert Share.from_dict(data) == share
    assert share.total == 20


@pytest.mark.parametrize(
    "data",
    [None, 7, [], {}, {"role": "rehearsal", "users": 1}, {"role": "burst"}, {"role": "burst", "users": "1"},
     {"role": "burst", "users": 1, "more": 2}],
)  # fmt: skip
def test_what_is_no_round_is_said_so(data: object) -> None:
    with pytest.raises(RecordError):
        Round.from_dict(data)
    with pytest.raises(RecordError):
        Share.from_dict({"run_id": "run", "burst": 1, "first": 0, "count": 1, "round": data})


def test_a_result_says_what_it_is_of() -> None:
    one = RoundResult(2, Round(Role.BURST, 1), (record(0, burst=2),), ("a worker was lost",))
    assert (one.number, one.records[0].burst, one.void_reasons) == (2, 2, ("a worker was lost",))


# Who has how much of a round.

PARKED = {"w1": 150, "w2": 200, "w3": 150, "w4": 100}
REGIONS = {"w1": "us", "w2": "eu", "w3": "us", "w4": "ap"}


@pytest.mark.parametrize(
    ("users", "parts"),
    [
        (600, [150, 200, 150, 100]),
        (300, [75, 100, 75, 50]),
        (60, [15, 20, 15, 10]),
        (6, [2, 2, 1, 1]),
        (2, [1, 1, 0, 0]),
        (1, [1, 0, 0, 0]),
        (0, [0, 0, 0, 0]),
        (700, [150, 200, 150, 100]),
    ],
)
def test_a_round_is_parted_as_its_users_are(users: int, parts: list[int]) -> None:
    assert list(apportion(users, PARKED, REGIONS).values()) == parts


def test_a_region_of_many_workers_has_its_part() -> None:
    """By workers alone each of the ten would come to 0.4, and the other to 1."""
    parked = {**{f"us{n}": 40 for n in range(10)}, "eu": 100}
    parts = apportion(5, parked, {name: name[:2] for name in parked})
    assert parts.pop("eu") == 1
    assert sorted(parts.values()) == [0] * 6 + [1] * 4


def test_no_worker_has_more_than_it_has_parked_nor_far_from_its_part() -> None:
    rng = random.Random(20261124)
    for _ in range(2000):
        parked = {f"w{n}": rng.choice((0, 1, rng.randrange(400))) for n in range(rng.randrange(1, 9))}
        regions = {name: rng.choice(("us", "eu", "ap")) for name in parked}
        there = sum(parked.values())
        users = rng.randrange(there + 2)
        parts = apportion(users, parked, regions)
        assert list(parts) == list(parked)
        assert sum(parts.values()) == min(users, there)
        for name, part in parts.items():
            assert 0 <= part <= parked[name]
            # Rounded once by region and once by worker.
            assert abs(part - min(users, there) * parked[name] / max(1, there)) < 2
