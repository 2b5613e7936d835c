"""Service level objectives: what makes a run a pass. Pure. How they are written: :mod:`lk_users.slo_grammar`.

::

    count(X)    how many sessions are X
    rate(X)     their share of all sessions
    pNN(M)      a percentile of M, nearest rank, in ms
    max(M)      the largest M

``X`` is an outcome or finding (sessions that have it, whether or not it decided their outcome), a group, or a
mark (sessions that reached it). ``M`` is a mark, a phase or ``start_error``.

Comparisons are exact, in fractions. A session that never reached a mark counts at its deadline, as in every
figure; but where the percentile is such a session's, it is later than any limit, so that nobody meets
``p95(agent_joined) <= 10 s`` by giving up after 5 s. Phases and ``start_error`` are over the sessions that
have them.

With ``by`` the rule holds where it does for every value of the key, and the result names the worst. Zero must
be earned: a rule for which there is no session, or none with the phase that it is about, has no data, and
that makes the run void.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from lk_users import slo_grammar
from lk_users.clock import NS_PER_MS
from lk_users.outcome import DUPLICATE, Fault, Finding, fault_of
from lk_users.plan import WITNESS
from lk_users.record import Phase
from lk_users.slo_grammar import COUNT, GROUPS, MARKS, NUMBERED_KEYS, RATE, START_ERROR, nearest
from lk_users.stats import limit_ns, percentile, phase_samples_ns, start_errors_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lk_users.record import Record
    from lk_users.settings import Settings
    from lk_users.slo_grammar import Rule

    Compare = Callable[[Fraction, Fraction], bool]

VALUES_SHOWN: Final = 5
_COMPARE: Final[Mapping[str, Compare]] = MappingProxyType(
    {
        "==": operator.eq,
        "!=": operator.ne,
        "<=": operator.le,
        "<": operator.lt,
        ">=": operator.ge,
        ">": operator.gt,
    }
)
_UPWARD: Final = (">=", ">", "!=")
UNIT_OF: Final[Mapping[str, str]] = MappingProxyType({COUNT: "count", RATE: "share"})


@dataclass(frozen=True)
class SloResult:
    """What an objective came to."""

    text: str
    value: float | None
    """By ``unit`` a count, a share of 1 or ms; None where there was no data."""
    ok: bool
    unit: str = "count"
    """``count``, ``share`` or ``ms``."""
    worst: str = ""
    """Where an objective by a key was worst, as ``region=eu``; ``value`` is from there."""
    never: bool = False
    """``value`` is where a session counts that never got there."""
    samples: int = 0
    sessions: int = 0
    """The value is over so many ``samples`` of ``sessions``."""
    missing: str = ""
    """Why there was no data; empty where there was."""


@dataclass(frozen=True)
class _Measured:
    value: Fraction
    samples: int
    sessions: int
    never: bool = False


@dataclass(frozen=True)
class Slo:
    """One objective."""

    rule: Rule

    @property
    def text(self) -> str:
        return self.rule.text

    def evaluate(self, records: Sequence[Record]) -> SloResult:
        """Against the sessions of a run. No data is never ok."""
        rule = self.rule
        missing = _unknown_value(rule, records)
        chosen = [one for one in records if all(_value_of(one, key) == value for key, value in rule.where)]
        measured: dict[str, _Measured] = {}
        for value, sessions in _groups(rule.by, chosen):
            found = _measure(rule, sessions)
            if found is None:
                of = [*rule.where, *([(rule.by, value)] if rule.by else [])]
                missing = missing or f"no session{_of(of)} has {rule.name}"
            else:
                measured[value] = found
        if missing:
            return SloResult(rule.text, None, ok=False, unit=self.unit, missing=missing)
        where, worst = max(measured.items(), key=lambda item: _badness(rule, item[1]))
        exact = worst.value
        return SloResult(
            rule.text,
            int(exact) if exact.denominator == 1 else round(float(exact), 6),
            ok=_is_met(rule, worst),
            unit=self.unit,
            worst=f"{rule.by}={where}" if rule.by else "",
            never=worst.never,
            samples=worst.samples,
            sessions=worst.sessions,
        )

    @property
    def unit(self) -> str:
        return UNIT_OF.get(self.rule.function, "ms")


def parse(text: str) -> tuple[Slo, ...]:
    """The objectives of ``text``, separated by ``;``. Raises Refused with one line per bad one."""
    return tuple(Slo(rule) for rule in slo_grammar.parse(text))


def unmeasurable(slos: Sequence[Slo], settings: Settings) -> list[str]:
    """Why objectives could only make a run with these settings void, a line each: known before its start."""
    engines = (settings.engine, *([WITNESS] if settings.witness else []))
    regions = tuple(settings.region_users)
    faults = []
    for slo in slos:
        for key, value in slo.rule.where:
            if key == "engine" and value not in engines:
                how = "give --witness, for example 10" if value == WITNESS else f"use engine={engines[0]}"
                faults.append(f"--slo '{slo.text}': no session of this run has engine {value}; {how}")
            if key == "region" and regions and value not in regions:
                there = nearest(value, regions) or f"; there are {_some(sorted(regions))}"
                faults.append(f"--slo '{slo.text}': --region-users has no users for region {value}{there}")
    return faults


def belongs(record: Record, name: str) -> bool:
    """Is this session one of those that ``name``, of ``slo_grammar.SESSION_NAMES``, stands for?"""
    if name == "lost":
        return record.lost
    if name == "duplicate":
        return any(finding in record.findings for finding in DUPLICATE)
    if name in GROUPS:
        return fault_of(record.outcome) is Fault(name)
    if name in MARKS:
        return name in record.marks_ns
    if name == Finding.OK:
        return record.outcome is Finding.OK
    return name in record.findings


def _unknown_value(rule: Rule, records: Sequence[Record]) -> str:
    """Why there is no session that the rule is about; empty where there is one."""
    if not records:
        return "no session was recorded"
    for key, value in rule.where:
        there = {_value_of(record, key) for record in records}
        if value not in there:
            return f"no session has {key} {value}; there are {_some(_in_order(key, there))}"
    if all(any(_value_of(record, key) != value for key, value in rule.where) for record in records):
        return f"there is no session{_of(rule.where)}" if rule.where else ""
    return ""


def _groups(by: str, records: Sequence[Record]) -> list[tuple[str, Sequence[Record]]]:
    """(value of the key, its sessions), in order; all in one where there is no key."""
    if not by:
        return [("", records)] if records else []
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(_value_of(record, by), []).append(record)
    return [(value, found[value]) for value in _in_order(by, found.keys())]


def _value_of(record: Record, key: str) -> str:
    return str(getattr(record, key))


def _in_order(key: str, values: Iterable[str]) -> list[str]:
    return sorted(values, key=int) if key in NUMBERED_KEYS else sorted(values)


def _some(values: Sequence[str]) -> str:
    rest = len(values) - VALUES_SHOWN
    return ", ".join(values[:VALUES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _of(where: Sequence[tuple[str, str]]) -> str:
    return " of " + ", ".join(f"{key}={value}" for key, value in where) if where else ""


def _measure(rule: Rule, records: Sequence[Record]) -> _Measured | None:
    """None of nothing."""
    if rule.function in (COUNT, RATE):
        count = sum(belongs(record, rule.name) for record in records)
        whole = len(records) if rule.function == RATE else 1
        return _Measured(Fraction(count, whole), len(records), len(records))
    samples = _samples(records, rule.name)
    found = percentile(samples, rule.percent)
    if found is None:
        return None
    return _Measured(Fraction(found[0], NS_PER_MS), len(samples), len(records), never=found[1])


def _samples(records: Sequence[Record], name: str) -> list[tuple[int, bool]]:
    """Ascending (ns, never got there)."""
    if name in MARKS:
        return sorted((r.marks_ns.get(name, limit_ns(r)), name not in r.marks_ns) for r in records)
    if name == START_ERROR:
        return [(length_ns, False) for length_ns in start_errors_ns(records)]
    return [(length_ns, False) for length_ns in phase_samples_ns(records, Phase(name))]


def _is_met(rule: Rule, measured: _Measured) -> bool:
    if measured.never:
        return rule.op in _UPWARD
    return _COMPARE[rule.op](measured.value, rule.limit)


def _badness(rule: Rule, measured: _Measured) -> tuple[bool, Fraction]:
    """Larger is worse. Never is the largest value of all. Where any does not meet the rule, the worst does
    not."""
    value = measured.value
    if rule.op in ("==", "!="):
        value = abs(value - rule.limit)
    return (not measured.never, -value) if rule.op in _UPWARD else (measured.never, value)
