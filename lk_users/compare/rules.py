"""What differs between two sides, and what is noise. Pure.

Sessions of one burst are not independent: they wait in one queue and share one machine's bad moment, so a
whole burst is shifted against the next of the same setting. An interval over sessions knows nothing of that.
Hence two rules, by what there is to tell that noise from:

- **Few bursts** (less than ``MANY`` beyond the first of each side). A time differs where its lower half
  moved: its p10, p25 and p50 in the same direction, each by at least ``LEAST_MS``, by ``LEAST_SHARE`` of the
  shorter one and by the generator's own lag, and where the interval of the p50 over sessions excludes 0.
  Load stretches the upper half of a phase first; what changed its nature moves all of it. Of several bursts
  each of one side has to differ so from each of the other. A mark is a sum of phases, and so is its noise.
- **Many bursts.** Each burst's p50 is one value. A time differs where Student's interval of the means, at a
  confidence that holds for all figures together (Bonferroni), excludes 0, and where the difference is worth
  naming.

A rate differs where chance would part the sessions so with a probability of at most ``CHANCE`` (exact), and
by many bursts as a time does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from lk_users.clock import NS_PER_MS
from lk_users.compare import intervals
from lk_users.outcome import Finding
from lk_users.record import Mark, Phase
from lk_users.report.regions import CHANCE, tail
from lk_users.slo import belongs
from lk_users.stats import mark_samples_ns, percentile, phase_samples_ns, start_errors_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lk_users.compare.sides import Burst, Side

    Samples = Callable[[Burst], Sequence[int]]

MANY: Final = 4
LOWER_HALF: Final = (10, 25, 50)
# By kind. Of 20 bursts of 50 and 5 of 600 of one setting on two cores none had a phase whose lower half was
# further from another's; the sum of all phases was up to 290 ms, and a half of it.
LEAST_MS: Final[Mapping[str, float]] = MappingProxyType({"phase": 150.0, "mark": 500.0})
LEAST_SHARE: Final[Mapping[str, float]] = MappingProxyType({"phase": 1 / 3, "mark": 2 / 3})
# Of many bursts, whose scatter is known: below it nobody would mind.
WORTH_MS: Final = 20.0
WORTH_SHARE: Final = 0.05
WORTH_RATE: Final = 0.01
# The smallest sample of which a p10 says anything.
MIN_SESSIONS: Final = 10
MARKS: Final = (
    Mark.SESSION_CREATED, Mark.DISPATCHED, Mark.CONNECTED, Mark.AGENT_JOINED, Mark.FIRST_AUDIO, Mark.WELCOMED,
)  # fmt: skip
PERCENTS: Final = (50, 95, 99)
GROUPS: Final = ("lost", "duplicate")
NOT_OK: Final = "not ok"
START_ERROR: Final = "start_error"
TESTED: Final = len(Phase) + len(MARKS) + len(GROUPS) + 1
FAMILY: Final = 1 - (1 - intervals.CONFIDENCE) / TESTED


@dataclass(frozen=True)
class Difference:
    """One figure of both sides; ``low`` to ``high`` is the 95 % interval of ``difference``.

    Times in ms; of a rate shares of 1. ``kind``: phase, mark, rate or start_error. ``differs``: beyond noise;
    always False of figures that are only shown (``tested`` False).
    """

    kind: str
    name: str
    percent: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    tested: bool = False
    differs: bool = False
    counts: tuple[int, int] = (0, 0)
    """Of a rate: the sessions behind it."""

    @property
    def worse(self) -> bool:
        """Is the second side worse in it, beyond noise? More of any of these is."""
        return self.differs and self.difference > 0 and self.kind != START_ERROR


def compare(first: Side, second: Side) -> list[Difference]:
    """All figures that both sides have: phases, marks, rates, the start error. Empty where one has none."""
    if not first.sessions or not second.sessions:
        return []
    found = []
    for phase in Phase:
        found += _times("phase", phase.value, first, second, partial(phase_samples_ns, phase=phase))
    for mark in MARKS:
        if _passed(first, mark) and _passed(second, mark):
            found += _times("mark", mark.value, first, second, partial(mark_samples_ns, mark=mark))
    found += [_rate(group, first, second) for group in (*GROUPS, NOT_OK)]
    return [*found, *_start_error(first, second)]


def _passed(side: Side, mark: Mark) -> bool:
    return any(mark in record.marks_ns for burst in side.bursts for record in burst)


def _times(kind: str, name: str, first: Side, second: Side, samples: Samples) -> list[Difference]:
    """p50, which is tested, and p95 and p99, which are shown."""
    ours, theirs = _ordered(first, samples), _ordered(second, samples)
    if not ours or not theirs:
        return []
    lag_ms = max(first.lag_ms, second.lag_ms)
    p50, *tails = PERCENTS
    tested = _time(kind, name, p50, ours, theirs)
    return [
        replace(tested, tested=True, differs=_differs(tested, ours, theirs, lag_ms)),
        *(_time(kind, name, percent, ours, theirs) for percent in tails),
    ]


def _ordered(side: Side, samples: Samples) -> list[Sequence[int]]:
    """Burst by burst, of those that have any."""
    return [ordered for burst in side.bursts if (ordered := samples(burst))]


def _many(first: Sequence[object], second: Sequence[object]) -> bool:
    return len(first) + len(second) - 2 >= MANY


def _time(
    kind: str, name: str, percent: int, ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]
) -> Difference:
    first, second = ([_at(ordered, percent) for ordered in bursts] for bursts in (ours, theirs))
    before, after = sum(first) / len(first), sum(second) / len(second)
    if _many(ours, theirs):
        low, high = intervals.mean_difference(first, second)
    else:
        pooled = [sorted(ns for ordered in bursts for ns in ordered) for bursts in (ours, theirs)]
        before, after = (_at(ordered, percent) for ordered in pooled)
        low, high = (ns / NS_PER_MS for ns in intervals.percentile_difference(pooled[0], pooled[1], percent))
    return Difference(kind, name, percent, _us(before), _us(after), _us(after - before), _us(low), _us(high))


def _differs(
    found: Difference, ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]], lag_ms: float
) -> bool:
    if not _many(ours, theirs):
        return not found.low <= 0 <= found.high and _moved(found.kind, ours, theirs, lag_ms)
    first, second = ([_at(ordered, found.percent) for ordered in bursts] for bursts in (ours, theirs))
    worth_ms = max(WORTH_MS, WORTH_SHARE * min(found.first, found.second))
    return _apart(first, second) and abs(found.difference) >= worth_ms


def _apart(first: Sequence[float], second: Sequence[float]) -> bool:
    low, high = intervals.mean_difference(first, second, FAMILY)
    return not low <= 0 <= high


def _moved(kind: str, ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]], lag_ms: float) -> bool:
    """Did the lower half move, from each burst of the one to each of the other, all the same way?"""
    ways = {_way(kind, one, other, lag_ms) for one in ours for other in theirs}
    return len(ways) == 1 and 0 not in ways


def _way(kind: str, one: Sequence[int], other: Sequence[int], lag_ms: float) -> int:
    """1: ``other`` is longer, -1: shorter, 0: neither, or too few to say."""
    if min(len(one), len(other)) < MIN_SESSIONS:
        return 0
    ways = set()
    for percent in LOWER_HALF:
        before, after = _at(one, percent), _at(other, percent)
        least_ms = max(LEAST_MS[kind], lag_ms, LEAST_SHARE[kind] * min(before, after))
        ways.add(0 if abs(after - before) < least_ms else 1 if after > before else -1)
    return ways.pop() if len(ways) == 1 else 0


def _rate(name: str, first: Side, second: Side) -> Difference:
    counts = [[_count(burst, name) for burst in side.bursts] for side in (first, second)]
    ours, theirs = map(sum, counts)
    all_ours, all_theirs = first.sessions, second.sessions
    before, after = ours / all_ours, theirs / all_theirs
    if _many(first.bursts, second.bursts):
        rates = [
            [count / len(burst) for count, burst in zip(found, side.bursts, strict=True)]
            for found, side in zip(counts, (first, second), strict=True)
        ]
        low, high = intervals.mean_difference(rates[0], rates[1])
        differs = _apart(rates[0], rates[1]) and abs(after - before) >= WORTH_RATE
    else:
        low, high = intervals.rate_difference((ours, all_ours), (theirs, all_theirs))
        both, everybody = ours + theirs, all_ours + all_theirs
        likely = min(tail(theirs, both, all_theirs, everybody), tail(ours, both, all_ours, everybody))
        differs = 2 * likely <= CHANCE
    return Difference(
        "rate", name, 0, round(before, 6), round(after, 6), round(after - before, 6), round(low, 6),
        round(high, 6), tested=True, differs=differs, counts=(ours, theirs),
    )  # fmt: skip


def _count(burst: Burst, name: str) -> int:
    if name == NOT_OK:
        return sum(record.outcome is not Finding.OK for record in burst)
    return sum(belongs(record, name) for record in burst)


def _start_error(first: Side, second: Side) -> list[Difference]:
    """Shown only: whose bursts were truer."""
    ours, theirs = _ordered(first, start_errors_ns), _ordered(second, start_errors_ns)
    return [_time(START_ERROR, START_ERROR, 99, ours, theirs)] if ours and theirs else []


def _at(ordered: Sequence[int], percent: int) -> float:
    """In ms."""
    return (percentile(ordered, percent) or 0) / NS_PER_MS


def _us(value_ms: float) -> float:
    """To the microsecond."""
    return round(value_ms, 3)
