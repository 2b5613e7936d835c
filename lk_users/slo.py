"""Service level objectives: what makes a run a pass. Pure.

::

    count(X) OP N      how many sessions are X
    rate(X) OP R       their share of all sessions: 0.99 or 99 %
    pNN(M) OP V        a percentile of M: 3000, 3000 ms or 3 s
    max(M) OP V        the largest M

``X`` is an outcome or finding (sessions that have it, whether or not it decided their outcome) or a group:
``lost``, ``duplicate``, ``ours``, ``open``, ``theirs``. ``M`` is a mark, a phase or ``start_error``. ``OP``
is one of ``== != <= < >= >``.

Zero must be earned: without data nothing is met. A session that never reached a mark counts at its
deadline. Comparisons are exact, in fractions.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from lk_users.errors import Refused
from lk_users.outcome import DUPLICATE, ORDER, Fault, Finding, fault_of
from lk_users.record import Mark, Phase
from lk_users.stats import mark_samples_ns, percentile, phase_samples_ns, start_errors_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lk_users.record import Record

    Compare = Callable[[Fraction, Fraction], bool]

GROUPS: Final = ("lost", "duplicate", "ours", "open", "theirs")
SESSION_NAMES: Final = (*GROUPS, *(finding.value for finding in ORDER))
START_ERROR: Final = "start_error"
TIME_NAMES: Final = (*(mark.value for mark in Mark), *(phase.value for phase in Phase), START_ERROR)
FORMS: Final = "use count(lost) == 0, rate(ok) >= 99 %, p95(welcomed) <= 3 s or max(server_queue) < 500 ms"

_OPERATORS: Final[Mapping[str, Compare]] = MappingProxyType(
    {
        "==": operator.eq,
        "!=": operator.ne,
        "<=": operator.le,
        "<": operator.lt,
        ">=": operator.ge,
        ">": operator.gt,
    }
)
_FORM: Final = re.compile(
    r"(?P<kind>[a-z][\w.]*)\s*\(\s*(?P<name>\w+)\s*\)\s*(?P<op>[=!<>]+)\s*(?P<limit>.*)"
)
_PERCENTILE: Final = re.compile(r"p(\d+(?:\.\d+)?)")
_LIMIT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|%)?")


@dataclass(frozen=True)
class SloResult:
    """What an objective came to. ``value``: a count, a share of 1 or ms; None where there was no data."""

    text: str
    value: float | None
    ok: bool


@dataclass(frozen=True)
class Slo:
    """One objective. ``limit``: a count, a share of 1, or ms; ``percent``: of a percentile, 100 for max."""

    text: str
    kind: str
    name: str
    op: str
    limit: Fraction
    percent: Fraction = Fraction(100)

    def evaluate(self, records: Sequence[Record]) -> SloResult:
        """Against the sessions of a run. No data is never ok."""
        value = self._value(records)
        if value is None:
            return SloResult(self.text, None, ok=False)
        shown = int(value) if value.denominator == 1 else round(float(value), 6)
        return SloResult(self.text, shown, ok=_OPERATORS[self.op](value, self.limit))

    def _value(self, records: Sequence[Record]) -> Fraction | None:
        if self.kind in ("count", "rate"):
            if not records:
                return None
            count = sum(belongs(record, self.name) for record in records)
            return Fraction(count, len(records) if self.kind == "rate" else 1)
        value_ns = percentile(_samples_ns(records, self.name), self.percent)
        return None if value_ns is None else Fraction(value_ns, 1_000_000)


def parse(text: str) -> tuple[Slo, ...]:
    """The objectives of ``text``, separated by ``;``. Raises Refused with one line per bad one."""
    slos, faults = [], []
    for part in text.split(";"):
        expression = " ".join(part.split())
        if not expression:
            continue
        try:
            slos.append(_parse_one(expression))
        except ValueError as exc:
            faults.append(f"--slo {expression!r}: {exc}")
    if not slos and not faults:
        faults.append(f"--slo: empty, so nothing would say what a pass is; {FORMS}")
    if faults:
        raise Refused(faults)
    return tuple(slos)


def belongs(record: Record, name: str) -> bool:
    """Is this session one of those that ``name``, one of ``SESSION_NAMES``, stands for?"""
    if name == "lost":
        return record.lost
    if name == "duplicate":
        return any(finding in record.findings for finding in DUPLICATE)
    if name in GROUPS:
        return fault_of(record.outcome) is Fault(name)
    if name == Finding.OK:
        return record.outcome is Finding.OK
    return name in record.findings


def _parse_one(expression: str) -> Slo:
    """Raises ValueError with what is wrong and what would do."""
    form = _FORM.fullmatch(expression)
    if form is None:
        raise ValueError(f"not of a known form; {FORMS}")
    kind, name, op = form["kind"], form["name"], form["op"]
    percent = Fraction(100)
    if kind in ("count", "rate"):
        if name not in SESSION_NAMES:
            raise ValueError(f"unknown name {name}; {kind}() takes one of {', '.join(SESSION_NAMES)}")
    else:
        percent = _percent(kind)
        if name not in TIME_NAMES:
            raise ValueError(f"unknown name {name}; {kind}() takes one of {', '.join(TIME_NAMES)}")
    if op not in _OPERATORS:
        raise ValueError(f"unknown operator {op}; use one of {' '.join(_OPERATORS)}")
    return Slo(expression, kind, name, op, _limit(kind, form["limit"]), percent)


def _percent(kind: str) -> Fraction:
    """100 for max, NN for pNN."""
    if kind == "max":
        return Fraction(100)
    match = _PERCENTILE.fullmatch(kind)
    if match is None:
        raise ValueError(f"unknown function {kind}(); {FORMS}")
    percent = Fraction(match[1])
    if not 0 < percent <= 100:
        raise ValueError(f"{kind}() is no percentile; use p50, p95, p99, p99.9 or another up to p100")
    return percent


def _limit(kind: str, text: str) -> Fraction:
    match = _LIMIT.fullmatch(text)
    number, unit = (Fraction(match[1]), match[2]) if match else (None, None)
    if kind == "count":
        if number is None or unit or number.denominator != 1:
            raise ValueError(f"{text!r} is no count; use a whole number, for example count(lost) == 0")
        return number
    if kind == "rate":
        share = number / 100 if number is not None and unit == "%" else number
        if share is None or unit in ("ms", "s") or share > 1:
            raise ValueError(f"{text!r} is no rate; use 0 to 1 or a percentage, for example 0.99 or 99 %")
        return share
    if number is None or unit == "%":
        raise ValueError(f"{text!r} is no time; use ms or s, for example 3000, 3000 ms or 3 s")
    return number * 1000 if unit == "s" else number


def _samples_ns(records: Sequence[Record], name: str) -> list[int]:
    if name == START_ERROR:
        return start_errors_ns(records)
    if name in [mark.value for mark in Mark]:
        return mark_samples_ns(records, Mark(name))
    return phase_samples_ns(records, Phase(name))
