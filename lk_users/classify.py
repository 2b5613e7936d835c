"""The rules: evidence → findings, each with its cause. Pure, and the only place that judges a session.

Everything found is kept; the order in :mod:`lk_users.outcome` decides which finding is the outcome. A rule
never guesses: where the API could not be asked, or may be late, the cause says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lk_users import jobs, welcome
from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.evidence import NO_KEY
from lk_users.outcome import OUTCOMES, Finding
from lk_users.record import Mark
from lk_users.steps import Dispatch, Opening, User

if TYPE_CHECKING:
    from lk_users.evidence import DispatchView, Observation, ServerView

# Statuses after which the request may have taken effect all the same.
UNCLEAR_STATUS = 500
# The disconnect reason of a participant that left by itself, as an agent does that shuts down its job.
ON_PURPOSE = "client_initiated"
# What a server gives as the reason where a participant's peer connection did not come up.
NO_MEDIA_REASONS: Final = ("connection_timeout", "join_failure")
# A server whose node has not answered a join for so long asks it once more under the same identity
# (livekit-server, pkg/service/rtcservice.go: 3 s, then 6 and 9; signal_relay.connect_attempts).
SERVER_ASKS_AGAIN_NS: Final = 3 * NS_PER_S


def classify(seen: Observation, view: ServerView | None) -> dict[Finding, str]:
    """Finding → cause, in outcome order. ``view``: None while the API has not been asked yet."""
    found: dict[Finding, str] = {}
    if seen.cancelled:
        found[Finding.CANCELLED] = seen.cancelled
    if seen.failure is not None:
        found[seen.failure[0]] = seen.failure[1]
        found.update(_unclear(seen, view))
        found.update(_never_up(seen))
        found.update(_replaced(seen))
    elif not seen.cancelled and Mark.WELCOMED not in seen.marks_ns:
        found.update(_unanswered(seen))
    if not found:
        found.update(_agent(seen, view))
    found.update(jobs.several(seen, view))
    found.update(welcome.clipped(seen))
    found.update(welcome.twice(seen))
    if Finding.DOUBLE_DISPATCH in found and Finding.DUPLICATE_AGENT not in found and _several_heard(seen):
        # Two that were asked for, and each of them welcomes its user: that was asked for too.
        found[Finding.DOUBLE_DISPATCH] += f"; {found.pop(Finding.WELCOME_TWICE)}"
    found.update(_side_findings(seen, view))
    if not any(finding in OUTCOMES for finding in found):
        found[Finding.OK] = ""
    return {finding: found[finding] for finding in Finding if finding in found}


def _several_heard(seen: Observation) -> bool:
    named = {sighting.sid for sighting in seen.named}
    return (
        len({voice.identity for voice in seen.voices if voice.onset is not None and voice.sid in named}) > 1
    )


def _unclear(seen: Observation, view: ServerView | None) -> dict[Finding, str]:
    """A dispatch that failed without a clear no, and yet a job."""
    assert seen.failure is not None
    clear_no = 0 < seen.failure_status < UNCLEAR_STATUS
    own = view.dispatch_of(seen.agent_name, seen.dispatch_id) if view is not None else None
    if seen.failure[0] is Finding.DISPATCH_FAILED and not clear_no and own is not None and own.jobs:
        return {
            Finding.DISPATCH_UNCLEAR: f"{seen.failure[1]}, and yet the API lists job {own.jobs[0].job_id}"
        }
    return {}


def _never_up(seen: Observation) -> dict[Finding, str]:
    """A server sends away who has no media after 15 s. Who could not reach whom can't be told from here."""
    assert seen.failure is not None
    finding, reason = seen.failure
    if finding is Finding.USER_DROPPED and reason in NO_MEDIA_REASONS and Mark.MEDIA_UP not in seen.marks_ns:
        cause = f"the peer connection never came up; the server then sent the user away: {reason}"
        return {Finding.MEDIA_FAILED: cause}
    return {}


def _replaced(seen: Observation) -> dict[Finding, str]:
    """Who put a user out that was the only one of its identity?"""
    assert seen.failure is not None
    connected_ns = seen.marks_ns.get(Mark.CONNECTED)
    if seen.failure != (Finding.USER_DROPPED, "duplicate_identity") or connected_ns is None:
        return {}
    if seen.rearmed:
        why = "a request of ours went out again after its connection was cut"
    else:
        before = (Mark.FIRED, Mark.SESSION_CREATED, Mark.DISPATCHED)
        asked_ns = max(at for mark in before if (at := seen.marks_ns.get(mark, 0)) <= connected_ns)
        waited_ns = connected_ns - asked_ns
        if waited_ns < SERVER_ASKS_AGAIN_NS:
            return {}
        why = (
            f"its join was answered after {waited_ns / NS_PER_S:.2f} s, and a server that waits longer than "
            f"{SERVER_ASKS_AGAIN_NS // NS_PER_S} s for its own node lets the user join a second time"
        )
    return {Finding.USER_DROPPED: f"duplicate_identity: {why}"}


