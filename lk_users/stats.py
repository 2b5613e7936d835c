"""Exact percentiles and the samples that they are taken over. Pure.

Percentiles are nearest rank: the smallest value that at least so many percent of the samples do not
exceed. A burst has some 10⁴ sessions at most, so every value is kept and nothing is estimated.
"""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

from lk_users.outcome import ORDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lk_users.outcome import Finding
    from lk_users.record import Mark, Phase, Record

_T = TypeVar("_T")


def percentile(ordered: Sequence[_T], percent: Fraction | int) -> _T | None:
    """The nearest-rank percentile of ascending ``ordered``; None of nothing. ``percent``: 0 < p <= 100."""
    if not ordered:
        return None
    return ordered[max(1, math.ceil(Fraction(percent) * len(ordered) / 100)) - 1]


def spread_ms(values_ms: Iterable[float], percents: Sequence[int]) -> dict[str, Any]:
    """``n`` and the percentiles ``p50`` … of lengths in ms, to the microsecond; None of nothing. The 100th
    is ``max``."""
    # As integers: percentiles are exact.
    ordered_us = sorted(round(1000 * value) for value in values_ms)
    spread: dict[str, Any] = {"n": len(ordered_us)}
    for percent in percents:
        value_us = percentile(ordered_us, percent)
        spread["max" if percent == 100 else f"p{percent}"] = None if value_us is None else value_us / 1000
    return spread


def tally(findings: Iterable[Finding]) -> dict[str, int]:
    """How often each occurs, in the order of :mod:`lk_users.outcome`; what never does is left out."""
    counts = Counter(findings)
    return {finding.value: counts[finding] for finding in ORDER if counts[finding]}


def mark_samples_ns(records: Iterable[Record], mark: Mark) -> list[int]:
    """One ascending sample a session: when it passed ``mark``, or its deadline where it never did."""
    return sorted(record.marks_ns.get(mark, limit_ns(record)) for record in records)


def phase_samples_ns(records: Iterable[Record], phase: Phase) -> list[int]:
    """Ascending lengths of ``phase`` over the sessions that have it: a phase is never censored."""
    return sorted(phases[phase] for phases in (r.phases_ns for r in records) if phase in phases)


def start_errors_ns(records: Iterable[Record]) -> list[int]:
    """Ascending distances from the intended start, early or late, of the sessions that wrote anything."""
    return sorted(abs(r.start_error_ns) for r in records if r.start_error_ns is not None)


def limit_ns(record: Record) -> int:
    """Where a session that never got there counts: its deadline."""
    return record.deadline_ns or record.decided_ns
