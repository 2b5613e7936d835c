"""The text of service level objectives: one small grammar, read by hand. Pure; what a rule comes to is
:mod:`lk_users.slo`'s.

::

    rules      = rule { ";" rule }
    rule       = function "(" name ")" { by | in } operator limit
    function   = "count" | "rate" | "max" | "p" number       percentile: 0 < number <= 100
    by         = "by" key                                    it has to hold for every value of the key
    in         = "in" key "=" value { "," key "=" value }    only these sessions
    key        = "region" | "engine" | "batch" | "burst"
    value      = word                                        of batch and burst a number: 1 is the first
    operator   = "==" | "!=" | "<=" | "<" | ">=" | ">"
    limit      = number [ "%" | "ms" | "s" ]
    number     = digit { digit } [ "." digit { digit } ]     up to 12 digits and 9 decimals, no exponent
    word       = ( letter | digit | "." | "_" | "-" ) { letter | digit | "." | "_" | "-" }

Spaces may stand between any two of these. ``by`` and ``in`` come at most once each, in either order. What
``name`` can be hangs on the function:

    count, rate   an outcome or finding, a group (lost, duplicate, ours, open, theirs), or a mark: the
                  sessions that reached it
    pNN, max      a mark, a phase, or start_error

There is no mean: it hides those who waited longest, and a session that never got there has no length that
could go into it.

Every fault says at which character of the rule it is, counted from 1 in the rule as it is shown.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from lk_users.errors import Refused
from lk_users.outcome import ORDER
from lk_users.plan import WITNESS
from lk_users.record import Mark, Phase
from lk_users.settings.options import ENGINES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

GROUPS: Final = ("lost", "duplicate", "ours", "open", "theirs")
MARKS: Final = tuple(mark.value for mark in Mark)
PHASES: Final = tuple(phase.value for phase in Phase)
START_ERROR: Final = "start_error"
SESSION_NAMES: Final = (*GROUPS, *(finding.value for finding in ORDER), *MARKS)
TIME_NAMES: Final = (*MARKS, *PHASES, START_ERROR)
COUNT: Final = "count"
RATE: Final = "rate"
MAX: Final = "max"
SHARED_KEYS: Final = ("region", "engine")
NUMBERED_KEYS: Final = ("batch", "burst")
KEYS: Final = (*SHARED_KEYS, *NUMBERED_KEYS)
OPERATORS: Final = ("==", "!=", "<=", "<", ">=", ">")
FORMS: Final = "use count(lost) == 0, rate(ok) >= 99 %, p95(welcomed) <= 3 s or max(server_queue) < 500 ms"
# Longer ones are no rules that somebody wrote, and nothing here may take long.
MAX_CHARACTERS: Final = 200
MAX_RULES: Final = 100

_TOKEN: Final = re.compile(r"(?P<word>[A-Za-z0-9._-]+)|(?P<operator>[=!<>]+)|(?P<sign>[(),%])")
_PERCENTILE: Final = re.compile(r"p([0-9]{1,3}(?:\.[0-9]{1,9})?)")
_NUMBER: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([A-Za-z]*)")
_ORDINAL: Final = re.compile(r"[1-9][0-9]{0,8}")
_SUGGESTED_FUNCTIONS: Final = (COUNT, RATE, MAX, "p50", "p95", "p99")
# What a mean or a median is called elsewhere.
_INSTEAD: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("mean", "avg", "average"),
            "there is no mean, since it hides those who waited longest; use p50, p95 or max",
        ),
        "median": "use p50",
        "min": "there is no minimum; use p1",
    }
)
_LIKE: Final[Mapping[str, str]] = MappingProxyType(
    {
        COUNT: "no count; use a whole number, for example count(lost) == 0",
        RATE: "no rate; use 0 to 1 or a percentage, for example 0.99 or 99 %",
        "": "no time; use ms or s, for example 3000, 3000 ms or 3 s",
    }
)


@dataclass(frozen=True)
class Rule:
    """One objective as it was written. ``limit``: a count, a share of 1, or ms; ``percent``: of a percentile,
    100 for max; ``by``: a key or empty; ``where``: (key, value) that sessions must have, all of them."""

    text: str
    function: str
    name: str
    op: str
    limit: Fraction
    percent: Fraction = Fraction(100)
    by: str = ""
    where: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _Token:
    """``kind``: word, operator, sign or end; ``at``: where it begins, from 0."""

    kind: str
    text: str
    at: int


class _Fault(ValueError):
    """What is wrong with a rule, at which of its characters, from 0."""

    def __init__(self, at: int, what: str) -> None:
        super().__init__(what)
        self.at = at


def parse(text: str) -> tuple[Rule, ...]:
    """The rules of ``text``, separated by ``;``. Raises Refused with one line per bad one."""
    # One that is said twice is one.
    parts = list(dict.fromkeys(rule for part in text.split(";") if (rule := " ".join(part.split()))))
    if not parts:
        raise Refused([f"--slo: empty, so nothing would say what a pass is; {FORMS}"])
    if len(parts) > MAX_RULES:
        raise Refused([f"--slo: {len(parts)} of them; at most {MAX_RULES} are taken"])
    rules, faults = [], []
    for part in parts:
        try:
            rules.append(parse_rule(part))
        except _Fault as fault:
            shown, at = _shown(part[:MAX_CHARACTERS]), len(_shown(part[: fault.at])) + 1
            faults.append(f"--slo {_quoted(shown)}: character {at}: {fault}")
    if faults:
        raise Refused(faults)
    return tuple(rules)


def parse_rule(text: str) -> Rule:
    """One rule. Raises ValueError with what is wrong and what would do."""
    if len(text) > MAX_CHARACTERS:
        raise _Fault(MAX_CHARACTERS, f"too long: {len(text)} characters; at most {MAX_CHARACTERS} are taken")
    return _Parser(text).rule()


def nearest(word: str, names: Sequence[str]) -> str:
    """``; nearest: …`` for a message; empty where nothing is near."""
    near = difflib.get_close_matches(word.lower(), names, n=3, cutoff=0.7)
    return f"; nearest: {', '.join(near)}" if near else ""


class _Parser:
    """By recursive descent, over the tokens of one rule."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tuple(_tokens(text))
        self._next = 0

    def rule(self) -> Rule:
        function = self._take("word", f"a function first; {FORMS}")
        percent = _percent(function)
        kind = function.text if function.text in _LIKE else ""
        self._take_sign("(", f"( and a name, as in {function.text}({'lost' if kind else 'welcomed'})")
        name = self._name(kind)
        self._take_sign(")", "a closing )")
        by, where = self._clauses()
        op = self._operator()
        limit = self._limit(kind)
        return Rule(self._text, function.text, name, op, limit, percent, by, where)

    def _name(self, kind: str) -> str:
        allowed, others = (SESSION_NAMES, TIME_NAMES) if kind else (TIME_NAMES, SESSION_NAMES)
        token = self._take("word", "an outcome, a group or a mark" if kind else "a mark or a phase")
        if token.text in allowed:
            return token.text
        if token.text in others:
            what = "is a length of time; use p95() or max()" if kind else "is no time; use count() or rate()"
            raise _Fault(token.at, f"{token.text} {what}")
        near = nearest(token.text, allowed) or f"; {kind or 'pNN'}() takes one of {', '.join(allowed)}"
        raise _Fault(token.at, f"unknown name {token.text}{near}")

    def _clauses(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        by, where = "", ()  # type: tuple[str, tuple[tuple[str, str], ...]]
        while (token := self._peek()).text in ("by", "in"):
            self._next += 1
            if token.text == "by":
                if by:
                    raise _Fault(token.at, f"by {by} was said before; a rule is by one key")
                by = self._key().text
            else:
                if where:
                    raise _Fault(token.at, "in was said before; a comma separates: in region=eu, batch=1")
                where = self._where()
        if token.kind == "word":
            raise _Fault(token.at, f"unknown word {token.text}; by, in or an operator comes here")
        return by, where

    def _where(self) -> tuple[tuple[str, str], ...]:
        found: dict[str, str] = {}
        while True:
            key = self._key()
            if key.text in found:
                raise _Fault(key.at, f"{key.text} was said before; it has one value")
            sign = self._peek()
            if sign.text != "=":
                raise _Fault(sign.at, f"expected = and a value, as in {key.text}={_example(key.text)}")
            self._next += 1
            found[key.text] = self._value(key.text)
            if self._peek().text != ",":
                return tuple(found.items())
            self._next += 1

    def _key(self) -> _Token:
        token = self._take("word", f"one of {', '.join(KEYS)}")
        if token.text not in KEYS:
            near = nearest(token.text, KEYS) or f"; use one of {', '.join(KEYS)}"
            raise _Fault(token.at, f"unknown word {token.text}{near}")
        return token

    def _value(self, key: str) -> str:
        token = self._take("word", f"a value, as in {key}={_example(key)}")
        if key in NUMBERED_KEYS and not _ORDINAL.fullmatch(token.text):
            raise _Fault(token.at, f"{token.text} is no number of a {key}; 1 is the first")
        engines = (*ENGINES, WITNESS)
        if key == "engine" and token.text not in engines:
            near = nearest(token.text, engines) or f"; use one of {', '.join(engines)}"
            raise _Fault(token.at, f"unknown engine {token.text}{near}")
        return token.text

    def _operator(self) -> str:
        token = self._peek()
        if token.kind != "operator":
            raise _Fault(token.at, f"expected an operator, found {_found(token)}; use one of {_ALL}")
        self._next += 1
        if token.text not in OPERATORS:
            raise _Fault(token.at, f"unknown operator {token.text}; use one of {_ALL}")
        return token.text

    def _limit(self, kind: str) -> Fraction:
        first = self._peek()
        rest = self._text[first.at :]
        bad = _Fault(first.at, f"'{_shown(rest)}' is {_LIKE[kind]}")
        match = _NUMBER.fullmatch(first.text)
        if match is None:
            raise bad
        self._next += 1
        number, unit = Fraction(match[1]), match[2]
        if not unit and (self._peek().text == "%" or self._peek().text in ("ms", "s")):
            unit = self._peek().text
            self._next += 1
        after = self._peek()
        if after.text in ("by", "in"):
            raise _Fault(
                after.at, f"{after.text} comes before the operator, as in p95(welcomed) by region <= 3 s"
            )
        if after.kind != "end":
            raise bad
        if kind == COUNT:
            if unit or number.denominator != 1:
                raise bad
            return number
        if kind == RATE:
            share = number / 100 if unit == "%" else number
            if unit not in ("", "%") or share > 1:
                raise bad
            return share
        if unit not in ("", "ms", "s"):
            raise bad
        return number * 1000 if unit == "s" else number

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, kind: str, expected: str) -> _Token:
        token = self._peek()
        if token.kind != kind:
            raise _Fault(token.at, f"found {_found(token)}, expected {expected}")
        self._next += 1
        return token

    def _take_sign(self, sign: str, expected: str) -> None:
        token = self._peek()
        if token.text != sign:
            raise _Fault(token.at, f"found {_found(token)}, expected {expected}")
        self._next += 1


