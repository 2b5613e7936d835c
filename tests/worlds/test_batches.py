"""Batches are searched on a simulated target, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from builders import settings
from target import Target

from lk_users.batches import BatchCourse, Plan, all_in_ns, joins_per_s, neat, plan_of
from lk_users.clock import NS_PER_S

if TYPE_CHECKING:
    from lk_users.batches import BatchSearch

SLO = "p99(agent_joined) <= 4s"


def course(users: int = 600, **options: str) -> BatchCourse:
    return BatchCourse(settings(users, course="batches", slo=SLO, **options))


def searched(target: Target, users: int = 600, **options: str) -> BatchSearch:
    searching = course(users, **options)
    return searching.result(target.play(searching))


@pytest.mark.parametrize("rate", [5, 10, 25, 60, 130])
def test_a_few_bursts_find_a_plan_near_the_best(rate: float) -> None:
    target = Target(jobs_per_s=rate)
    found = searched(target)
    assert found.plan is not None
    assert found.way == "search"
    assert target.plans[0] == (0, 0.0)
    assert len(target.plans) <= 8
    assert all(cell.ok for cell in found.of_plan(found.plan))
    # No plan can have all of them welcomed sooner than the target can do.
    assert found.judged is not None
    assert all_in_ns(found.judged) / NS_PER_S <= 1.1 * 600 / rate + 0.3
    assert found.at_once is not None
    assert not found.at_once.ok


def test_how_it_goes_at_25_jobs_a_second() -> None:
    target = Target(jobs_per_s=25)
    found = searched(target)
    # A shorter delay fails; a smaller and a larger batch at nine tenths of the time save nothing.
    assert target.plans == [(0, 0.0), (25, 1.0), (25, 0.67), (10, 0.35), (50, 1.9)]
    assert [cell.ok for cell in found.cells] == [False, True, False, True, True]
    # All within a tenth of 24 s: 25 every second let nobody wait for others than those of their batch.
    assert found.plan == Plan(600, 25, 1.0)


def test_where_all_at_once_is_well_there_is_nothing_to_search() -> None:
    target = Target(jobs_per_s=1000)
    found = searched(target)
    assert target.plans == [(0, 0.0)]
    assert found.plan == Plan(600, 600, 0.0)
    assert found.plan.planned_ns == 0
    assert found.judged is found.at_once


def test_no_plan_where_not_even_one_alone_is_well() -> None:
    searching = BatchCourse(settings(100, course="batches", slo="p99(agent_joined) <= 200 ms"))
    target = Target(jobs_per_s=10)
    found = searching.result(target.play(searching))
    assert found.plan is None
    # Three delays of 25, then of what is smaller; 50 would be harder.
    assert target.plans == [(0, 0.0), (25, 2.5), (25, 3.8), (25, 5.7), (10, 1.0), (10, 1.5), (10, 2.2)]
    assert found.judged is found.cells[-1]
    assert found.stopped == ""


def test_where_a_batch_is_too_large_a_smaller_one_is_searched() -> None:
    """25 at 5 a second take 5 s, whatever the delay."""
    target = Target(jobs_per_s=5)
    found = searched(target)
    assert target.plans[:5] == [(0, 0.0), (25, 5.0), (25, 7.5), (25, 11.0), (10, 2.0)]
    assert 50 not in [size for size, _ in target.plans]
    assert found.plan == Plan(600, 10, 2.0)


def test_where_the_measured_rate_is_too_much_the_gap_is_halved_once() -> None:
    """In batches it does a fifth less than all at once: at that rate the queue grows."""
    searching = BatchCourse(settings(600, course="batches", slo="p99(agent_joined) <= 2 s", batch_sizes="25"))
    target = Target(jobs_per_s=25, spare=0.2)
    found = searching.result(target.play(searching))
    assert target.plans == [(0, 0.0), (25, 1.0), (25, 1.5), (25, 1.2)]
    assert [cell.ok for cell in found.cells] == [False, False, True, False]
    assert found.plan == Plan(600, 25, 1.5)


def test_a_target_that_batches_relieve_is_searched_on() -> None:
    """All at once it does 10 a second, in batches 40."""
    target = Target(jobs_per_s=10, relieved_jobs_per_s=40)
    found = searched(target, batch_sizes="20")
    assert target.plans[:4] == [(0, 0.0), (20, 2.0), (20, 1.3), (20, 0.87)]
    assert found.plan is not None
    assert found.plan.delay_s <= 0.6


def test_a_grid_runs_each_cell_once() -> None:
    target = Target(jobs_per_s=25)
    found = searched(target, batch_sizes="50,25", batch_delays="0.5,1,2")
    assert target.plans == [(50, 0.5), (50, 1), (50, 2), (25, 0.5), (25, 1), (25, 2)]
    assert found.way == "grid"
    assert [cell.ok for cell in found.cells] == [False, False, True, False, True, True]
    # 50 every 2 s are as fast, but their users wait for each other.
    assert found.plan == Plan(600, 25, 1.0)
    assert found.at_once is None


def test_a_plan_must_hold_each_time() -> None:
    target = Target(jobs_per_s=25, noise_ms=2000, seed=4)
    found = searched(target, repeats="3", batch_sizes="25", batch_delays="0.85,0.9,1")
    oks: dict[float, list[bool]] = {}
    for cell in found.cells:
        oks.setdefault(cell.round.batch_delay_s, []).append(cell.ok)
    # What passed at first and not each time is not the plan, and is left at its first failure.
    assert oks == {0.85: [False], 0.9: [True, False], 1.0: [True, True, True]}
    assert found.plan == Plan(600, 25, 1.0)
    assert [cell.repeat for cell in found.of_plan(found.plan)] == [1, 2, 3]


def test_a_void_burst_ends_it() -> None:
    searching = course()
    target = Target(jobs_per_s=25, void_at=(5,))
    found = searching.result(target.play(searching))
    assert len(target.done) == 6
    assert found.stopped == "burst 5 (600 users) was void: the generator stalled"
    assert searching.void_reasons(target.done) == (found.stopped,)
    # The plan so far.
    assert found.plan == Plan(600, 25, 1.0)


def test_a_run_that_was_cut_short_says_so() -> None:
    searching = course()
    done = Target(jobs_per_s=25).play(searching)
    assert searching.void_reasons(done) == ()
    assert searching.void_reasons(done[:3]) == ("the run ended before its search did",)


def test_all_in_counts_from_t0_to_the_last_welcome() -> None:
    target = Target(jobs_per_s=1000)
    found = searched(target, users=30, batch_sizes="10", batch_delays="2")
    (cell,) = found.cells
    # The third batch comes at 4 s; its last waits 9 ms, then 250 and 50 ms.
    assert all_in_ns(cell) == 4_309_000_000
    assert plan_of(cell).planned_ns == 4 * NS_PER_S


def test_a_user_without_a_welcome_counts_at_the_deadline() -> None:
    target = Target(jobs_per_s=1000, dead_at=(1,))
    found = searched(target, users=30, batch_sizes="10", batch_delays="2")
    assert all_in_ns(found.cells[0]) == (4 + 120) * NS_PER_S


def test_the_rate_of_joins() -> None:
    target = Target(jobs_per_s=25)
    target.play(course(batch_sizes="25", batch_delays="0"))
    assert joins_per_s(target.done[-1].records) == pytest.approx(25)
    assert joins_per_s(target.done[0].records) is None
    assert joins_per_s([]) is None


def test_where_no_agent_came_at_once_it_begins_at_a_second() -> None:
    target = Target(jobs_per_s=1000, dead_at=(1,))
    searched(target, users=100)
    assert target.plans[:2] == [(0, 0.0), (25, 1.0)]


@pytest.mark.parametrize(
    ("delay_s", "expected"), [(0.8333, 0.83), (12.34, 12.0), (0.0001, 0.01), (0.125, 0.12), (1.0, 1.0)]
)
def test_delays_are_neat(delay_s: float, expected: float) -> None:
    assert neat(delay_s) == expected


@pytest.mark.parametrize(
    ("users", "plans"),
    [(1, [(0, 0.0)]), (2, [(0, 0.0), (1, 1.0), (1, 1.5), (1, 2.2)])],
)
def test_few_users(users: int, plans: list[tuple[int, float]]) -> None:
    searching = BatchCourse(settings(users, course="batches", slo="p99(agent_joined) <= 1 ms"))
    target = Target(jobs_per_s=1)
    assert searching.result(target.play(searching)).plan is None
    assert target.plans == plans


def test_people_who_watch_hear_of_each_burst() -> None:
    searching = course()
    done = Target(jobs_per_s=25).play(searching)
    assert searching.news(done[:2]) == "burst 1, 600 users at once: missed p99(agent_joined) <= 4s"
    assert searching.news(done[:4]) == "burst 3, 600 users in batches of 25 every 1 s: met the SLOs"


def test_of_plans_that_are_as_soon_the_gentler_one_wins() -> None:
    target = Target(jobs_per_s=25)
    found = searched(target, batch_sizes="50,25", batch_delays="1.05,1.9")
    assert [cell.ok for cell in found.cells] == [False, True, True, True]
    soonest, gentle = found.cells[1], found.cells[2]
    assert all_in_ns(soonest) < all_in_ns(gentle) < 1.1 * all_in_ns(soonest)
    assert found.plan == plan_of(gentle) == Plan(600, 25, 1.05)
