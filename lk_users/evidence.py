"""What was seen of a session: by its user in the room, and by the API afterwards. Frozen values, no rules.

The rules that turn evidence into findings are in :mod:`lk_users.classify`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lk_users.agent_name import ANY_AGENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lk_users.outcome import Finding
    from lk_users.steps import Transaction

# How a participant tells the name of its agent: livekit-agents sets the first, the server the second.
AGENT_NAME_ATTRIBUTES = ("lk.agent.name", "lk.agent_name")
AGENT_STATE_ATTRIBUTE = "lk.agent.state"
ON_BEHALF_ATTRIBUTE = "lk.publish_on_behalf"
NEVER_NS = 1 << 62
# Why the API could not be asked where a backend of the user's own has the key.
NO_KEY = "not known without an API key"


@dataclass(frozen=True)
class ParticipantView:
    """A participant as the server describes it."""

    sid: str
    identity: str
    agent: bool
    state: str
    """``joining``, ``joined``, ``active`` or ``disconnected``."""
    joined_at_ms: int
    """Server's wall clock."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    microphones: tuple[str, ...] = ()
    """Sids of its published microphone tracks."""
    disconnect_reason: str = ""
    region: str = ""
    hosted: bool = False
    """An agent that LiveKit Cloud runs: its participant is of the kind's detail CLOUD_AGENT."""

    @property
    def on_behalf_of(self) -> str:
        """The identity for which it publishes (an avatar), or empty."""
        return self.attributes.get(ON_BEHALF_ATTRIBUTE, "")

    @property
    def agent_state(self) -> str:
        return self.attributes.get(AGENT_STATE_ATTRIBUTE, "")

    def is_named(self, agent_name: str) -> bool:
        """Is it the agent that was asked for? One that tells no name is given the benefit of the doubt."""
        if not self.agent or self.on_behalf_of:
            return False
        names = {self.attributes[key] for key in AGENT_NAME_ATTRIBUTES if self.attributes.get(key)}
        return not names or agent_name in names or agent_name == ANY_AGENT


@dataclass(frozen=True)
class JobView:
    """One job of a dispatch, server clock in ns, 0 for what has not happened."""

    job_id: str
    worker_id: str
    status: str
    """``pending``, ``running``, ``success``, ``failed`` or ``cancelled``."""
    started_at_ns: int = 0
    ended_at_ns: int = 0
    participant_identity: str = ""
    error: str = ""


@dataclass(frozen=True)
class DispatchView:
    """One dispatch of a room."""

    dispatch_id: str
    agent_name: str
    created_at_ns: int = 0
    jobs: tuple[JobView, ...] = ()

    def asks_for(self, agent_name: str) -> bool:
        return agent_name in (self.agent_name, ANY_AGENT)


@dataclass(frozen=True)
class Offer:
    """A worker that had a job, and since when (server clock, ns), as some read of the API showed it."""

    dispatch_id: str
    job_id: str
    worker_id: str
    started_at_ns: int


@dataclass(frozen=True)
class ServerView:
    """What the API said after the burst. ``unread``: why it could not be asked; empty if it was."""

    dispatches: tuple[DispatchView, ...] = ()
    participants: tuple[ParticipantView, ...] | None = None
    """None: not asked, since the user saw the agent itself."""
    unread: str = ""
    earlier: tuple[Offer, ...] = ()
    """What reads before this one showed and this one may not show any more."""

    @property
    def offers(self) -> tuple[Offer, ...]:
        """Every worker that was ever seen to have a job, by the moment of its offer."""
        mine = [
            Offer(dispatch.dispatch_id, job.job_id, job.worker_id, job.started_at_ns)
            for dispatch in self.dispatches
            for job in dispatch.jobs
            if job.worker_id and job.started_at_ns
        ]
        return tuple(sorted({*self.earlier, *mine}, key=lambda offer: (offer.started_at_ns, offer.worker_id)))

    def offers_of(self, job_id: str) -> tuple[Offer, ...]:
        return tuple(offer for offer in self.offers if offer.job_id == job_id)

    def after(self, earlier: ServerView | None) -> ServerView:
        """This read with all that ``earlier`` ones showed of jobs; those alone where this one failed."""
        if earlier is None:
            return self
        if self.unread and not earlier.unread:
            return earlier
        return replace(self, earlier=earlier.offers)

    def dispatch_of(self, agent_name: str, dispatch_id: str) -> DispatchView | None:
        """The session's own dispatch: by id where we know it, else by agent name."""
        if dispatch_id:
            return next((view for view in self.dispatches if view.dispatch_id == dispatch_id), None)
        return next((view for view in self.dispatches if view.asks_for(agent_name)), None)


