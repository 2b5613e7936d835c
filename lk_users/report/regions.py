"""The run by region: every figure of each, who waited longer than whom, and whose the failures are. Pure.

Two rules keep chance from being called a difference:

- A region waited longer than another where the 95 % intervals of their medians do not meet, and the medians
  differ by at least 100 ms, by a tenth of the shorter one, and by what the generator itself may have added:
  the slower region's loop lag (p95) and both clocks' uncertainty. The interval is that of order statistics,
  rank n/2 - 0.98·√n from either end (Conover, Practical Nonparametric Statistics, 3.2), and asks nothing of
  the distribution.
- An outcome is of one region where at least half of its sessions are, and where sessions that failed
  regardless of region would fall so with a probability of at most 0.001 (hypergeometric, exact).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from lk_users.clock import NS_PER_MS
from lk_users.outcome import ORDER, Finding
from lk_users.record import Mark
from lk_users.report.figures import bottleneck, in_ms, mark_figures, phase_figures, spread, worst_lag
from lk_users.slo import belongs
from lk_users.slo_grammar import GROUPS
from lk_users.stats import mark_samples_ns, percentile, start_errors_ns, tally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lk_users.record import Record

MIN_DIFFERENCE_MS: Final = 100.0
MIN_DIFFERENCE_SHARE: Final = 0.1
# Half of the normal distribution's 0.975 quantile: ranks of the 95 % interval of a median.
HALF_QUANTILE: Final = 0.98
# The smallest sample whose extremes hold its median with 95 %: 1 - 2 / 2^6.
MIN_SESSIONS: Final = 6
# A phase that makes up less of a difference does not explain it.
EXPLAINS_SHARE: Final = 0.3
CONCENTRATED_SHARE: Final = 0.5
CHANCE: Final = Fraction(1, 1000)
# What the wait is compared by: the first that at least half of the sessions of two regions got to.
COMPARED: Final = (Mark.WELCOMED, Mark.AGENT_JOINED, Mark.CONNECTED, Mark.DISPATCHED)


def regions(
    records: Sequence[Record], figures: Sequence[Record], workers: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The section ``regions`` of the summary: one row a region, by name.

    ``records``: all; ``figures``: those that figures are taken over; ``workers``: the summary's. A worker
    that left no last word (``silent``) is in no figure of the generator's health; None where none left one.
    """
    names = sorted({record.region for record in records} | {worker["region"] for worker in workers})
    return [
        _region(
            name,
            [record for record in records if record.region == name],
            [record for record in figures if record.region == name],
            [worker for worker in workers if worker["region"] == name],
        )
        for name in names
    ]


def _region(
    name: str, records: Sequence[Record], figures: Sequence[Record], workers: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "region": name,
        "workers": len(workers),
        "sessions": len(records),
        "outcomes": tally(record.outcome for record in records),
        "groups": {group: sum(belongs(record, group) for record in records) for group in GROUPS},
        "start_error_ms": spread(start_errors_ns(records), (50, 99), n=True),
        "marks": {mark.value: mark_figures(figures, mark) for mark in Mark},
        "phases": phase_figures(figures),
        "bottleneck": bottleneck(figures),
        **_health(workers),
    }


