"""The witness: what the sessions on the official SDK saw, beside the others of the same bursts. A fold.

Both kinds are spread evenly over a burst and have rooms of their own, so their marks can be compared; a
difference is that of the medians. Two things lie between an agent's word and an SDK user's ear that are no
fault of anybody. The client's own *receive delay*: from a packet's arrival to its sound in Python. And, for
a user who is in the room only after its agent, the time until the server tells the agent.

Where the sides have an outcome in unlike numbers, the sessions that make the difference are named, and what
is known of them that has nothing to do with hearing: the agent never came to them, or they were near the
bound of a rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lk_users.clock import NS_PER_MS
from lk_users.outcome import Finding
from lk_users.plan import WITNESS
from lk_users.record import Mark
from lk_users.stats import spread_ms, tally
from lk_users.welcome import CLIPPED_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lk_users.health import Trailer
    from lk_users.record import Record

COMPARED: Final = (
    Mark.CONNECTED,
    Mark.MEDIA_UP,
    Mark.AGENT_JOINED,
    Mark.AGENT_TRACK,
    Mark.FIRST_AUDIO,
    Mark.FIRST_TEXT,
    Mark.WELCOMED,
)
OTHER: Final = "listen"
PERCENTS: Final = (50, 90)
CLIPPED_MS: Final = CLIPPED_NS / NS_PER_MS
# From half of it on, a session is near the rule's bound.
NEARLY_MS: Final = CLIPPED_MS / 2
# What the server's API tells of the job, whoever listens. An agent that only we did not see is none of these.
NEVER_CAME: Final = (Finding.NEVER_ASSIGNED, Finding.REJECTED, Finding.ASSIGNED_NOT_JOINED)


def section(records: Sequence[Record], trailers: Sequence[Trailer]) -> dict[str, Any] | None:
    """``witness`` of ``summary.json``, times in ms; None of a run without witnesses."""
    sides = {
        OTHER: [record for record in records if record.engine != WITNESS],
        WITNESS: [record for record in records if record.engine == WITNESS],
    }
    if not sides[WITNESS]:
        return None
    outcomes = {name: tally(record.outcome for record in side) for name, side in sides.items()}
    return {
        "sessions": len(sides[WITNESS]),
        "order": sides[WITNESS][0].order,
        "outcomes": outcomes,
        "unlike": _unlike(sides, outcomes),
        "marks": {mark.value: _compare(sides, _at(mark)) for mark in COMPARED},
        "hearing": _compare(sides, _hearing_ns),
        "join_to_audio": _compare(sides, _join_to_audio_ns),
        "late_users": {name: sum(map(came_late, side)) for name, side in sides.items()},
        "receive_delay_ms": _fact(sides[WITNESS], "receive_delay_ms"),
        "jitter_buffer_ms": _fact(sides[WITNESS], "jitter_buffer_ms"),
        "cpu_s": round(sum(trailer.witness_cpu_s for trailer in trailers), 3),
    }


def came_late(record: Record) -> bool:
    """Was the user in the room only after its agent?"""
    joined_ns = record.marks_ns.get(Mark.AGENT_JOINED)
    return joined_ns is not None and record.marks_ns.get(Mark.CONNECTED, joined_ns) > joined_ns


def _unlike(
    sides: Mapping[str, Sequence[Record]], outcomes: Mapping[str, Mapping[str, int]]
) -> list[dict[str, Any]]:
    """The sessions that make the sides differ: those with an outcome that equal sides have in unlike numbers,
    or that only one of unequal sides has; but not with the most frequent such one, for where one of 79 is on
    the other side of a rule, it is that one. ``why``: empty where the record does not say."""
    if not sides[OTHER]:
        return []
    ours, theirs = outcomes[OTHER], outcomes[WITNESS]
    if len(sides[OTHER]) == len(sides[WITNESS]):
        unlike = {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)}
    else:
        unlike = ours.keys() ^ theirs.keys()
    if len(unlike) > 1:
        total = {name: ours.get(name, 0) + theirs.get(name, 0) for name in unlike}
        unlike.discard(max(unlike, key=lambda name: (total[name], name == Finding.OK)))
    return [
        {
            "engine": name,
            "session_id": record.session_id,
            "room": record.room,
            "outcome": record.outcome,
            "why": _why(record),
        }
        for name, side in sides.items()
        for record in side
        if record.outcome in unlike
    ]


def _why(record: Record) -> str:
    """What made the outcome that is no matter of hearing; empty where nothing is known."""
    if record.outcome == Finding.OK:
        return _nearly_clipped(record)
    return record.cause if record.outcome in NEVER_CAME else ""


def _nearly_clipped(record: Record) -> str:
    """Of a session that was well: could its welcome have been called clipped?"""
    lead_ms = float(record.evidence.get("speech_ms_before_us", 0.0)) - record.lag_ms
    if lead_ms < NEARLY_MS:
        return ""
    spoke = f"its agent had been speaking for {lead_ms:.0f} ms before its audio could reach the user"
    if lead_ms < CLIPPED_MS:
        return f"{spoke}; from {CLIPPED_MS:.0f} ms on that is {Finding.WELCOME_CLIPPED}"
    return (
        f"{spoke}, but what came began with {record.evidence['ms_before']:.0f} ms of silence: nobody can "
        "tell whether a sound was lost before that"
    )


def _at(mark: Mark) -> Callable[[Record], int | None]:
    return lambda record: record.marks_ns.get(mark)


def _hearing_ns(record: Record) -> int | None:
    """From the agent's word that it speaks, which reaches every engine alike, to its first audible frame."""
    spoke_ns, heard_ns = (record.marks_ns.get(mark) for mark in (Mark.AGENT_SPEAKING, Mark.FIRST_AUDIO))
    return None if spoke_ns is None or heard_ns is None else heard_ns - spoke_ns


def _join_to_audio_ns(record: Record) -> int | None:
    """From the agent's join to its first audible frame, where the agent found its user in the room."""
    joined_ns, heard_ns = (record.marks_ns.get(mark) for mark in (Mark.AGENT_JOINED, Mark.FIRST_AUDIO))
    if joined_ns is None or heard_ns is None or came_late(record):
        return None
    return heard_ns - joined_ns


def _compare(sides: Mapping[str, Sequence[Record]], length: Callable[[Record], int | None]) -> dict[str, Any]:
    spreads = {
        name: spread_ms(
            (value / NS_PER_MS for record in side if (value := length(record)) is not None), PERCENTS
        )
        for name, side in sides.items()
    }
    ours, theirs = spreads[OTHER]["p50"], spreads[WITNESS]["p50"]
    difference = None if ours is None or theirs is None else round(theirs - ours, 3)
    return {**spreads, "difference_p50_ms": difference}


def _fact(records: Iterable[Record], name: str) -> dict[str, Any]:
    """Over the sessions that measured it."""
    return spread_ms(
        (float(record.evidence[name]) for record in records if name in record.evidence), PERCENTS
    )
