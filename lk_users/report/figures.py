"""Figures over any set of sessions: of a run, of a region. Times in ms, to the microsecond. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lk_users.clock import NS_PER_MS
from lk_users.outcome import Fault, fault_of
from lk_users.record import Mark, Phase
from lk_users.stats import mark_samples_ns, percentile, phase_samples_ns

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lk_users.record import Record


def wait_ns(record: Record) -> int:
    """How long the user waited: to the welcome, or until there was nothing to wait for."""
    return record.marks_ns.get(Mark.WELCOMED, record.decided_ns or record.deadline_ns)


def spread(ordered_ns: Sequence[int], percents: Sequence[int], *, n: bool = False) -> dict[str, Any]:
    """Percentiles and the largest, in ms; None of nothing."""
    values: dict[str, Any] = {"n": len(ordered_ns)} if n else {}
    for percent in percents:
        values[f"p{percent}"] = in_ms(percentile(ordered_ns, percent))
    return {**values, "max": in_ms(percentile(ordered_ns, 100))}


def mark_figures(records: Sequence[Record], mark: Mark) -> dict[str, Any]:
    """When sessions passed ``mark``; who never did (``censored``) counts at its deadline."""
    happened = sum(mark in record.marks_ns for record in records)
    times = spread(mark_samples_ns(records, mark), (50, 90, 99))
    return {"n": happened, "censored": len(records) - happened, **times}


def _observed(records: Sequence[Record]) -> list[Record]:
    """The sessions whose wait was really waited: what broke on our side says nothing."""
    return [record for record in records if fault_of(record.outcome) is not Fault.OURS]


def phase_figures(records: Sequence[Record]) -> dict[str, Any]:
    """Lengths over all sessions that have the phase, and its share of everybody's waiting together.

    User and agent get ready side by side, so shares need not add up to 1.
    """
    observed = _observed(records)
    waited_ns = sum(map(wait_ns, observed))
    spent_ns = _spent_ns(observed, blamable=False)
    return {
        phase.value: {
            **spread(phase_samples_ns(records, phase), (50, 90, 99), n=True),
            "share": round(spent_ns[phase] / waited_ns, 6) if waited_ns else None,
        }
        for phase in Phase
    }


def _spent_ns(records: Sequence[Record], *, blamable: bool) -> dict[Phase, int]:
    """Time in each phase, all sessions together. ``blamable``: only of phases that our lag did not cover."""
    spent = dict.fromkeys(Phase, 0)
    for record in records:
        for phase, length_ns in record.phases_ns.items():
            if not blamable or length_ns >= record.lag_ms * NS_PER_MS:
                spent[phase] += length_ns
    return spent


def bottleneck(records: Sequence[Record]) -> dict[str, Any] | None:
    """The phase that took the largest share of the wait, of those that our own lag does not explain."""
    observed = _observed(records)
    waited_ns = sum(map(wait_ns, observed))
    blamed_ns = _spent_ns(observed, blamable=True)
    phase = max(Phase, key=blamed_ns.__getitem__)
    if not waited_ns or not blamed_ns[phase]:
        return None
    spent_ns = _spent_ns(observed, blamable=False)[phase]
    return {"phase": phase.value, "share": round(spent_ns / waited_ns, 6)}


def bottleneck_slowest(records: Sequence[Record]) -> dict[str, Any] | None:
    """The same over the tenth of the sessions that waited longest."""
    observed = sorted(_observed(records), key=lambda record: (-wait_ns(record), record.sort_key()))
    slowest = observed[: math.ceil(len(observed) / 10)]
    found = bottleneck(slowest)
    return None if found is None else {**found, "sessions": len(slowest)}


def worst_lag(workers: Iterable[Mapping[str, Any]], window: str = "lag_ms") -> dict[str, float] | None:
    """The worst lag of all of the summary's workers that told theirs. ``window``: or ``start_lag_ms``."""
    lags = [worker[window] for worker in workers if worker[window]]
    return {key: max(lag[key] for lag in lags) for key in ("p50", "p95", "max")} if lags else None


def in_ms(value_ns: int | None) -> float | None:
    """To the microsecond; None of what is not known."""
    return None if value_ns is None else round(value_ns / NS_PER_MS, 3)
