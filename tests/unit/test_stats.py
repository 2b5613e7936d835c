from __future__ import annotations

from fractions import Fraction

import pytest
from builders import DEADLINE_NS, record, welcomed

from lk_users.record import Mark, Phase
from lk_users.stats import limit_ns, mark_samples_ns, percentile, phase_samples_ns, start_errors_ns


@pytest.mark.parametrize(
    ("n", "percent", "rank"),
    [
        (1, 50, 1),
        (2, 50, 1),
        (3, 50, 2),
        (10, 90, 9),
        (10, 95, 10),
        (100, 99, 99),
        (100, 100, 100),
        (600, 99, 594),
        # In floats 99.9 / 100 * 1000 is a little more than 999, and the ceiling of that is wrong.
        (1000, Fraction("99.9"), 999),
        (1001, Fraction("99.9"), 1000),
        (10, Fraction("0.001"), 1),
    ],
)
def test_nearest_rank(n: int, percent: Fraction | int, rank: int) -> None:
    assert percentile(range(1, n + 1), percent) == rank


def test_percentile_of_nothing_is_none() -> None:
    assert percentile([], 50) is None


def test_nearest_rank_is_the_smallest_value_that_covers_the_percentage() -> None:
    ordered = [3, 3, 5, 8, 13, 13, 21]
    for percent in range(1, 101):
        value = percentile(ordered, percent)
        assert value is not None
        assert sum(v <= value for v in ordered) * 100 >= percent * len(ordered)
        assert sum(v < value for v in ordered) * 100 < percent * len(ordered)


def test_a_session_that_never_got_there_counts_at_its_deadline() -> None:
    records = [welcomed(0, 300), record(1), welcomed(2, 200)]
    assert mark_samples_ns(records, Mark.WELCOMED) == [200_000_000, 300_000_000, DEADLINE_NS]
    assert limit_ns(record(decided_ns=5)) == DEADLINE_NS
    assert limit_ns(record(deadline_ns=0, decided_ns=5)) == 5


def test_phases_are_not_censored() -> None:
    assert phase_samples_ns([welcomed(0), record(1)], Phase.DISPATCH_API) == [3_000_000]


def test_start_errors_are_distances_of_those_that_wrote() -> None:
    records = [welcomed(0, marks_ns={"fired": -3}), welcomed(1, marks_ns={"fired": 2}), record(2)]
    assert start_errors_ns(records) == [2, 3]