def _unanswered(seen: Observation) -> dict[Finding, str]:
    """What the deadline found still open on our own way in."""
    waited_s = min(seen.decided_ns / NS_PER_S, seen.session_timeout_s)
    within = f"within {waited_s:.3g} s"
    if seen.transaction.opening is Opening.ASKED:
        return {Finding.SESSION_FAILED: f"no answer {within}"}
    if seen.transaction.dispatch is Dispatch.ASKED:
        return {Finding.DISPATCH_FAILED: f"no answer {within}"}
    if seen.transaction.user is User.JOINING:
        return {Finding.CONNECT_FAILED: f"no answer {within}"}
    if seen.transaction.user is User.IN_ROOM:
        return {Finding.MEDIA_FAILED: f"the peer connection was not up {within}"}
    return {}


def _agent(seen: Observation, view: ServerView | None) -> dict[Finding, str]:
    """We were in the room and listened: what did the agent do?"""
    if Mark.WELCOMED in seen.marks_ns:
        return welcome.late(seen)
    in_time = [sighting for sighting in seen.named if sighting.seen_ns <= seen.decided_ns]
    if not in_time:
        return _no_agent(seen, view)
    last = in_time[-1]
    if last.gone_ns is not None and last.gone_ns <= seen.decided_ns:
        # The job tells nothing: an open-source server lists it as running although its agent left.
        if last.gone_reason == ON_PURPOSE:
            return {Finding.AGENT_ENDED: f"it left on purpose before the welcome: {last.gone_reason}"}
        return {Finding.AGENT_LEFT: f"it left before the welcome: {last.gone_reason}"}
    return {Finding.WELCOME_MISSING: welcome.how_far(seen)}


def _no_agent(seen: Observation, view: ServerView | None) -> dict[Finding, str]:
    """No agent in the room, as far as we could see."""
    if view is None:
        return {Finding.NEVER_ASSIGNED: "no agent came; the API was not asked yet"}
    if view.unread == NO_KEY:
        return {Finding.NEVER_ASSIGNED: f"no agent came; whether a worker took a job is {NO_KEY}"}
    if view.unread:
        return {Finding.NEVER_ASSIGNED: f"no agent came, and the API could not be asked: {view.unread}"}
    for participant in view.participants or ():
        if participant.is_named(seen.agent_name):
            joined_ns = seen.placed_ns(participant.joined_at_ms * NS_PER_MS)
            since = f" since {joined_ns / NS_PER_S:.2f} s" if joined_ns is not None else ""
            return {
                Finding.CLIENT_BLIND: f"the API lists {participant.identity} ({participant.sid}){since}, "
                "the user never saw it"
            }
    own = view.dispatch_of(seen.agent_name, seen.dispatch_id)
    if own is None:
        return {Finding.NEVER_ASSIGNED: "the API lists no such dispatch"}
    if not own.jobs:
        return {Finding.NEVER_ASSIGNED: "the API lists no job for the dispatch"}
    return _job_without_agent(own)


def _job_without_agent(own: DispatchView) -> dict[Finding, str]:
    job = own.jobs[-1]
    error = f": {job.error}" if job.error else ""
    if job.status in ("pending", "cancelled"):
        return {Finding.NEVER_ASSIGNED: f"job {job.job_id} is {job.status}{error}"}
    # Who accepts a job names its participant; who rejects it leaves it as done, by nobody.
    if job.status in ("success", "failed") and not job.participant_identity:
        return {Finding.REJECTED: f"job {job.job_id} ended as {job.status} without an agent{error}"}
    return {Finding.ASSIGNED_NOT_JOINED: f"job {job.job_id} is {job.status} on {job.worker_id}{error}"}


def _side_findings(seen: Observation, view: ServerView | None) -> dict[Finding, str]:
    """Findings that never are the outcome."""
    found = {}
    others = [sighting for sighting in seen.sightings if not sighting.named]
    if others:
        found[Finding.BYSTANDER_AGENT] = ", ".join(sighting.identity for sighting in others)
    if view is not None and seen.agent_name:
        ghosts = [item for item in view.dispatches if not item.agent_name and not item.jobs]
        if ghosts:
            found[Finding.GHOST_DISPATCH] = f"dispatch {ghosts[0].dispatch_id} for the unnamed agent, no job"
    if seen.rearmed:
        found[Finding.REARMED] = "its connection was made again"
    return found