def _health(workers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the workers that left a last word: the worst of each, sums of CPU."""
    told = [worker for worker in workers if worker["cpu_s"] is not None]
    offsets = [worker["clock_offset_ms"] for worker in told]
    cpu_s = round(sum(worker["cpu_s"] for worker in told), 3) if told else None
    sessions = sum(worker["sessions"] for worker in told)
    return {
        "silent": len(workers) - len(told),
        "clock_offset_ms": {"min": min(offsets), "max": max(offsets)} if told else None,
        "clock_uncertainty_ms": max((worker["clock_uncertainty_ms"] for worker in told), default=None),
        "lag_ms": worst_lag(told),
        "start_lag_ms": worst_lag(told, "start_lag_ms"),
        "cpu_s": cpu_s,
        "cpu_ms_per_session": round(1000 * cpu_s / sessions, 3) if cpu_s is not None and sessions else None,
        "rss_mb": max((worker["rss_mb"] for worker in told), default=None),
    }


def compared(rows: Sequence[Mapping[str, Any]], figures: Sequence[Record]) -> dict[str, Any] | None:
    """The slowest region against the fastest; None where there are not two to compare.

    ``chance``: the intervals of their medians meet; ``slower``: the difference stands by the rule above;
    ``phase``: what makes up most of it, by the difference of the phase's p50, where one does.
    """
    for mark in COMPARED:
        samples = {row["region"]: _samples_ns(row, figures, mark) for row in rows}
        samples = {name: found for name, found in samples.items() if found}
        if len(samples) > 1:
            return _compared(mark, samples, {row["region"]: row for row in rows})
    return None


def _samples_ns(row: Mapping[str, Any], figures: Sequence[Record], mark: Mark) -> list[int]:
    """Ascending; empty where too few sessions got there for their median to be one that was measured."""
    found = row["marks"][mark]
    total = found["n"] + found["censored"]
    if total < MIN_SESSIONS or 2 * found["n"] <= total:
        return []
    return mark_samples_ns((record for record in figures if record.region == row["region"]), mark)


def _compared(
    mark: Mark, samples: Mapping[str, Sequence[int]], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    medians_ns = {name: percentile(found, 50) or 0 for name, found in samples.items()}
    fastest = min(medians_ns, key=lambda name: (medians_ns[name], name))
    slowest = max(medians_ns, key=lambda name: (medians_ns[name], name))
    difference_ns = medians_ns[slowest] - medians_ns[fastest]
    chance = median_interval(samples[slowest])[0] <= median_interval(samples[fastest])[1]
    least_ms = _least_ms(rows[slowest], rows[fastest], medians_ns[fastest])
    slower = not chance and difference_ns >= least_ms * NS_PER_MS
    phase, phase_ms = _explaining(rows[slowest], rows[fastest], difference_ns) if slower else (None, None)
    return {
        "mark": mark.value,
        "slowest": slowest,
        "fastest": fastest,
        "slowest_p50_ms": in_ms(medians_ns[slowest]),
        "fastest_p50_ms": in_ms(medians_ns[fastest]),
        "difference_ms": in_ms(difference_ns),
        "least_ms": round(least_ms, 3),
        "chance": chance,
        "slower": slower,
        "phase": phase,
        "phase_difference_ms": phase_ms,
    }


def median_interval(ordered: Sequence[int]) -> tuple[int, int]:
    """The 95 % interval of the median of ascending ``ordered``, of at least ``MIN_SESSIONS``."""
    n = len(ordered)
    rank = max(1, round(n / 2 - HALF_QUANTILE * math.sqrt(n)))
    return ordered[rank - 1], ordered[n - rank]


def _least_ms(slow: Mapping[str, Any], fast: Mapping[str, Any], fastest_ns: int) -> float:
    """What a difference has to come to before it is the target's or the network's."""
    clocks_ms = sum(row["clock_uncertainty_ms"] or 0.0 for row in (slow, fast))
    lag_ms = slow["lag_ms"]["p95"] if slow["lag_ms"] else 0.0
    return max(MIN_DIFFERENCE_MS, MIN_DIFFERENCE_SHARE * fastest_ns / NS_PER_MS, lag_ms + clocks_ms)


def _explaining(
    slow: Mapping[str, Any], fast: Mapping[str, Any], difference_ns: int
) -> tuple[str | None, float | None]:
    """The phase that is longer by most, in ms, where that is a good part of the whole."""
    longer = {
        name: found["p50"] - fast["phases"][name]["p50"]
        for name, found in slow["phases"].items()
        if found["n"] and fast["phases"][name]["n"]
    }
    name = max(longer, key=longer.__getitem__, default=None)
    if name is None or longer[name] * NS_PER_MS < EXPLAINS_SHARE * difference_ns:
        return None, None
    return name, round(longer[name], 3)


def concentrated(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each outcome that is not ok and that one region has more of than chance would give it."""
    total = sum(row["sessions"] for row in rows)
    found = []
    for outcome in ORDER:
        counts = {row["region"]: row["outcomes"].get(outcome, 0) for row in rows}
        failed = sum(counts.values())
        if outcome is Finding.OK or not failed:
            continue
        row = max(rows, key=lambda row: counts[row["region"]])
        count = counts[row["region"]]
        if count < CONCENTRATED_SHARE * failed or tail(count, failed, row["sessions"], total) > CHANCE:
            continue
        found.append(
            {
                "outcome": outcome.value,
                "region": row["region"],
                "sessions": count,
                "of": failed,
                "region_sessions": row["sessions"],
                "all_sessions": total,
            }
        )
    return found


def tail(least: int, drawn: int, marked: int, total: int) -> Fraction:
    """The probability that of ``drawn`` of ``total``, of which some are ``marked``, ``least`` or more are."""
    hits = max(least, drawn - (total - marked))
    term = math.comb(marked, hits) * math.comb(total - marked, drawn - hits)
    ways = 0
    while term:
        ways += term
        # The next of the binomials' products by its ratio to this one: exact, and quick for thousands.
        term *= (marked - hits) * (drawn - hits)
        hits += 1
        term //= hits * (total - marked - drawn + hits)
    return Fraction(ways, math.comb(total, drawn))
