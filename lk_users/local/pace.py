"""When the reference agent starts a job that it has accepted: at a fixed rate, where it is given one.

A stand-in for an agent whose jobs cost something to start: a process each, a model to load. All workers of
the agent share one queue, so that the rate is the agent's whatever the server gives to which worker. Places
in it follow from the moments of the assignments and nothing else: a job that ends before its turn keeps its
own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lk_users.clock import NS_PER_S

if TYPE_CHECKING:
    from lk_users.clock import Clock


class Pace:
    """``jobs_per_s``: 0 for as they come."""

    def __init__(self, clock: Clock, jobs_per_s: float = 0.0) -> None:
        self._clock = clock
        self._interval_ns = round(NS_PER_S / jobs_per_s) if jobs_per_s else 0
        self._next_ns = 0

    def place_ns(self, now_ns: int) -> int:
        """The moment at which a job that was assigned now starts. Takes the place."""
        due_ns = max(now_ns, self._next_ns)
        self._next_ns = due_ns + self._interval_ns
        return due_ns

    async def turn(self) -> None:
        """Until the caller's job may start."""
        now_ns = self._clock.monotonic_ns()
        due_ns = self.place_ns(now_ns)
        if due_ns > now_ns:
            await asyncio.sleep((due_ns - now_ns) / NS_PER_S)
