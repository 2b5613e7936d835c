"""Which sessions stand for a run: one of each kind of failure, and the slowest that were welcomed. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lk_users.outcome import ORDER, Finding
from lk_users.record import Mark, Record

if TYPE_CHECKING:
    from collections.abc import Iterable

SLOWEST: Final = 10
# What differs between causes of one kind: LiveKit's ids, our room names, lengths of time.
_ID: Final = re.compile(r"\b(?:agent-)?[A-Z]{2,3}_[A-Za-z0-9]+|\bagent-[0-9a-f]{6,}\b|\blk-\d{8}[\w-]+")
_TIME: Final = re.compile(r"\d+(?:\.\d+)? m?s\b")


@dataclass(frozen=True)
class Kind:
    """Sessions that failed in one way. ``cause``: what their causes have in common."""

    outcome: Finding
    cause: str
    records: tuple[Record, ...]


def cause_class(cause: str) -> str:
    """The cause without what is one session's own, such as ids; an HTTP status stays."""
    return _TIME.sub("… s", _ID.sub("…", " ".join(cause.split())))


def failures(records: Iterable[Record]) -> list[Kind]:
    """Every kind of failure, in the order of :mod:`lk_users.outcome`, the most frequent cause first."""
    found: dict[tuple[Finding, str], list[Record]] = defaultdict(list)
    for record in records:
        if record.outcome is not Finding.OK:
            found[record.outcome, cause_class(record.cause)].append(record)
    kinds = [
        Kind(outcome, cause, tuple(sorted(mine, key=Record.sort_key)))
        for (outcome, cause), mine in found.items()
    ]
    return sorted(kinds, key=lambda kind: (ORDER.index(kind.outcome), -len(kind.records), kind.cause))


def slowest(records: Iterable[Record]) -> list[Record]:
    """Of the sessions that were welcomed those that waited longest for it."""
    welcomed = [record for record in records if record.welcomed]
    return sorted(welcomed, key=lambda one: (-one.marks_ns[Mark.WELCOMED], *one.sort_key()))[:SLOWEST]
