"""Batches: which size and delay have all users welcomed soonest and still meet the SLOs. Pure.

Searched, not swept. First all come at once. The rate at which agents came then is about what the target can
do: users who come no faster than that need not wait for each other, and the last is done no later. So a
delay is looked for from there. A longer delay and a smaller batch are taken to be easier for the target;
nothing else is assumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final

from lk_users.clock import NS_PER_S
from lk_users.course import Role, Round
from lk_users.record import Mark
from lk_users.search import Search, SearchCourse, Tried
from lk_users.stats import limit_ns, mark_samples_ns, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lk_users.course import RoundResult
    from lk_users.record import Record
    from lk_users.search import Asking, Probe
    from lk_users.settings.run import Settings
    from lk_users.slo import Slo

# Without a plan the delay grows by this; with one it shrinks by it, as long as that saves time.
STRIDE: Final = 1.5
# So many longer delays before a batch size is given up: then it is the batch itself that is too large.
LONGER: Final = 2
# Where nobody can say at what rate agents come.
FIRST_DELAY_S: Final = 1.0
# Of two plans whose times differ by less, the one whose users wait less is better.
SAVING: Final = 0.1


@dataclass(frozen=True)
class Plan:
    """So many users in batches of ``size`` every ``delay_s``; all at once: one batch."""

    users: int
    size: int
    delay_s: float

    @property
    def gaps(self) -> int:
        """Between the batches."""
        return -(-self.users // self.size) - 1

    @property
    def planned_ns(self) -> int:
        """From the first batch to the last."""
        return round(self.gaps * self.delay_s * NS_PER_S)


@dataclass(frozen=True)
class BatchSearch:
    """What a search over batches came to. ``plan``: None where none met the SLOs each time."""

    users: int
    way: str
    repeats: int
    cells: tuple[Tried, ...]
    probes: tuple[Probe, ...]
    stopped: str

    @property
    def plan(self) -> Plan | None:
        return best(self.cells, self.repeats)

    @property
    def at_once(self) -> Tried | None:
        """The burst without batches."""
        return next((cell for cell in self.cells if cell.round.batch_size == 0), None)

    def of_plan(self, plan: Plan) -> list[Tried]:
        """Its bursts."""
        return [cell for cell in self.cells if plan_of(cell) == plan]

    @property
    def judged(self) -> Tried | None:
        """The burst to judge it by: the plan's slowest; where there is no plan, the last."""
        if self.plan is None:
            return self.cells[-1] if self.cells else None
        return max(self.of_plan(self.plan), key=all_in_ns)


class BatchCourse(SearchCourse["_Trying"]):
    """The rounds of a search over batches."""

    def result(self, done: Sequence[RoundResult]) -> BatchSearch:
        trying, stopped = self._ended(done)
        return BatchSearch(
            users=self._settings.users,
            way="grid" if self._settings.scale.batch_delays_s else "search",
            repeats=self._settings.scale.repeats,
            cells=tuple(trying.tried),
            probes=tuple(trying.probes),
            stopped=stopped,
        )

    def _search(self) -> _Trying:
        return _Trying(self._settings, self._slos)


