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

What is not known of a session (a stamp of the server that could not be read; a mark that a welcomed user did
not wait for) counts as the least and as the most that it can be. Where the two differ in whether the rule is
met, it has no data.

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
from lk_users.record import Mark, Phase
from lk_users.slo_grammar import COUNT, GROUPS, MARKS, NUMBERED_KEYS, PHASES, RATE, START_ERROR, nearest
from lk_users.stats import limit_ns, percentile, start_errors_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lk_users.record import Record
    from lk_users.settings.run import Settings
    from lk_users.slo_grammar import Rule

    Compare = Callable[[Fraction, Fraction], bool]
    # (never got there, length): never is longer than all else. In ns, and as an SLO's value.
    _Length = tuple[bool, int]
    _Bound = tuple[bool, Fraction]

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
# By these marks a phase is over: who has one, and not the phase, lacks data.
ENDS: Final[Mapping[str, tuple[Mark, ...]]] = MappingProxyType(
    {
        Phase.SESSION_API: (Mark.SESSION_CREATED,),
        Phase.DISPATCH_API: (Mark.DISPATCHED,),
        Phase.USER_JOIN: (Mark.CONNECTED,),
        Phase.MEDIA_SETUP: (Mark.MEDIA_UP,),
        Phase.SERVER_QUEUE: (Mark.AGENT_JOINED, Mark.AGENT_SEEN),
        Phase.ACCEPT_TO_JOIN: (Mark.AGENT_JOINED, Mark.AGENT_SEEN),
        Phase.AGENT_START: (Mark.AGENT_TRACK,),
        Phase.SPEAK: (Mark.FIRST_AUDIO, Mark.FIRST_TEXT),
    }
)
_LEFT_EARLY: Final = ", whose users had their welcome and did not wait for it (--welcome, --watch)"
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
    unknown: int = 0
    """Of so many samples only bounds are known, which say enough."""
    bound: str = ""
    """``at least`` or ``at most`` where they say no more of the value than that."""
    missing: str = ""
    """Why there was no data; empty where there was."""


@dataclass(frozen=True)
class _Measured:
    """``told``: does it say whether the rule is met, whatever the ``unknown`` ones are?"""

    value: Fraction
    samples: int
    sessions: int
    never: bool = False
    unknown: int = 0
    bound: str = ""
    told: bool = True


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
            of = _of([*rule.where, *([(rule.by, value)] if rule.by else [])])
            if found is None:
                missing = missing or f"no session{of} has {rule.name}"
            elif not found.told:
                missing = missing or (
                    f"{rule.name} is not known of {found.unknown} of {found.samples} sessions{of}"
                    f"{_LEFT_EARLY if rule.name in MARKS else ''}"
                )
            else:
                measured[value] = found
        if missing:
            return SloResult(rule.text, None, ok=False, unit=self.unit, missing=missing)
        where, worst = max(measured.items(), key=lambda item: _badness(rule, item[1]))
        exact = worst.value
        return SloResult(
            rule.text,
            int(exact) if exact.denominator == 1 else round(float(exact), 6),
            ok=_is_met(rule, (worst.never, exact)),
            unit=self.unit,
            worst=f"{rule.by}={where}" if rule.by else "",
            never=worst.never,
            samples=worst.samples,
            sessions=worst.sessions,
            unknown=worst.unknown,
            bound=worst.bound,
        )

    @property
    def unit(self) -> str:
        return UNIT_OF.get(self.rule.function, "ms")


def parse(text: str) -> tuple[Slo, ...]:
    """The objectives of ``text``, separated by ``;``. Raises Refused with one line per bad one."""
    return tuple(Slo(rule) for rule in slo_grammar.parse(text))


def unmeasurable(slos: Sequence[Slo], settings: Settings) -> list[str]:
    """Why objectives could only make a run with these settings void, a line each: known before its start."""
    return [
        f"--slo '{slo.text}': {why}"
        for slo in slos
        for key, value in slo.rule.where
        if (why := _why_none(key, value, settings))
    ]


