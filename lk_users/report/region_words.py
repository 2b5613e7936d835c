"""The regions in words and side by side; nothing where there is only one."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from lk_users.outcome import Finding
from lk_users.record import Mark, Phase
from lk_users.report import words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lk_users.report.words import Summary

    Row = Mapping[str, Any]

MIN_REGIONS: Final = 2
MOST_OF_IT: Final = 0.5
_MARKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        Mark.WELCOMED: "welcomed",
        Mark.AGENT_JOINED: "agent in the room",
        Mark.CONNECTED: "user in the room",
        Mark.DISPATCHED: "dispatch answered",
    }
)
HEAD: Final = (
    "region", "sessions", "ok", "in room", "agent in", "welcomed", "p99", "left", "lag p95", "clock ±",
)  # fmt: skip


def lines(summary: Summary) -> list[str]:
    """Who waited longer, whose the failures are, and of whom something is not known."""
    if len(summary["regions"]) < MIN_REGIONS:
        return []
    wait = summary["regions_compared"]["wait"]
    return [
        _wait_line(summary),
        *_queue_lines(wait),
        *_failure_lines(summary),
        *_silent_lines(summary["regions"]),
    ]


def telling(summary: Summary) -> list[str]:
    """Only what makes a difference between regions, for readers who did not ask about them."""
    if len(summary["regions"]) < MIN_REGIONS:
        return []
    wait = summary["regions_compared"]["wait"]
    slower = [_wait_line(summary), *_queue_lines(wait)] if wait and wait["slower"] else []
    return [*slower, *_failure_lines(summary)]


def counts(summary: Summary, outcome: str) -> str:
    """How the sessions of an outcome are spread over regions, as a sentence of its own."""
    rows = summary["regions"]
    if len(rows) < MIN_REGIONS:
        return ""
    told = ", ".join(
        f"{row['region']} {row['outcomes'].get(outcome, 0)} of {row['sessions']}" for row in rows
    )
    return f"By region: {told}."


def _wait_line(summary: Summary) -> str:
    wait = summary["regions_compared"]["wait"]
    if wait is None:
        return "The regions' waits can't be compared: too few users of too few regions came far enough."
    what = _MARKS[wait["mark"]]
    slow, fast = words.duration(wait["slowest_p50_ms"]), words.duration(wait["fastest_p50_ms"])
    if not wait["slower"]:
        return (
            f"The regions waited alike: {what} p50 {fast} ({wait['fastest']}) to {slow} ({wait['slowest']})"
            f"{_why_alike(wait)}."
        )
    return (
        f"{wait['slowest']} waited {words.duration(wait['difference_ms'])} longer than {wait['fastest']} "
        f"({what} p50 {slow} against {fast}), {_where(wait)}."
    )


def _queue_lines(wait: Row | None) -> list[str]:
    """A place in a queue is no property of a region, and sessions of a burst do not get theirs by chance."""
    if wait is None or wait["phase"] != Phase.SERVER_QUEUE:
        return []
    return [
        "A queue is in order of arrival: a few ms at T0 can put a whole region last. Only where more bursts "
        "say the same is it the region."
    ]


def _why_alike(wait: Row) -> str:
    """Of a difference that can be seen and still is none."""
    if wait["difference_ms"] < wait["least_ms"]:
        return ""
    return ", which chance explains"


def _where(wait: Row) -> str:
    if wait["phase"] is None:
        return "in no one phase"
    share = wait["phase_difference_ms"] / wait["difference_ms"]
    part = "most of it" if share >= MOST_OF_IT else "the largest part"
    place = words.PHASES[wait["phase"]][0]
    return f"{part} in {place} ({wait['phase']}: +{words.duration(wait['phase_difference_ms'])})"


def _failure_lines(summary: Summary) -> list[str]:
    told = []
    for item in summary["regions_compared"]["failures"]:
        all_, count = item["sessions"] == item["of"], item["sessions"]
        many = f"{'All ' if count > 1 else ''}{count}" if all_ else f"{count} of {item['of']}"
        told.append(
            f"{many} {item['outcome']} {'is' if count == 1 else 'are'} of {item['region']}, which had "
            f"{item['region_sessions']} of {words.plural(item['all_sessions'], 'session')}."
        )
    return told


def _silent_lines(rows: Sequence[Row]) -> list[str]:
    silent = [f"{row['silent']} of {row['region']}" for row in rows if row["silent"]]
    if not silent:
        return []
    return [f"Workers that left no last word are in no figure of lag, CPU or clocks: {', '.join(silent)}."]


def console_rows(summary: Summary) -> list[tuple[str, ...]]:
    """Head and one row a region, the slowest first; p50 where it says nothing else."""
    rows = summary["regions"]
    if len(rows) < MIN_REGIONS:
        return []
    ordered = sorted(rows, key=lambda row: (-(row["marks"][Mark.WELCOMED]["p50"] or 0.0), row["region"]))
    return [HEAD, *map(_console_row, ordered)]


def _console_row(row: Row) -> tuple[str, ...]:
    marks, lag = row["marks"], row["lag_ms"] or {}
    return (
        row["region"],
        str(row["sessions"]),
        str(row["outcomes"].get(Finding.OK, 0)),
        *(_p50(marks[name]) for name in (Mark.CONNECTED, Mark.AGENT_JOINED, Mark.WELCOMED)),
        _if_any(marks[Mark.WELCOMED], "p99"),
        words.duration(row["start_error_ms"]["p99"]),
        words.duration(lag.get("p95")),
        words.duration(row["clock_uncertainty_ms"]),
    )


def table_rows(summary: Summary) -> list[tuple[str, ...]]:
    """The regions side by side: a head, then one row a figure; what nobody has is left out."""
    rows = summary["regions"]
    if len(rows) < MIN_REGIONS:
        return []
    marks = [name for name, mark in summary["marks"].items() if mark["n"]]
    phases = [name for name, phase in summary["phases"].items() if phase["n"]]
    return [
        ("", *(row["region"] for row in rows)),
        ("workers", *(str(row["workers"]) for row in rows)),
        ("sessions", *(str(row["sessions"]) for row in rows)),
        *((name, *(str(row["outcomes"].get(name, 0)) for row in rows)) for name in summary["outcomes"]),
        ("start error p99, max", *(_two(row["start_error_ms"], "p99", "max") for row in rows)),
        *((f"{name} p50, p99 (never)", *(_mark(row["marks"][name]) for row in rows)) for name in marks),
        *((f"{name} p50, p99 (share)", *(_phase(row["phases"][name]) for row in rows)) for name in phases),
        ("bottleneck", *map(_bottleneck, rows)),
        ("loop lag p95, longest stall", *(_two(row["lag_ms"], "p95", "max") for row in rows)),
        ("loop lag at T0 p95, longest stall", *(_two(row["start_lag_ms"], "p95", "max") for row in rows)),
        ("CPU a session", *(words.duration(row["cpu_ms_per_session"]) for row in rows)),
        ("memory of the largest worker", *map(_memory, rows)),
        ("clock offset, least to most", *(_offsets(row["clock_offset_ms"]) for row in rows)),
        ("clock ±", *(words.duration(row["clock_uncertainty_ms"]) for row in rows)),
    ]


def _two(values: Mapping[str, float] | None, first: str, second: str) -> str:
    if not values or values[first] is None:
        return "-"
    return f"{words.duration(values[first])}, {words.duration(values[second])}"


def _mark(mark: Row) -> str:
    return f"{_two(mark, 'p50', 'p99')} ({mark['censored']})" if mark["n"] else "-"


def _phase(phase: Row) -> str:
    return f"{_two(phase, 'p50', 'p99')} ({words.percent(phase['share'])})" if phase["n"] else "-"


def _bottleneck(row: Row) -> str:
    found = row["bottleneck"]
    return "-" if found is None else f"{found['phase']} {words.percent(found['share'])}"


def _memory(row: Row) -> str:
    return "-" if row["rss_mb"] is None else f"{row['rss_mb']:.0f} MB"


def _offsets(offsets: Mapping[str, float] | None) -> str:
    """Of monotonic clocks: they count from each machine's start, so this is seldom small."""
    if offsets is None:
        return "-"
    return f"{offsets['min'] / 1000:.3f} s to {offsets['max'] / 1000:.3f} s"


def _p50(mark: Row) -> str:
    return _if_any(mark, "p50")


def _if_any(mark: Row, name: str) -> str:
    return words.duration(mark[name]) if mark["n"] else "-"