class _Trying(Search):
    def __init__(self, settings: Settings, slos: Sequence[Slo]) -> None:
        super().__init__(slos, settings.burst_interval_s)
        self._users = settings.users
        self._scale = settings.scale

    def steps(self) -> Asking[None]:
        if self._scale.batch_delays_s:
            for size in self._scale.batch_sizes:
                for delay_s in self._scale.batch_delays_s:
                    yield from self._meets(size, delay_s)
            return
        if (yield from self._meets(self._users, 0.0)):
            return
        rate = joins_per_s(self.tried[-1].records)
        # A batch as large as all of them is what has just failed.
        too_large = self._users
        for size in self._scale.batch_sizes:
            if size >= too_large:
                continue
            if self._best is not None:
                yield from self._beat(size, self._best)
            elif not (yield from self._search(size, size / rate if rate else FIRST_DELAY_S)):
                too_large = size

    def _search(self, size: int, start_s: float) -> Asking[bool]:
        """Is there a delay for this size?"""
        failed_s, delay_s = 0.0, neat(start_s)
        for _ in range(LONGER + 1):
            if (yield from self._meets(size, delay_s)):
                break
            failed_s, delay_s = delay_s, neat(delay_s * STRIDE)
        else:
            return False
        if failed_s:
            yield from self._meets(size, neat(math.sqrt(failed_s * delay_s)))
        else:
            yield from self._shorten(size, delay_s)
        return True

    def _shorten(self, size: int, passed_s: float) -> Asking[None]:
        """As long as that saves time."""
        while (delay_s := neat(passed_s / STRIDE)) < passed_s:
            before_ns = self._soonest_ns()
            if not (yield from self._meets(size, delay_s)) or not _saves(self._soonest_ns(), before_ns):
                return
            passed_s = delay_s

    def _beat(self, size: int, plan: Plan) -> Asking[None]:
        """Does this size do it in a tenth less time than the best plan?"""
        before_ns = self._soonest_ns()
        gaps = Plan(self._users, size, 0.0).gaps
        delay_s = neat((1 - SAVING) * plan.planned_ns / NS_PER_S / gaps)
        if (yield from self._meets(size, delay_s)) and _saves(self._soonest_ns(), before_ns):
            yield from self._shorten(size, delay_s)

    def _meets(self, size: int, delay_s: float) -> Asking[bool]:
        """Each time?"""
        wanted = Round(Role.BURST, self._users, size if size < self._users else 0, delay_s)
        for repeat in range(1, self._scale.repeats + 1):
            tried = yield from self._try(wanted, repeat)
            if not tried.ok:
                return False
        return True

    @property
    def _best(self) -> Plan | None:
        return best(self.tried, self._scale.repeats)

    def _soonest_ns(self) -> int:
        return min(times(cells)[0] for cells in met(self.tried, self._scale.repeats).values())


def best(cells: Sequence[Tried], repeats: int) -> Plan | None:
    """Of the plans that met the SLOs each time and need at most a tenth longer than the soonest, the one
    whose users wait least (p99 to the welcome); None without any."""
    found = {plan: times(own) for plan, own in met(cells, repeats).items()}
    if not found:
        return None
    soonest_ns = min(all_in for all_in, _ in found.values())
    near = [plan for plan, (all_in, _) in found.items() if not _saves(soonest_ns, all_in)]
    return min(near, key=lambda plan: (found[plan][1], found[plan][0], plan.size))


def met(cells: Sequence[Tried], repeats: int) -> dict[Plan, list[Tried]]:
    """The plans that met the SLOs in all of ``repeats`` bursts."""
    plans = {plan: list(own) for plan, own in groupby(cells, plan_of)}
    return {plan: own for plan, own in plans.items() if len(own) >= repeats and all(cell.ok for cell in own)}


def times(cells: Sequence[Tried]) -> tuple[int, int]:
    """Of a plan's bursts the worst: until all were welcomed, and p99 of what a user waited."""
    waits_ns = (percentile(mark_samples_ns(cell.records, Mark.WELCOMED), 99) or 0 for cell in cells)
    return max(map(all_in_ns, cells)), max(waits_ns)


def plan_of(tried: Tried) -> Plan:
    """The plan that a burst followed; all at once is one batch."""
    wanted = tried.round
    return Plan(wanted.users, wanted.batch_size or wanted.users, wanted.batch_delay_s)


def all_in_ns(tried: Tried) -> int:
    """From T0 to the last welcome; a user who got none counts at the deadline."""
    return max(
        (
            tried.round.offset_ns(record.ordinal) + record.marks_ns.get(Mark.WELCOMED, limit_ns(record))
            for record in tried.records
        ),
        default=0,
    )


def joins_per_s(records: Sequence[Record]) -> float | None:
    """The rate at which agents came to a burst of one T0, from the first tenth of its users to the ninth;
    None where that is not to be known."""
    joined_ns = sorted(r.marks_ns[Mark.AGENT_JOINED] for r in records if Mark.AGENT_JOINED in r.marks_ns)
    first, last = len(joined_ns) // 10, len(joined_ns) * 9 // 10
    if last <= first or joined_ns[last] <= joined_ns[first]:
        return None
    return (last - first) / (joined_ns[last] - joined_ns[first]) * NS_PER_S


def neat(delay_s: float) -> float:
    """Two significant digits, which is finer than any two bursts agree; at least a hundredth of a second."""
    return max(0.01, float(f"{delay_s:.2g}"))


def _saves(time_ns: int, of_ns: int) -> bool:
    return time_ns <= (1 - SAVING) * of_ns