_ALL: Final = " ".join(OPERATORS)


def _tokens(text: str) -> Iterator[_Token]:
    """All of ``text``, and an end. Raises _Fault at a character that is in no rule."""
    at = 0
    while at < len(text):
        if text[at] == " ":
            at += 1
            continue
        match = _TOKEN.match(text, at)
        if match is None:
            raise _Fault(at, f"unexpected {_shown(text[at])}; {FORMS}")
        yield _Token(match.lastgroup or "", match[0], at)
        at = match.end()
    yield _Token("end", "", len(text))


def _percent(function: _Token) -> Fraction:
    """NN of pNN, else 100."""
    if function.text in (COUNT, RATE, MAX):
        return Fraction(100)
    match = _PERCENTILE.fullmatch(function.text)
    if match is None:
        instead = _INSTEAD.get(function.text) or nearest(function.text, _SUGGESTED_FUNCTIONS)[2:] or FORMS
        raise _Fault(function.at, f"unknown function {function.text}(); {instead}")
    percent = Fraction(match[1])
    if not 0 < percent <= 100:
        raise _Fault(
            function.at,
            f"{function.text}() is no percentile; use p50, p95, p99, p99.9 or another up to p100",
        )
    return percent


def _example(key: str) -> str:
    return "1" if key in NUMBERED_KEYS else {"region": "eu", "engine": ENGINES[0]}[key]


def _found(token: _Token) -> str:
    return "the end" if token.kind == "end" else token.text


def _quoted(shown: str) -> str:
    return f'"{shown}"' if "'" in shown else f"'{shown}'"


def _shown(text: str) -> str:
    """With what can't be printed as escapes, so that a fault stays one line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
