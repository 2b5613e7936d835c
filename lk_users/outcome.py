"""What can become of a session, and whose doing it is.

A record lists all its findings; its outcome is the first of them in this order (closed list)::

    ours     generator_lost      its worker died
             engine_crashed      its SDK child died
             cancelled           the operator stopped the run
    open     client_blind        the API lists the agent, we do not see it
             media_failed        in the room, but our peer connection never came up
             dispatch_unclear    timeout or 5xx, and yet a job
    theirs   rate_limited        429
             session_failed      the user's own backend gave no session
             dispatch_failed     refused, failed or never answered
             connect_failed      the first attempt to join; an SDK would have tried again
             user_dropped        the server sent ``leave``
             connection_lost     the signalling connection was cut
             room_closed         the room ended under us
             never_assigned      no worker got the job
             rejected            a worker declined it
             assigned_not_joined a worker took it, no agent came
             duplicate_agent     two of the named agent at once
             job_retried         one job id, two worker ids
             agent_rejoined      same job and worker, new participant sid
             agent_left          the agent went away
             agent_ended         the agent's job was shut down on purpose
             welcome_missing     agent there, nothing heard
             welcome_clipped     text complete, its beginning not audible
             welcome_late        heard, but after ``--welcome-timeout``
             welcome_twice       heard from two participants
    ok       ok

Findings that never are an outcome: ``ghost_dispatch`` (the room also asked for an unnamed agent that no
worker serves), ``bystander_agent`` (another agent in the room), ``double_dispatch`` (the room was asked for
the agent twice, so that two of it are what was asked for and no duplicate of the target's),
``lag_in_window`` (our own loop stalled while the session ran), ``rearmed`` (its connection was made again at
or before T0).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable


class Finding(enum.StrEnum):
    """One thing that was found about a session. Declared in the order that decides the outcome."""

    GENERATOR_LOST = "generator_lost"
    ENGINE_CRASHED = "engine_crashed"
    CANCELLED = "cancelled"

    CLIENT_BLIND = "client_blind"
    MEDIA_FAILED = "media_failed"
    DISPATCH_UNCLEAR = "dispatch_unclear"

    RATE_LIMITED = "rate_limited"
    SESSION_FAILED = "session_failed"
    DISPATCH_FAILED = "dispatch_failed"
    CONNECT_FAILED = "connect_failed"
    USER_DROPPED = "user_dropped"
    CONNECTION_LOST = "connection_lost"
    ROOM_CLOSED = "room_closed"
    NEVER_ASSIGNED = "never_assigned"
    REJECTED = "rejected"
    ASSIGNED_NOT_JOINED = "assigned_not_joined"
    DUPLICATE_AGENT = "duplicate_agent"
    JOB_RETRIED = "job_retried"
    AGENT_REJOINED = "agent_rejoined"
    AGENT_LEFT = "agent_left"
    AGENT_ENDED = "agent_ended"
    WELCOME_MISSING = "welcome_missing"
    WELCOME_CLIPPED = "welcome_clipped"
    WELCOME_LATE = "welcome_late"
    WELCOME_TWICE = "welcome_twice"

    OK = "ok"

    GHOST_DISPATCH = "ghost_dispatch"
    BYSTANDER_AGENT = "bystander_agent"
    DOUBLE_DISPATCH = "double_dispatch"
    LAG_IN_WINDOW = "lag_in_window"
    REARMED = "rearmed"


class Fault(enum.StrEnum):
    """Whose doing an outcome is."""

    OURS = "ours"
    OPEN = "open"
    THEIRS = "theirs"
    NONE = "none"


class Verdict(enum.StrEnum):
    """What a run comes to."""

    PASS = "PASS"
    SLO_FAILED = "SLO_FAILED"
    VOID = "VOID"


class ExitCode(enum.IntEnum):
    """Clear of Locust's own 1 and 2. Of several runs in one process the worst, by value."""

    PASS = 0
    SLO_FAILED = 10
    VOID = 11
    REFUSED = 12


EXIT_CODE_OF: Final = {
    Verdict.PASS: ExitCode.PASS,
    Verdict.SLO_FAILED: ExitCode.SLO_FAILED,
    Verdict.VOID: ExitCode.VOID,
}

ORDER: tuple[Finding, ...] = tuple(Finding)
OUTCOMES: tuple[Finding, ...] = ORDER[: ORDER.index(Finding.OK) + 1]
OURS: tuple[Finding, ...] = ORDER[: ORDER.index(Finding.CLIENT_BLIND)]
OPEN: tuple[Finding, ...] = (Finding.CLIENT_BLIND, Finding.MEDIA_FAILED, Finding.DISPATCH_UNCLEAR)
DUPLICATE: tuple[Finding, ...] = (Finding.DUPLICATE_AGENT, Finding.JOB_RETRIED)
# What leaves a user without a welcome, unless it had come before (with ``--watch`` a session goes on).
LOST: tuple[Finding, ...] = (
    *OPEN,
    *ORDER[ORDER.index(Finding.RATE_LIMITED) : ORDER.index(Finding.DUPLICATE_AGENT)],
    Finding.AGENT_LEFT,
    Finding.AGENT_ENDED,
    Finding.WELCOME_MISSING,
)


def outcome_of(findings: Iterable[Finding]) -> Finding:
    """The finding that decides: the first in the order; ``ok`` where none of them is an outcome."""
    found = [f for f in findings if f in OUTCOMES]
    return min(found, key=OUTCOMES.index, default=Finding.OK)


def fault_of(outcome: Finding) -> Fault:
    """Whose doing ``outcome`` is. Findings that never are an outcome are nobody's."""
    if outcome in OURS:
        return Fault.OURS
    if outcome in OPEN:
        return Fault.OPEN
    if outcome in OUTCOMES and outcome is not Finding.OK:
        return Fault.THEIRS
    return Fault.NONE


def is_lost(outcome: Finding, *, welcomed: bool) -> bool:
    """Did the user get no welcome, for a reason that is not ours?"""
    return outcome in LOST and not welcomed
