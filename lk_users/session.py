"""One session: drives the steps over an engine, with deadlines, to exactly one record.

A decided session stays in its room until its burst is decided, and what it sees there still goes into its
record: the transcript of a welcome, a second agent. Its outcome waits for nothing of that.

It lives on the loop and is a set of callbacks, not a coroutine: nothing waits between an event and its
consequence. ``fire`` is the hot path and only writes; everything else that a start needs is done before or
after all sessions of the burst have fired.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from lk_users import jobs
from lk_users.agents_seen import AgentsSeen
from lk_users.classify import classify
from lk_users.clock import NS_PER_MS, NS_PER_S, ServerClock
from lk_users.errors import BackendError, EngineCrashed, HttpError, WireError
from lk_users.evidence import NEVER_NS, Observation, Sighting
from lk_users.outcome import Finding
from lk_users.plan import unrecorded
from lk_users.reading import Reading
from lk_users.record import Mark
from lk_users.steps import Event, Transaction
from lk_users.welcome import CLIPPED_NS, lost_ns, mark_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from lk_users.clock import Clock, Offset
    from lk_users.engines.port import Engine, EngineListener
    from lk_users.evidence import DispatchView, Onset, ParticipantView, ServerView
    from lk_users.plan import PlannedSession
    from lk_users.record import Record
    from lk_users.settings.run import Settings
    from lk_users.wire.text_stream import DataPiece, TextPiece

# A stall shorter than this disturbs no figure that anyone would act on.
LAG_WORTH_A_FINDING_NS = 100 * NS_PER_MS
TOO_MANY_REQUESTS = 429
FIRST_EVENT: Final = MappingProxyType(
    {
        "session-first": Event.SESSION_WRITTEN,
        "dispatch-first": Event.DISPATCH_WRITTEN,
        "join-first": Event.JOIN_WRITTEN,
    }
)


class SessionObserver(Protocol):
    """Who is told while a session runs."""

    def marked(self, session: Session, mark: Mark, at_ns: int) -> None:
        """A mark was set, ``at_ns`` from the intended start."""

    def decided(self, session: Session) -> None:
        """Its outcome stands, as far as the user could see."""


class Session:
    """One user of a burst."""

    def __init__(
        self,
        planned: PlannedSession,
        settings: Settings,
        clock: Clock,
        server_clock: ServerClock,
        observer: SessionObserver,
        make_engine: Callable[[PlannedSession, EngineListener], Engine],
    ) -> None:
        self.planned = planned
        self.room = planned.room
        """The user's own backend may name another."""
        self.node: str | None = None
        """The server's node that has the room, as the join's answer names it; None before that."""
        self._settings = settings
        self._clock = clock
        self._server_clock = server_clock
        self._observer = observer
        self.engine = make_engine(planned, self)
        self.transaction = Transaction()
        self.intended_ns = 0
        self.decided_ns: int | None = None
        self._intended_wall_ns = 0
        self._fired_ns = 0
        # Before the write: the server may stamp what it reads while our call has not returned yet.
        self._join_began_ns = 0
        self._dispatch_began_ns = 0
        self._created: tuple[int, int, int] | None = None
        self._marks: dict[str, int] = {}
        self._agents = AgentsSeen(settings.agent_name)
        self._reading = Reading(settings.expect_text)
        self._needed = [mark_of(item, settings.expect_text) for item in settings.welcome]
        self._failure: tuple[Finding, str] | None = None
        self._failure_status = 0
        self._cancelled = ""
        self._dispatch: DispatchView | None = None
        self._room_sid = ""
        self._own_sid = ""
        self._facts: dict[str, Any] = {}
        self._timers: list[asyncio.TimerHandle] = []

    # Start.

    async def build(self) -> None:
        """Everything before T0. A failure is kept for the start: the session then ends as it."""
        try:
            await self.engine.build()
        except BackendError as exc:
            self._failure = (Finding.SESSION_FAILED, f"before T0: {exc.cause}")
        except WireError as exc:
            self._failure = (Finding.CONNECT_FAILED, f"before T0: {exc.cause}")
        except EngineCrashed as exc:
            self._failure = (Finding.ENGINE_CRASHED, f"before T0: {exc}")
        except Exception as exc:
            # Ours, whatever it is; one session's must not cost the others their burst.
            self._failure = (Finding.ENGINE_CRASHED, f"before T0: {type(exc).__name__}: {exc}")

    def announce(self, t0_ns: int, t0_wall_ns: int) -> None:
        """T0 on our monotonic clock, and as wall time for display."""
        self.intended_ns = t0_ns + self.planned.offset_ns
        self._intended_wall_ns = t0_wall_ns + self.planned.offset_ns

    def fire(self) -> None:
        """Write the first bytes. The hot path."""
        if self._failure is not None or self.decided_ns is not None:
            return
        if self._settings.order == "session-first":
            self._fired_ns = self.engine.open()
        elif self._settings.order == "dispatch-first":
            self._fired_ns = self._write_dispatch()
        else:
            self._fired_ns = self._write_join()

    def _write_dispatch(self) -> int:
        self._dispatch_began_ns = self._clock.monotonic_ns()
        return self.engine.dispatch()

    def _write_join(self) -> int:
        self._join_began_ns = self._clock.monotonic_ns()
        return self.engine.join()

    def fired(self, loop: asyncio.AbstractEventLoop) -> None:
        """The rest of the start, once every session of the batch has fired."""
        if self.decided_ns is not None:
            return
        if self._failure is not None:
            self._decide()
            return
        self.transaction = self.transaction.advance(FIRST_EVENT[self._settings.order])
        self._mark(Mark.FIRED, self._fired_ns)
        remaining_s = self._settings.session_timeout_s - (self._now_ns() / NS_PER_S)
        self._timers.append(loop.call_later(max(0.0, remaining_s), self._decide))
        self._loop = loop

    def cancel(self, cause: str) -> None:
        """The run ends before the session did."""
        if self.decided_ns is None:
            self._cancelled = cause
            self._decide()

    async def close(self) -> None:
        """Leave, and free everything. A failure of that is noted, and costs nobody a record."""
        try:
            await self.engine.close()
        except Exception as exc:
            self._facts["close_failed"] = f"{type(exc).__name__}: {exc}"

    # What the engine tells.

    def room_is(self, room: str) -> None:
        self.room = room

    def session_created(self) -> None:
        if not self._take(Event.SESSION_CREATED):
            return
        self._mark(Mark.SESSION_CREATED)
        self._write_join()
        self._take(Event.JOIN_WRITTEN)

    def session_failed(self, error: WireError) -> None:
        if self._take(Event.SESSION_REFUSED):
            self._fail(Finding.SESSION_FAILED, error)

    def dispatched(self, view: DispatchView | None, room_sid: str) -> None:
        if not self._take(Event.DISPATCH_ANSWERED):
            return
        self._dispatch = view
        self._room_sid = room_sid
        now_ns = self._clock.monotonic_ns()
        if view is not None and view.created_at_ns:
            self._created = (self._dispatch_began_ns, view.created_at_ns, now_ns)
            self._place_created()
        self._mark(Mark.DISPATCHED, now_ns)
        if self._settings.order == "dispatch-first":
            self._write_join()
            self._take(Event.JOIN_WRITTEN)

    def dispatch_failed(self, error: WireError) -> None:
        if self._take(Event.DISPATCH_REFUSED):
            self._fail(Finding.DISPATCH_FAILED, error)

    def connected(
        self,
        own: ParticipantView,
        room_sid: str,
        others: Sequence[ParticipantView],
        server: str,
        at_ns: int | None = None,
    ) -> None:
        if not self._take(Event.CONNECTED):
            return
        now_ns = self._clock.monotonic_ns() if at_ns is None else at_ns
        self._room_sid = room_sid or self._room_sid
        self._own_sid = own.sid
        # The SDK does not tell: its sessions' brackets are those of a node without a name.
        self.node = server
        if server:
            self._facts["server"] = server
        if own.joined_at_ms:
            joined_ns = own.joined_at_ms * NS_PER_MS
            self._server_clock.add(server, self._join_began_ns, joined_ns, now_ns, resolution_ns=NS_PER_MS)
        self._place_created()
        self._mark(Mark.CONNECTED, now_ns)
        if self._settings.order == "join-first" and self._settings.dispatch == "api":
            self._write_dispatch()
            self._take(Event.DISPATCH_WRITTEN)
        for other in others:
            self.participant(other, at_ns)

    def join_failed(self, error: WireError) -> None:
        if self._take(Event.JOIN_REFUSED):
            self._fail(Finding.CONNECT_FAILED, error)

    def media_up(self, at_ns: int | None = None) -> None:
        if self._take(Event.MEDIA_UP):
            self._mark(Mark.MEDIA_UP, at_ns)

    def media_failed(self, state: str) -> None:
        if self.decided_ns is None:
            self._failure = (Finding.MEDIA_FAILED, f"peer connection: {state}")
            self._decide()

    def dropped(self, finding: Finding, cause: str) -> None:
        if self._take(Event.DROPPED):
            self._failure = (finding, cause)
            self._decide()

    def crashed(self, cause: str) -> None:
        if self.decided_ns is not None:
            return
        self._failure = (Finding.ENGINE_CRASHED, cause)
        # Before its start there is nothing to decide yet: ``fired`` does.
        if self._fired_ns:
            self._decide()

    def participant(self, view: ParticipantView, at_ns: int | None = None) -> None:
        if not view.agent:
            return
        known = self._agents.known(view.sid)
        if view.state == "disconnected":
            if known is not None:
                self._gone(known, view, at_ns)
            return
        if known is None and not view.on_behalf_of:
            known = self._sighted(view, at_ns)
        if known is not None and known.named:
            self._agent_state(view, at_ns)

    def subscribed(self, participant_sid: str, at_ns: int | None = None) -> None:
        if self._agents.speaks_the_welcome(participant_sid):
            self._agents.hear_of(participant_sid, track_ns=self._now_ns(at_ns))
            self._mark(Mark.AGENT_TRACK, at_ns)
            self._heard()

    def packet(self, participant_sid: str, reached_ns: int) -> None:
        if self._agents.speaks_the_welcome(participant_sid):
            self._agents.hear_of(participant_sid, packet_ns=reached_ns - self.intended_ns)

    def audible(self, participant_sid: str, onset: Onset) -> bool:
        if not self._agents.speaks_the_welcome(participant_sid):
            return False
        voice = self._agents.hear_of(participant_sid, onset=onset)
        self._mark(Mark.FIRST_AUDIO, onset.at_ns)
        self._heard()
        return lost_ns(voice) >= CLIPPED_NS

    def text(self, piece: TextPiece, at_ns: int | None = None) -> None:
        self._reading.take(piece, self._now_ns(at_ns))
        self._match_text()

    def data(self, piece: DataPiece, at_ns: int | None = None) -> None:
        self._reading.take(piece, self._now_ns(at_ns))

    # Conclusions.

    def observation(self, lag_ns: int = 0) -> Observation:
        """All that was seen, for the rules. ``lag_ns``: the largest of our own loop meanwhile."""
        marks = dict(self._marks)
        joined, offset = self._agent_joined(), self._server_offset()
        if joined is not None:
            marks[Mark.AGENT_JOINED] = joined[0]
        settings = self._settings
        return Observation(
            transaction=self.transaction,
            marks_ns=marks,
            agent_name=settings.agent_name,
            session_timeout_s=settings.session_timeout_s,
            welcome=settings.welcome,
            welcome_timeout_s=settings.welcome_timeout_s,
            sightings=self._agents.all,
            failure=self._failure,
            failure_status=self._failure_status,
            dispatch_id=self._dispatch.dispatch_id if self._dispatch is not None else "",
            packet_ns=min(
                (voice.packet_ns for voice in self._agents.voices if voice.packet_ns is not None),
                default=None,
            ),
            cancelled=self._cancelled,
            decided_ns=NEVER_NS if self.decided_ns is None else self.decided_ns,
            rearmed=bool(self.engine.evidence().get("rearmed")),
            intended_server_ns=offset.to_theirs_ns(self.intended_ns) if offset is not None else 0,
            server_uncertainty_ns=offset.uncertainty_ns if offset is not None else 0,
            expect_text=settings.expect_text,
            voices=self._agents.voices,
            texts=self._reading.texts(self._agents.senders),
            lag_ns=lag_ns,
        )

    def record(self, run_id: str, worker: str, region: str, view: ServerView | None, lag_ns: int) -> Record:
        """The session's record. ``view``: what the API said; None for the provisional record."""
        seen = self.observation(lag_ns)
        findings = classify(seen, view)
        if lag_ns >= LAG_WORTH_A_FINDING_NS:
            findings[Finding.LAG_IN_WINDOW] = f"the loop was up to {lag_ns / NS_PER_MS:.0f} ms late"
        listed = view.dispatch_of(seen.agent_name, seen.dispatch_id) if view is not None else None
        own = listed or self._dispatch
        job = own.jobs[-1] if own is not None and own.jobs else None
        agent = seen.named[0] if seen.named else None
        joined = self._agent_joined()
        base = unrecorded(self.planned, run_id, self._settings, worker, region, self._intended_wall_ns)
        return replace(
            base,
            room=self.room,
            decided_ns=self.decided_ns or 0,
            marks_ns={mark: seen.marks_ns[mark] for mark in Mark if mark in seen.marks_ns},
            joined_uncertainty_ns=joined[1] if joined is not None else 0,
            created_at_ns=own.created_at_ns if own is not None else 0,
            started_at_ns=jobs.started_at_ns(seen, view, job) if job is not None else 0,
            joined_at_ns=agent.joined_at_ms * NS_PER_MS if agent is not None else 0,
            findings={str(finding): cause for finding, cause in findings.items()},
            evidence={
                **self._facts,
                **self._agents.facts(),
                **self._reading.facts(),
                **self.engine.evidence(),
                **_clock_facts(seen),
                **jobs.evidence(seen, view),
            },
            lag_ms=round(lag_ns / NS_PER_MS, 3),
            room_sid=self._room_sid,
            dispatch_id=own.dispatch_id if own is not None else "",
            job_id=job.job_id if job is not None else "",
            worker_id=job.worker_id if job is not None else "",
            participant_sid=self._own_sid,
            agent_sid=agent.sid if agent is not None else "",
            agent_identity=agent.identity if agent is not None else "",
        )

    @property
    def marks_ns(self) -> dict[str, int]:
        """The marks so far, in ns from the intended start."""
        return self._marks

    @property
    def saw_agent(self) -> bool:
        """Did the user see the agent that it waited for?"""
        return bool(self._agents.named)

    @property
    def agent_came_again(self) -> bool:
        """Did the user see more than one of it, or one of it more than once?"""
        return len(self._agents.named) > 1

    # Inside.

    def _now_ns(self, at_ns: int | None = None) -> int:
        """From the intended start, of ``at_ns`` if given; 0 as long as there is none."""
        now_ns = self._clock.monotonic_ns() if at_ns is None else at_ns
        return now_ns - self.intended_ns if self.intended_ns else 0

    def _take(self, event: Event) -> bool:
        """Advance by an event of the engine, unless the session is over."""
        if self.decided_ns is not None:
            return False
        self.transaction = self.transaction.advance(event)
        return True

    def _mark(self, mark: Mark, at_ns: int | None = None) -> None:
        """Set a mark once; ``at_ns`` on the monotonic clock, now if not given."""
        if mark in self._marks:
            return
        moment_ns = (self._clock.monotonic_ns() if at_ns is None else at_ns) - self.intended_ns
        self._marks[mark] = moment_ns
        self._observer.marked(self, mark, moment_ns)

    def _place_created(self) -> None:
        """The dispatch is stored by the room's node, which only the join's answer names."""
        if self._created is not None and self.node is not None:
            self._server_clock.add(self.node, *self._created)
            self._created = None

    def _fail(self, finding: Finding, error: WireError) -> None:
        if isinstance(error, HttpError):
            self._failure_status = error.status
            if error.status == TOO_MANY_REQUESTS:
                finding = Finding.RATE_LIMITED
        self._failure = (finding, error.cause)
        self._decide()

    def _sighted(self, view: ParticipantView, at_ns: int | None) -> Sighting:
        sighting = self._agents.came(view, self._now_ns(at_ns))
        if sighting.named:
            if self.transaction.allows(Event.AGENT_SEEN):
                self._take(Event.AGENT_SEEN)
            self._mark(Mark.AGENT_SEEN, at_ns)
            self._match_text()
        return sighting

    def _gone(self, known: Sighting, view: ParticipantView, at_ns: int | None) -> None:
        was_there = known.gone_ns is None
        self._agents.went(known, view.disconnect_reason, self._now_ns(at_ns))
        if was_there and known.named and not self._agents.is_there:
            self._take(Event.AGENT_GONE)
            if Mark.WELCOMED not in self._marks:
                # It may come back, on this worker or another: give it as long as a welcome may take.
                grace_s = max(self._settings.welcome_timeout_s, self._settings.watch_s)
                self._timers.append(self._loop.call_later(grace_s, self._decide_if_gone, self._now_ns()))

    def _decide_if_gone(self, since_ns: int) -> None:
        """The grace of an agent that left at ``since_ns`` is over: did none come after it?"""
        stays = self._agents.named
        if all(sighting.gone_ns is not None and sighting.gone_ns <= since_ns for sighting in stays):
            self._decide()

    def _agent_state(self, view: ParticipantView, at_ns: int | None) -> None:
        if view.state == "active":
            self._mark(Mark.AGENT_ACTIVE, at_ns)
        if view.agent_state and view.agent_state != "initializing":
            self._mark(Mark.AGENT_READY, at_ns)
        if view.agent_state == "speaking":
            self._agents.hear_of(view.sid, speaking_ns=self._now_ns(at_ns))
            self._mark(Mark.AGENT_SPEAKING, at_ns)
            self._heard()

    def _match_text(self) -> None:
        """Text can come before the update that tells who sent it."""
        names = self._agents.senders
        first_ns, matched_ns = self._reading.first_ns(names), self._reading.matched_ns(names)
        if matched_ns is not None:
            self._mark(Mark.TEXT_MATCHED, matched_ns + self.intended_ns)
        if first_ns is not None:
            self._mark(Mark.FIRST_TEXT, first_ns + self.intended_ns)
            self._heard()

    def _heard(self) -> None:
        """Something of the welcome came: is it complete?"""
        if self.decided_ns is not None or not self.transaction.allows(Event.HEARD):
            return
        self._take(Event.HEARD)
        if Mark.WELCOMED not in self._marks and all(mark in self._marks for mark in self._needed):
            self._take(Event.WELCOMED)
            self._mark(Mark.WELCOMED, max(self._marks[mark] for mark in self._needed) + self.intended_ns)
            if self._settings.watch_s > 0:
                self.engine.rest()
                self._timers.append(self._loop.call_later(self._settings.watch_s, self._decide))
            else:
                self._decide()

    def _decide(self) -> None:
        """The outcome stands, as far as the user could see. Once."""
        if self.decided_ns is not None:
            return
        self.decided_ns = max(0, self._now_ns())
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._observer.decided(self)
        self.engine.rest()

    def _server_offset(self) -> Offset | None:
        """The room's server clock against ours, as of the agent's coming, or else of the decision."""
        first = next((item.seen_ns for item in self._agents.named), self.decided_ns or 0)
        if self.node is None:
            return None
        return self._server_clock.offset(self.node, self.intended_ns + first)

    def _agent_joined(self) -> tuple[int, int] | None:
        """When the agent joined, from the intended start, and how far off that can be; in ns.

        The server's stamp, placed on our clock; never after the update that told us.
        """
        first = next(iter(self._agents.named), None)
        offset = self._server_offset()
        if first is None or offset is None or not first.joined_at_ms:
            return None
        placed_ns = offset.to_ours_ns(first.joined_at_ms * NS_PER_MS) - self.intended_ns
        return min(placed_ns, first.seen_ns), offset.uncertainty_ns + NS_PER_MS


def _clock_facts(seen: Observation) -> dict[str, Any]:
    """With these anyone can place the record's server stamps on the session's own clock."""
    if not seen.intended_server_ns:
        return {}
    return {
        "intended_server_ns": seen.intended_server_ns,
        "server_clock_uncertainty_ms": round(seen.server_uncertainty_ns / NS_PER_MS, 3),
    }
