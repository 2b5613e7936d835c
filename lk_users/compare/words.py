"""A comparison in words: the plain sentence first, then what it rests on."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from lk_users.compare.rules import LEAST_MS, MANY, NOT_OK, Difference
from lk_users.record import Mark
from lk_users.report.console import MARKS as MARK_NAMES
from lk_users.report.words import PHASES, duration, plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lk_users.compare.sides import Side

    # A side, its differences from the first, and (what, there, here) where settings are not the same.
    Compared = tuple[Side, Sequence[Difference], Sequence[tuple[str, str, str]]]

RATES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "lost": "got no welcome",
        "duplicate": "had an agent twice or a job that was tried again",
        NOT_OK: "had an outcome that is not ok",
    }
)
# Beyond it a difference that is not judged is named.
LARGE_MS: Final = 500.0
LARGE_SHARE: Final = 1 / 3
SLOWER: Final = "slower"
FASTER: Final = "faster"
MIXED: Final = "mixed"
ALIKE: Final = "alike"
UNKNOWN: Final = "unknown"


def verdict(differences: Sequence[Difference]) -> str:
    """Of the second side, against the first: slower (or it fails more), faster, both, alike, or unknown."""
    if not differences:
        return UNKNOWN
    ways = {found.worse for found in differences if found.differs}
    if len(ways) == 2:
        return MIXED
    return ALIKE if not ways else SLOWER if ways.pop() else FASTER


def sentence(first: Side, second: Side, differences: Sequence[Difference]) -> str:
    """The plain one."""
    if not differences:
        empty = [side.name for side in (first, second) if not side.sessions]
        return f"Nothing can be said: no session of {' and '.join(empty)} has an outcome."
    a, b = first.name, second.name
    told = causes(differences)
    if not told:
        return f"{b} is like {a}: no figure differs beyond noise."
    in_time = any(found.kind != "rate" for found in told)
    parts = [_part(found, first, second) for found in told]
    head = {
        SLOWER: f"{b} is slower than {a}" if in_time else f"{b} fails more often than {a}",
        FASTER: f"{b} is faster than {a}" if in_time else f"{b} fails less often than {a}",
        MIXED: f"{b} is better than {a} in some and worse in other ways",
    }[verdict(differences)]
    return f"{head}: {'; '.join(parts)}; nothing else differs beyond noise."


def causes(differences: Sequence[Difference]) -> list[Difference]:
    """What differs, without what only follows from it: the largest phase first, then rates. A mark comes
    later by what the phases before it take, so marks speak where no phase does."""
    ranked = sorted((d for d in differences if d.differs), key=lambda found: -abs(found.difference))
    by_kind: dict[str, list[Difference]] = {"phase": [], "mark": [], "rate": []}
    for found in ranked:
        by_kind[found.kind].append(found)
    # Whoever is lost is not ok either.
    rates = [d for d in by_kind["rate"] if d.name != NOT_OK] or by_kind["rate"]
    ways = {found.worse for found in by_kind["phase"]}
    marks = [found for found in by_kind["mark"] if found.worse not in ways][-1:]
    return [*by_kind["phase"], *marks, *rates]


def unjudged(first: Side, second: Side, differences: Sequence[Difference]) -> list[str]:
    """What can hide a difference, and what is large and still was not called one: one burst may do so by
    chance."""
    lag_ms = max(first.lag_ms, second.lag_ms)
    hidden = (
        [f"the generator itself lagged by {duration(lag_ms)} (p95): what is smaller is no difference here."]
        if lag_ms > LEAST_MS["phase"]
        else []
    )
    if verdict(differences) != ALIKE:
        return hidden
    large = [
        found
        for found in differences
        if found.kind == "mark"
        and abs(found.difference) >= max(LARGE_MS, LARGE_SHARE * min(found.first, found.second))
    ]
    if not large:
        return hidden
    found = max(large, key=lambda one: (abs(one.difference), one.name == Mark.WELCOMED))
    return [
        *hidden,
        f"{MARK_NAMES[found.name]} p{found.percent} is {duration(found.first)} in {first.name} and "
        f"{duration(found.second)} in {second.name}, which bursts of one setting can do by chance. "
        "More bursts of each would tell.",
    ]


def _part(found: Difference, first: Side, second: Side) -> str:
    if found.kind == "rate":
        return (
            f"{found.counts[1]} of {plural(second.sessions, 'user')} {RATES[found.name]}, against "
            f"{found.counts[0]} of {first.sessions}"
        )
    change = "longer" if found.difference > 0 else "shorter"
    bounds = sorted((abs(found.low), abs(found.high)))
    interval = f"95 % CI {_span(*bounds)}"
    if found.kind == "phase":
        return (
            f"{PHASES[found.name][0]} takes {_ms(abs(found.difference))} {change} "
            f"({found.name} p{found.percent}, {interval})"
        )
    later = "later" if found.difference > 0 else "earlier"
    return f"{MARK_NAMES[found.name]} {_ms(abs(found.difference))} {later} (p{found.percent}, {interval})"


def text(sides: Sequence[Side], compared: Sequence[Compared]) -> str:
    """The whole answer, without a final newline."""
    first = sides[0]
    lines = [sentence(first, other, differences) for other, differences, _ in compared]
    lines += [
        f"Mind: {line}" for other, differences, _ in compared for line in unjudged(first, other, differences)
    ]
    lines += [f"Mind: {run}" for side in sides for run in _void(side)]
    lines += ["", *(_about(side) for side in sides)]
    for other, differences, unlike in compared:
        if unlike:
            lines += ["", f"{first.name} and {other.name} are not of the same setting:"]
            lines += [f"  {what}: {one} | {two}" for what, one, two in unlike]
        if differences:
            lines += ["", *_table(first, other, differences)]
            lines += ["", _how(first, other)]
    return "\n".join(lines)


def _void(side: Side) -> list[str]:
    return [f"{side.name} is VOID and says nothing reliable ({reason})." for reason in side.void]


def _about(side: Side) -> str:
    runs = ", ".join(side.run_ids)
    return f"{side.name}  {runs}: {plural(len(side.bursts), 'burst')}, {plural(side.sessions, 'session')}"


def _table(first: Side, second: Side, differences: Iterable[Difference]) -> list[str]:
    head = f"  {'':<30}{first.name:>12}{second.name:>12}{'difference':>13}  {'95 % CI':<24}"
    lines = [head.rstrip()]
    for found in differences:
        if found.kind == "phase" and not found.tested:
            continue
        if found.kind == "rate":
            values = (f"{found.counts[0]} of {first.sessions}", f"{found.counts[1]} of {second.sessions}")
            change, interval = _points(found.difference), f"{_points(found.low)} to {_points(found.high)}"
        else:
            values = duration(found.first), duration(found.second)
            change, interval = _signed(found.difference), f"{_signed(found.low)} to {_signed(found.high)}"
        name = found.name if found.kind == "rate" else f"{found.name} p{found.percent}"
        mark = "  beyond noise" if found.differs else ""
        lines.append(f"  {name:<30}{values[0]:>12}{values[1]:>12}{change:>13}  {interval:<24}{mark}".rstrip())
    return lines


def _how(first: Side, second: Side) -> str:
    bursts = f"{plural(len(first.bursts), 'burst')} against {len(second.bursts)}"
    if len(first.bursts) + len(second.bursts) - 2 >= MANY:
        return f"Noise is told from how bursts of one side differ from each other ({bursts})."
    return (
        f"With {bursts} there is no telling how far bursts of one setting lie apart. So intervals are\n"
        "over sessions, a phase counts as different only where its p10, p25 and p50 all moved by 150 ms and\n"
        "a third (a mark: 500 ms and two thirds), and p95 and p99 are not judged. Three bursts a side tell\n"
        "more."
    )


def as_json(sides: Sequence[Side], compared: Sequence[Compared]) -> dict[str, Any]:
    """The same for programs; times in ms, rates as shares of 1."""
    first = sides[0]
    return {
        "schema": 1,
        "sides": [
            {
                "name": side.name,
                "runs": list(side.run_ids),
                "bursts": len(side.bursts),
                "sessions": side.sessions,
                "void": list(side.void),
            }
            for side in sides
        ],
        "compared": [
            {
                "first": first.name,
                "second": other.name,
                "verdict": verdict(differences),
                "sentence": sentence(first, other, differences),
                "unlike": [{"what": what, "first": one, "second": two} for what, one, two in unlike],
                "differences": [_plain(found) for found in differences],
            }
            for other, differences, unlike in compared
        ],
    }


def _plain(found: Difference) -> dict[str, Any]:
    values: dict[str, Any] = {
        "kind": found.kind,
        "name": found.name,
        "unit": "share" if found.kind == "rate" else "ms",
        "first": found.first,
        "second": found.second,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "tested": found.tested,
        "differs": found.differs,
        "worse": found.worse,
    }
    if found.kind != "rate":
        values["percentile"] = found.percent
    return values


def _ms(value_ms: float) -> str:
    """As exactly as a comparison needs it: 302 ms, not 0.30 s."""
    return f"{value_ms:.0f} ms" if value_ms < 9999.5 else duration(value_ms)


def _span(low_ms: float, high_ms: float) -> str:
    if high_ms < 9999.5:
        return f"{low_ms:.0f} to {high_ms:.0f} ms"
    return f"{duration(low_ms)} to {duration(high_ms)}"


def _signed(value_ms: float) -> str:
    return f"{'-' if value_ms < 0 else '+'}{duration(abs(value_ms))}"


def _points(share: float) -> str:
    return f"{100 * share:+.1f} %"
