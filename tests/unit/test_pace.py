"""The pace of requests that are off the hot path, in virtual time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import virtual as v

from lk_users.clock import NS_PER_MS
from lk_users.wire.api import _Pace

if TYPE_CHECKING:
    from virtual import VirtualClock


def moments_ms(*, interval_s: float, then_s: float | None = None, spent: int = 0) -> list[int]:
    """When each of four requests that come at once may pass; ``then_s``: the interval from the third on."""

    async def work(clock: VirtualClock) -> list[int]:
        pace, start_ns, moments = _Pace(interval_s), clock.monotonic_ns(), []
        pace.spend(spent)

        async def one() -> None:
            await pace.wait()
            moments.append((clock.monotonic_ns() - start_ns) // NS_PER_MS)

        first = [asyncio.ensure_future(one()) for _ in range(2)]
        await asyncio.sleep(0)
        if then_s is not None:
            pace.every(then_s)
        await asyncio.gather(*first, one(), one())
        return moments

    return v.in_virtual_time(work)


def test_without_a_budget_all_pass_at_once() -> None:
    assert moments_ms(interval_s=0.0) == [0, 0, 0, 0]


def test_with_one_they_pass_one_by_one_after_what_was_spent() -> None:
    assert moments_ms(interval_s=0.5) == [0, 500, 1000, 1500]
    assert moments_ms(interval_s=0.5, spent=4) == [2000, 2500, 3000, 3500]


def test_a_share_of_the_budget_is_slower() -> None:
    assert moments_ms(interval_s=0.5, then_s=2.0) == [0, 500, 1000, 3000]
