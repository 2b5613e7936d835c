"""A bad network in virtual time: messages that take a while, get lost, come twice or in another order,
between parties whose clocks drift apart and may be moved. Everything comes from one seed."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lk_users.clock import NS_PER_MS, NS_PER_S

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


@dataclass
class World:
    """True time, and what is to happen in it."""

    now_ns: int = 0
    _due: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def after(self, delay_ns: int, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now_ns + max(0, delay_ns), next(self._numbers), call))

    def every(self, period_ns: int, call: Callable[[], None]) -> None:
        def again() -> None:
            call()
            self.after(period_ns, again)

        self.after(period_ns, again)

    def play(self, until: Callable[[], bool], limit_ns: int) -> bool:
        """Until it holds; False when the limit came first."""
        while not until():
            at_ns, _, call = heapq.heappop(self._due)
            if at_ns > limit_ns:
                return False
            self.now_ns = at_ns
            call()
        return True


@dataclass
class DriftingClock:
    """A monotonic clock: true time, run by ``ppm`` too fast, from an origin of its own."""

    world: World
    origin_ns: int = 0
    ppm: float = 0.0
    moved_ns: int = 0

    def monotonic_ns(self) -> int:
        world_ns = self.world.now_ns
        return self.origin_ns + self.moved_ns + world_ns + round(world_ns * self.ppm / 1_000_000)

    def until_ns(self, at_ns: int) -> int:
        """True time from now until this clock shows ``at_ns``."""
        return max(0, round((at_ns - self.monotonic_ns()) / (1 + self.ppm / 1_000_000)))


@dataclass
class Channel:
    """One direction of a link. ``delay_ms`` each way, up to ``jitter`` of it more, at times a spike."""

    world: World
    rng: random.Random
    delay_ms: float
    jitter: float = 0.1
    lost: float = 0.0
    doubled: float = 0.0
    spikes: float = 0.0
    in_order: bool = False
    _last_ns: int = 0

    def send(self, arrive: Callable[[], None]) -> None:
        if self.rng.random() < self.lost:
            return
        for _ in range(2 if self.rng.random() < self.doubled else 1):
            self.world.after(self._delay_ns(), arrive)

    def _delay_ns(self) -> int:
        delay_ns = round(self.delay_ms * (1 + self.rng.random() * self.jitter) * NS_PER_MS)
        if self.rng.random() < self.spikes:
            delay_ns += self.rng.randrange(NS_PER_S)
        if self.in_order:
            self._last_ns = max(self._last_ns, self.world.now_ns + delay_ns)
            return self._last_ns - self.world.now_ns
        return delay_ns
