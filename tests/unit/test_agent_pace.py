"""The reference agent's pace: places in a queue at fixed distances, in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from virtual import VirtualClock, in_virtual_time

from lk_users.clock import NS_PER_MS
from lk_users.local.pace import Pace


def starts_ms(jobs_per_s: float, assigned_ms: list[int]) -> list[int]:
    """When jobs start that are assigned then."""

    async def work(clock: VirtualClock) -> list[int]:
        pace, started = Pace(clock, jobs_per_s), []
        zero_ns = clock.monotonic_ns()

        async def job(at_ms: int) -> None:
            await asyncio.sleep(at_ms / 1000)
            await pace.turn()
            started.append(round((clock.monotonic_ns() - zero_ns) / NS_PER_MS))

        await asyncio.gather(*map(job, assigned_ms))
        return started

    return in_virtual_time(work)


@pytest.mark.parametrize(
    ("jobs_per_s", "assigned_ms", "expected_ms"),
    [
        (10, [0, 0, 0, 0], [0, 100, 200, 300]),
        (10, [0, 10, 20, 500], [0, 100, 200, 500]),
        # An idle time is no credit.
        (10, [1000, 1000, 1000], [1000, 1100, 1200]),
        (4, [0, 0, 300], [0, 250, 500]),
        (0, [0, 0, 7], [0, 0, 7]),
    ],
)
def test_jobs_start_at_fixed_distances(
    jobs_per_s: float, assigned_ms: list[int], expected_ms: list[int]
) -> None:
    assert starts_ms(jobs_per_s, assigned_ms) == expected_ms


def test_places_are_of_the_assignments_alone() -> None:
    """What a late loop adds to one start, the next does not have to pay for."""
    clock = VirtualClock()
    pace = Pace(clock, 10)
    assert [pace.place_ns(0) // NS_PER_MS for _ in range(3)] == [0, 100, 200]
    assert pace.place_ns(150 * NS_PER_MS) // NS_PER_MS == 300