@dataclass(frozen=True)
class Sighting:
    """One agent that the user saw in its room; moments in ns from the intended start."""

    sid: str
    identity: str
    named: bool
    seen_ns: int
    joined_at_ms: int
    gone_ns: int | None = None
    gone_reason: str = ""
    replaced_by: str = ""
    """Sid of the one that came under its identity; then nobody told when it went: it was gone by then."""
    region: str = ""
    hosted: bool = False
    """It runs in LiveKit's own cloud."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """As first seen."""

    def overlaps(self, other: Sighting) -> bool:
        ends_ns = [NEVER_NS if item.gone_ns is None else item.gone_ns for item in (self, other)]
        return self.seen_ns < ends_ns[1] and other.seen_ns < ends_ns[0]


@dataclass(frozen=True)
class Onset:
    """Where a track became audible: its first frame over the threshold of a sound that lasted."""

    at_ns: int
    """Monotonic clock."""
    level_dbfs: float
    threshold_dbfs: float
    frames_before: int
    """Decoded frames that came before it (a packet each), all of them silent or a click."""
    ms_before: float
    """Their length."""


@dataclass(frozen=True)
class Voice:
    """What came of one participant's microphone; moments in ns from the intended start."""

    sid: str
    identity: str = ""
    speaking_ns: int | None = None
    """It first said that it was speaking."""
    track_ns: int | None = None
    """Its track was subscribed: we know which section carries it."""
    packet_ns: int | None = None
    """Its first packet came to our socket."""
    onset: Onset | None = None


@dataclass(frozen=True)
class Text:
    """One text of a participant, as far as it came; moments in ns from the intended start."""

    kind: str
    """``transcription`` or ``chat``."""
    sender: str
    segment: str
    """The way it came, ``stream`` or ``packet``, and the id of its segment."""
    text: str
    at_ns: int
    """Its first piece came."""
    final_ns: int | None = None

    @property
    def way(self) -> str:
        return self.segment.split(" ", 1)[0]


@dataclass(frozen=True, kw_only=True)
class Observation:
    """All that one user saw of its session, also after it was decided."""

    transaction: Transaction
    marks_ns: Mapping[str, int]
    agent_name: str
    session_timeout_s: float
    welcome: frozenset[str]
    welcome_timeout_s: float
    sightings: tuple[Sighting, ...] = ()
    failure: tuple[Finding, str] | None = None
    """What ended it at once, and why."""
    failure_status: int = 0
    """HTTP status of that failure; 0: no answer at all."""
    dispatch_id: str = ""
    packet_ns: int | None = None
    """When the first RTP packet of the agent's microphone came, from the intended start."""
    cancelled: str = ""
    decided_ns: int = NEVER_NS
    """What came later is kept, but does not change what had become of the agent."""
    rearmed: bool = False
    intended_server_ns: int = 0
    """The intended start on the wall clock of the room's server node; 0: not known."""
    server_uncertainty_ns: int = 0
    """How far that can be off either way."""
    expect_text: str = ""
    voices: tuple[Voice, ...] = ()
    """In the order in which anything of them was known."""
    texts: tuple[Text, ...] = ()
    """The agent's, in the order in which they began."""
    lag_ns: int = 0
    """The largest lag of our own loop while the session ran."""

    def placed_ns(self, stamp_ns: int) -> int | None:
        """A stamp of the server, from the intended start; None where either is not known."""
        return stamp_ns - self.intended_server_ns if stamp_ns and self.intended_server_ns else None

    @property
    def named(self) -> tuple[Sighting, ...]:
        return tuple(sighting for sighting in self.sightings if sighting.named)