def _why_none(key: str, value: str, settings: Settings) -> str:
    """Why no session of a run will have this value; empty where one may."""
    engines = (settings.engine, *([WITNESS] if settings.witness else []))
    regions = sorted(settings.region_users)
    if key == "engine" and value not in engines:
        how = "give --witness, for example 10" if value == WITNESS else f"use engine={engines[0]}"
        return f"no session of this run has engine {value}; {how}"
    if key == "region" and regions and value not in regions:
        there = nearest(value, regions) or f"; there are {_some(regions)}"
        return f"--region-users has no users for region {value}{there}"
    # How many bursts a search has, and of what batches, is up to it.
    if settings.course != "bursts" or not settings.users:
        return ""
    if key == "burst" and int(value) > settings.bursts:
        return f"this run has {settings.bursts} (--bursts)"
    batches = -(-settings.users // settings.batch_size) if settings.batch_size else 1
    if key == "batch" and int(value) > batches:
        return f"this run's bursts have {batches} (--batch-size)"
    return ""


def belongs(record: Record, name: str) -> bool:
    """Is this session one of those that ``name``, of ``slo_grammar.SESSION_NAMES``, stands for?"""
    if name == "lost":
        return record.lost
    if name == "duplicate":
        return any(finding in record.findings for finding in DUPLICATE)
    if name in GROUPS:
        return fault_of(record.outcome) is Fault(name)
    if name == Mark.AGENT_JOINED:
        return name in record.marks_ns or Mark.AGENT_SEEN in record.marks_ns
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
        whole = len(records) if rule.function == RATE else 1
        sure = sum(belongs(record, rule.name) for record in records)
        unknown = sum(_may_have_reached(record, rule.name) for record in records)
        low, high = (False, Fraction(sure, whole)), (False, Fraction(sure + unknown, whole))
        return _measured(rule, low, high, len(records), unknown, len(records))
    samples = _samples(records, rule.name)
    unknown = sum(low != high for low, high in samples)
    if not samples or (rule.name in PHASES and unknown == len(samples)):
        return None
    lows, highs = (sorted(bound) for bound in zip(*samples, strict=True))
    ranked = [percentile(bound, rule.percent) or lows[0] for bound in (lows, highs)]
    low, high = ((never, Fraction(length_ns, NS_PER_MS)) for never, length_ns in ranked)
    return _measured(rule, low, high, len(samples), unknown, len(records))


def _measured(rule: Rule, low: _Bound, high: _Bound, samples: int, unknown: int, sessions: int) -> _Measured:
    """From the least and the most that the value can be."""
    met = _is_met(rule, low)
    between = rule.op in ("==", "!=") and low < (False, rule.limit) < high
    # Of the two the one that says what is sure.
    is_most = met is (rule.op not in _UPWARD)
    never, value = high if is_most else low
    told = met is _is_met(rule, high) and not between
    bound = "" if low == high else "at most" if is_most else "at least"
    return _Measured(value, samples, sessions, never=never, unknown=unknown, bound=bound, told=told)


def _samples(records: Sequence[Record], name: str) -> list[tuple[_Length, _Length]]:
    """(at least, at most) of each session that counts; the same twice where it is known."""
    if name == START_ERROR:
        return [_known(length_ns) for length_ns in start_errors_ns(records)]
    if name in MARKS:
        return [_reached(record, name) for record in records]
    found = []
    for record in records:
        if (length_ns := record.phases_ns.get(Phase(name))) is not None:
            found.append(_known(length_ns))
        elif any(mark in record.marks_ns for mark in ENDS.get(name, ())):
            found.append(((False, 0), (True, limit_ns(record))))
    return found


def _reached(record: Record, mark: str) -> tuple[_Length, _Length]:
    """When a session reached a mark. The agent's join is placed by the server's clock, before it was seen."""
    if mark in record.marks_ns:
        return _known(record.marks_ns[mark])
    if mark == Mark.AGENT_JOINED and Mark.AGENT_SEEN in record.marks_ns:
        return (False, 0), (False, record.marks_ns[Mark.AGENT_SEEN])
    never = (True, limit_ns(record))
    return ((False, record.decided_ns) if _may_have_reached(record, mark) else never), never


def _may_have_reached(record: Record, name: str) -> bool:
    """A welcomed user left without waiting for more: what had not come by then is not known. To who was not
    welcomed it never came."""
    return name in MARKS and record.welcomed and not belongs(record, name)


def _known(length_ns: int) -> tuple[_Length, _Length]:
    return (False, length_ns), (False, length_ns)


def _is_met(rule: Rule, bound: _Bound) -> bool:
    never, value = bound
    return rule.op in _UPWARD if never else _COMPARE[rule.op](value, rule.limit)


def _badness(rule: Rule, measured: _Measured) -> tuple[bool, Fraction]:
    """Larger is worse. Never is the largest value of all. Where any does not meet the rule, the worst does
    not."""
    value = measured.value
    if rule.op in ("==", "!="):
        value = abs(value - rule.limit)
    return (not measured.never, -value) if rule.op in _UPWARD else (measured.never, value)
