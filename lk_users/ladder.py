"""The ladder: how many users at once still meet the SLOs. Pure.

A climb goes up the sizes to the first burst that misses an SLO, and halves the gap below it. The limit of a
climb is the largest burst that passed in it. Climbs are repeated, and the run's limit is their median.

From the smallest limit of ``r`` climbs to the largest size at which one failed, the interval covers the
true median of climbs with a confidence of 1 − 2^(1 − r): all r lie on one side of the median with a
probability of 2 × 2^-r (the sign test's interval). Climbs count as independent; how they scatter is not
assumed. With one climb there is no confidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lk_users.course import Role, Round
from lk_users.search import Search, SearchCourse, Tried

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lk_users.course import RoundResult
    from lk_users.search import Asking, Probe
    from lk_users.settings.run import Settings
    from lk_users.slo import Slo

# The gap between pass and fail at which a climb ends, as a part of the size that passed.
RESOLUTION: Final = 0.05


@dataclass(frozen=True)
class Climb:
    """``limit``: largest size that passed, 0 if none did. ``failed``: smallest that failed; None if none."""

    repeat: int
    limit: int
    failed: int | None


@dataclass(frozen=True)
class Ladder:
    """What a ladder came to. ``limit`` and the rest are of whole climbs; None without any."""

    sizes: tuple[int, ...]
    repeats: int
    climbs: tuple[Climb, ...]
    rungs: tuple[Tried, ...]
    probes: tuple[Probe, ...]
    stopped: str

    @property
    def limit(self) -> int | None:
        """The median, the lower one of an even number."""
        ordered = sorted(climb.limit for climb in self.climbs)
        return ordered[(len(ordered) - 1) // 2] if ordered else None

    @property
    def low(self) -> int | None:
        return min((climb.limit for climb in self.climbs), default=None)

    @property
    def high(self) -> int | None:
        """None also where a climb met no limit."""
        failed = [climb.failed for climb in self.climbs]
        known = [size for size in failed if size is not None]
        return max(known) if known and len(known) == len(failed) else None

    @property
    def confidence(self) -> float | None:
        """That the true median is in ``low`` to ``high``; None where nothing can be said."""
        return 1 - 2.0 ** (1 - len(self.climbs)) if len(self.climbs) > 1 else None

    @property
    def judged(self) -> Tried | None:
        """The burst to judge it by: the last that passed at the limit; else the smallest that failed."""
        limit = self.limit
        if not limit:
            failed = [rung for rung in self.rungs if not rung.ok]
            return min(failed or self.rungs, key=lambda rung: rung.round.users, default=None)
        return [rung for rung in self.rungs if rung.round.users == limit and rung.ok][-1]


class LadderCourse(SearchCourse["_Climbing"]):
    """The rounds of a ladder."""

    def result(self, done: Sequence[RoundResult]) -> Ladder:
        climbing, stopped = self._ended(done)
        return Ladder(
            self._settings.scale.ladder_sizes,
            self._settings.scale.repeats,
            tuple(climbing.climbs),
            tuple(climbing.tried),
            tuple(climbing.probes),
            stopped,
        )

    def _search(self) -> _Climbing:
        return _Climbing(self._settings, self._slos)


class _Climbing(Search):
    def __init__(self, settings: Settings, slos: Sequence[Slo]) -> None:
        super().__init__(slos, settings.burst_interval_s)
        self._settings = settings
        self.climbs: list[Climb] = []

    def steps(self) -> Asking[None]:
        start = 0
        for repeat in range(1, self._settings.scale.repeats + 1):
            climb = yield from self._climb(repeat, start)
            self.climbs.append(climb)
            # What is far below the limit is not asked again, unless the step below it fails.
            below = [n for n, size in enumerate(self._settings.scale.ladder_sizes) if size < climb.limit]
            start = max(below, default=0)

    def _climb(self, repeat: int, start: int) -> Asking[Climb]:
        low, high = yield from self._steps_of(repeat, start)
        while low and high is not None and high - low > max(1, RESOLUTION * low):
            middle = (low + high) // 2
            if (yield from self._passes(middle, repeat)):
                low = middle
            else:
                high = middle
        return Climb(repeat, low, high)

    def _steps_of(self, repeat: int, start: int) -> Asking[tuple[int, int | None]]:
        """The largest step that passed and the smallest that failed: up while they pass, down if the first
        fails."""
        sizes = self._settings.scale.ladder_sizes
        low, high, number = 0, None, start
        while 0 <= number < len(sizes) and sizes[number] != high:
            if (yield from self._passes(sizes[number], repeat)):
                low = sizes[number]
                number += 1
            else:
                high = sizes[number]
                if low:
                    break
                number -= 1
        return low, high

    def _passes(self, users: int, repeat: int) -> Asking[bool]:
        settings = self._settings
        wanted = Round(Role.BURST, users, settings.batch_size, settings.batch_delay_s)
        tried = yield from self._try(wanted, repeat)
        return tried.ok
