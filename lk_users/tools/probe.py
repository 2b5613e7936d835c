"""``lk-users probe``: one session that shows what an agent emits and when, and which welcome to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
import textwrap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from lk_users import preflight
from lk_users.agent_name import ANY_AGENT
from lk_users.clock import NS_PER_MS, NS_PER_S, ServerClock, SystemClock
from lk_users.ending import JOBS_LATE_S, READ_AGAIN_S
from lk_users.engines.ground import break_ground
from lk_users.engines.sdk_pool import SdkPool
from lk_users.engines.watching import WatchingEngine
from lk_users.errors import Refused, WireError
from lk_users.evidence import AGENT_NAME_ATTRIBUTES, AGENT_STATE_ATTRIBUTE, NO_KEY, ServerView
from lk_users.outcome import Finding
from lk_users.plan import planned
from lk_users.reading import KINDS
from lk_users.record import Mark
from lk_users.report.words import OUTCOMES
from lk_users.session import Session
from lk_users.tools.hints import hints
from lk_users.tools.proposal import propose
from lk_users.tools.speech import Speech
from lk_users.tools.timeline import LINE_CHARS, Timeline, attributes_text, excerpt, points
from lk_users.wire.aiortc_seam import quiet_logs
from lk_users.wire.armed import knock
from lk_users.wire.backend import Backend
from lk_users.wire.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lk_users.clock import Clock
    from lk_users.engines.ground import Ground
    from lk_users.engines.port import Engine, EngineListener
    from lk_users.evidence import DispatchView, Observation, Onset, ParticipantView
    from lk_users.plan import PlannedSession
    from lk_users.settings.run import Settings
    from lk_users.settings.target import Target
    from lk_users.tools.proposal import Proposal
    from lk_users.tools.speech import Utterance
    from lk_users.wire.api import Api
    from lk_users.wire.text_stream import DataPiece, TextPiece

# Once an agent has said something and then nothing for so long, there is no more to come.
QUIET_NS: Final = 3 * NS_PER_S
LOOK_S: Final = 0.1
# A list of jobs may be behind for some seconds, after which an agent is missed anyway.
AGENT_LEAVE_S: Final = 1.0


@dataclass(frozen=True)
class Probed:
    """What one session came to. ``start_ns``: when its request left; ``findings``: with their causes."""

    seen: Observation
    findings: Mapping[Finding, str]
    timeline: tuple[str, ...]
    speech: tuple[Utterance, ...]
    watched_s: float
    room: str

    @property
    def came(self) -> bool:
        """Was the agent in the room?"""
        return bool(self.seen.named)


class _Teller:
    """Between engine and session: passes all on, and keeps what a person would like to read."""

    def __init__(self, clock: Clock, way: str) -> None:
        self.timeline = Timeline()
        self.speech: dict[str, Speech] = {}
        self.session: EngineListener | None = None
        self.over = False
        """The session is out of its room."""
        self._clock = clock
        self.way = way
        self._people: dict[str, ParticipantView] = {}
        self._first_agent = ""
        self._texts: dict[tuple[str, str, str], bool] = {}
        self._topics: set[tuple[str, str]] = set()
        self._told_utterances = 0

    def note(self, text: str, at_ns: int | None = None) -> None:
        self.timeline.add(self._clock.monotonic_ns() if at_ns is None else at_ns, text)

    # What the watching engine tells.

    def published(self, participant_sid: str, name: str, kind: str) -> None:
        self.note(f"{self._who(participant_sid)} published a track: {name or 'without a name'} ({kind})")

    def frame(self, participant_sid: str, level_dbfs: float, length_s: float, at_ns: int) -> None:
        self.speech.setdefault(participant_sid, Speech()).add(level_dbfs, length_s, at_ns)

    # What every engine tells.

    def room_is(self, room: str) -> None:
        self._listener.room_is(room)

    def session_created(self) -> None:
        self.note("your backend answered, with a token")
        self._listener.session_created()

    def session_failed(self, error: WireError) -> None:
        self.over = True
        self.note(f"your backend gave no session: {error.cause}")
        self._listener.session_failed(error)

    def dispatched(self, view: DispatchView | None, room_sid: str) -> None:
        self.note(f"{self.way} answered" + (f" ({view.dispatch_id})" if view is not None else ""))
        self._listener.dispatched(view, room_sid)

    def dispatch_failed(self, error: WireError) -> None:
        self.over = True
        self.note(f"{self.way} failed: {error.cause}")
        self._listener.dispatch_failed(error)

    def connected(
        self,
        own: ParticipantView,
        room_sid: str,
        others: Sequence[ParticipantView],
        server: str,
        at_ns: int | None = None,
    ) -> None:
        self.note(f"the user is in the room ({room_sid}; {server})", at_ns)
        for other in others:
            self._saw(other)
        self._listener.connected(own, room_sid, others, server, at_ns)

    def join_failed(self, error: WireError) -> None:
        self.over = True
        self.note(f"the user's join failed: {error.cause}")
        self._listener.join_failed(error)

    def media_up(self, at_ns: int | None = None) -> None:
        self.note("the user's media connection is up", at_ns)
        self._listener.media_up(at_ns)

    def media_failed(self, state: str) -> None:
        self.over = True
        self.note(f"the user's media connection failed: {state}")
        self._listener.media_failed(state)

    def participant(self, view: ParticipantView, at_ns: int | None = None) -> None:
        self._saw(view)
        self._listener.participant(view, at_ns)

    def subscribed(self, participant_sid: str, at_ns: int | None = None) -> None:
        self.note(f"the microphone of {self._who(participant_sid)} reaches the user", at_ns)
        self._listener.subscribed(participant_sid, at_ns)

    def packet(self, participant_sid: str, reached_ns: int) -> None:
        self.note(f"first audio packet of {self._who(participant_sid)}", reached_ns)
        self._listener.packet(participant_sid, reached_ns)

    def audible(self, participant_sid: str, onset: Onset) -> bool:
        before = f", after {onset.ms_before:.0f} ms of silence" if onset.ms_before else ""
        self.note(
            f"HEARD: {self._who(participant_sid)}, first frame at {onset.level_dbfs:.0f} dBFS{before}",
            onset.at_ns,
        )
        return self._listener.audible(participant_sid, onset)

    def text(self, piece: TextPiece, at_ns: int | None = None) -> None:
        known = self._texts.get((piece.sender, piece.topic, piece.segment))
        if known is None or (piece.final and not known):
            self._texts[piece.sender, piece.topic, piece.segment] = piece.final
            kind = KINDS.get(piece.topic, f"text on {piece.topic}")
            how = "final" if piece.final else "begins"
            sender = f" of {self._called(piece.sender)}" if piece.sender else ""
            self.note(f"READ: {kind}{sender}, {how}: {excerpt(piece.text)}", at_ns)
        self._listener.text(piece, at_ns)

    def data(self, piece: DataPiece, at_ns: int | None = None) -> None:
        if (piece.sender, piece.topic) not in self._topics:
            self._topics.add((piece.sender, piece.topic))
            topic = f"on {excerpt(piece.topic)}" if piece.topic else "without a topic"
            sender = f" of {self._called(piece.sender)}" if piece.sender else ""
            self.note(f"data{sender} {topic}: {piece.size_bytes} bytes (only the first is listed)", at_ns)
        self._listener.data(piece, at_ns)

    def dropped(self, finding: Finding, cause: str) -> None:
        self.over = True
        self.note(f"the user is out of the room: {cause}")
        self._listener.dropped(finding, cause)

    def crashed(self, cause: str) -> None:
        self.over = True
        self.note(f"lk-users itself failed: {cause}")
        self._listener.crashed(cause)

    # Inside.

    @property
    def _listener(self) -> EngineListener:
        assert self.session is not None
        return self.session

    def _who(self, sid: str) -> str:
        """The first agent is called so: its identity is in the line that it was seen in."""
        view = self._people.get(sid)
        if sid == self._first_agent:
            return "the agent"
        return view.identity if view is not None else sid

    def _called(self, identity: str) -> str:
        first = self._people.get(self._first_agent)
        return "the agent" if first is not None and first.identity == identity else identity

    def tell_utterances(self, now_ns: int) -> None:
        """Those of the microphones that are over since."""
        over = [(sid, item) for sid, speech in self.speech.items() for item in speech.over(now_ns)]
        for sid, item in sorted(over, key=lambda pair: pair[1].ended_ns)[self._told_utterances :]:
            self._told_utterances += 1
            self.note(
                f"{self._who(sid)} is silent again: {item.length_s:.1f} s of sound, up to "
                f"{item.loudest_dbfs:.0f} dBFS",
                item.ended_ns,
            )

    def _saw(self, view: ParticipantView) -> None:
        before = self._people.get(view.sid)
        self._people[view.sid] = view
        if view.agent and not view.on_behalf_of:
            self._first_agent = self._first_agent or view.sid
        who = self._who(view.sid)
        if view.state == "disconnected":
            reason = f" ({view.disconnect_reason})" if view.disconnect_reason else ""
            if before is not None:
                self.note(f"{who} left{reason}")
            return
        if before is None:
            self.note(f"{_kind(view)} seen: {view.identity}, {view.state}{_told(view)}")
        elif before.state != view.state:
            self.note(f"{who} is {view.state}")
        was = before.attributes if before is not None else {}
        if view.agent_state and view.agent_state != was.get(AGENT_STATE_ATTRIBUTE, ""):
            self.note(f"{who}: {AGENT_STATE_ATTRIBUTE} = {view.agent_state}")
        changed = [
            (name, value)
            for name, value in view.attributes.items()
            if before is not None
            and was.get(name) != value
            and name not in (AGENT_STATE_ATTRIBUTE, *AGENT_NAME_ATTRIBUTES)
        ]
        if changed:
            self.note(f"{who}: {attributes_text(changed)}")


def _kind(view: ParticipantView) -> str:
    if view.on_behalf_of:
        return f"avatar of {view.on_behalf_of}"
    return "agent" if view.agent else "participant"


def _told(view: ParticipantView) -> str:
    """Its attributes but the state, which has a line of its own."""
    told = [(name, value) for name, value in view.attributes.items() if name != AGENT_STATE_ATTRIBUTE]
    region = f", region {view.region}" if view.region else ""
    hosted = ", hosted by LiveKit" if view.hosted else ""
    return region + hosted + (f", {attributes_text(told)}" if told else "")


class _Quiet:
    """Nobody but the probe itself looks at its one session."""

    def marked(self, session: Session, mark: Mark, at_ns: int) -> None: ...

    def decided(self, session: Session) -> None: ...


_REQUESTS: Final = {
    "api": "CreateDispatch", "room": "CreateRoom", "backend": "the request to your backend",
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """Where a probe goes: the server, and the users' own backend where tokens come from there."""

    target: Target
    backend: Backend | None = None


def way_of(target: Target, settings: Settings, headers: tuple[tuple[str, str], ...]) -> Way:
    """``headers``: what opens the backend. Raises Refused where its name can't be resolved."""
    url = settings.session_url
    if url is None:
        return Way(target)
    try:
        endpoint = Endpoint.resolve(url.host, url.port, url.authority, tls=url.tls)
    except WireError as exc:
        raise Refused([preflight.knock_fault(f"--session-url {url.http_url}", exc, "your backend")]) from exc
    # One session is no load, so it may lead to LiveKit Cloud unasked.
    return Way(target, Backend(endpoint, url.path or "/", headers, allow_cloud=True))


async def probe(way: Way, settings: Settings, wait_s: float, for_s: float) -> Probed:
    """One session, start to clean-up. ``wait_s``: for the agent to come; ``for_s``: to observe from then.

    Whatever the network does is in the result. The room is gone afterwards.
    """
    quiet_logs()
    clock = SystemClock()
    run_id = f"probe-{secrets.token_hex(4)}"
    # What else its welcome has is seen all the same; its text is matched where it is asked for.
    settings = replace(settings, session_timeout_s=wait_s, welcome=frozenset({"audio"}))
    item = planned(run_id, 0, 0, settings, "local")
    teller = _Teller(clock, _REQUESTS.get(settings.dispatch, ""))
    ground = await break_ground(
        way.target, _endpoint(way.target), settings, SdkPool(lambda pid, ended: None), f"lk-{run_id}-way",
        way.backend,
    )  # fmt: skip
    if ground.found.tried:
        failed = "; ".join(f"{way}: {cause}" for way, cause in ground.found.tried.items())
        teller.note(f"media goes by {ground.found.way} ({failed})")

    def make_engine(planned_: PlannedSession, listener: EngineListener) -> Engine:
        teller.session = listener
        return WatchingEngine(planned_, settings, ground.surroundings, teller, teller)

    session = Session(item, settings, clock, ServerClock(), _Quiet(), make_engine)
    try:
        await session.build()
        session.announce(clock.monotonic_ns(), clock.wall_ns())
        first = "the join" if settings.order == "join-first" else teller.way
        session.fire()
        teller.note(f"{first} was written: the clock starts", session.intended_ns)
        session.fired(asyncio.get_running_loop())
        await _observe(session, teller, clock, wait_s, for_s)
        return await _probed(session, teller, clock, ground)
    finally:
        await session.close()
        await _clean_up(ground, session.room)


def run(
    target: Target, settings: Settings, headers: tuple[tuple[str, str], ...], wait_s: float, for_s: float
) -> Probed:
    """``probe`` on a loop of its own. Raises Refused where the server is away or does not take the key, or
    the backend is."""
    preflight.check_platform()
    import uvloop

    async def whole() -> Probed:
        way = way_of(target, settings, headers)
        if target.has_key:
            await preflight.check(target)
        elif target.is_known:
            await _knock(_endpoint(target), f"LIVEKIT_URL {target.shown_url}", "a LiveKit server")
        if way.backend is not None and settings.session_url is not None:
            name = f"--session-url {settings.session_url.http_url}"
            await _knock(way.backend.endpoint, name, "your backend")
        return await probe(way, settings, wait_s, for_s)

    return uvloop.run(whole())


async def _knock(endpoint: Endpoint, name: str, what: str) -> None:
    """Raises Refused where nobody opens."""
    try:
        await knock(endpoint)
    except WireError as exc:
        raise Refused([preflight.knock_fault(name, exc, what)]) from exc


async def _observe(session: Session, teller: _Teller, clock: Clock, wait_s: float, for_s: float) -> None:
    """Until there is nothing more to be seen."""
    while True:
        await asyncio.sleep(LOOK_S)
        now_ns = clock.monotonic_ns()
        teller.tell_utterances(now_ns)
        if teller.over or session.observation().failure is not None:
            return
        seen_ns = session.marks_ns.get(Mark.AGENT_SEEN)
        if seen_ns is None:
            if now_ns >= session.intended_ns + wait_s * NS_PER_S:
                return
            continue
        if now_ns >= session.intended_ns + seen_ns + for_s * NS_PER_S:
            return
        spoken = any(speech.over(now_ns) for speech in teller.speech.values())
        if spoken and Mark.FIRST_AUDIO in session.marks_ns and now_ns >= teller.timeline.last_ns + QUIET_NS:
            return


async def _probed(session: Session, teller: _Teller, clock: Clock, ground: Ground) -> Probed:
    now_ns = clock.monotonic_ns()
    record = session.record("", "", "", await _view(ground.api, session), 0)
    seen = session.observation()
    named = {sighting.sid for sighting in seen.named}
    came_ns = seen.marks_ns.get(Mark.AGENT_SEEN, 0)
    joined_ns = seen.marks_ns.get(Mark.AGENT_JOINED)
    if joined_ns is not None:
        teller.note(
            f"the agent joined, by the server's clock (±{record.joined_uncertainty_ns / NS_PER_MS:.0f} ms)",
            session.intended_ns + joined_ns,
        )
    speakers = named | {voice.sid for voice in seen.voices}
    heard = [item for sid, one in teller.speech.items() if sid in speakers for item in one.all(now_ns)]
    return Probed(
        seen=seen,
        findings={Finding(name): cause for name, cause in record.findings.items()},
        timeline=tuple(teller.timeline.lines(session.intended_ns)),
        speech=tuple(sorted(heard, key=lambda item: item.began_ns)),
        watched_s=(now_ns - session.intended_ns - came_ns) / NS_PER_S,
        room=session.room,
    )


async def _view(api: Api | None, session: Session) -> ServerView:
    """What the API says; where it lists no job, once more when that can be believed."""
    if api is None:
        return ServerView(unread=NO_KEY)
    late_s = asyncio.get_running_loop().time() + JOBS_LATE_S
    while True:
        try:
            participants = None if session.saw_agent else await api.participants(session.room)
            view = ServerView(await api.dispatches(session.room), participants)
        except WireError as exc:
            return ServerView(unread=exc.cause)
        told = session.saw_agent or not view.dispatches or any(item.jobs for item in view.dispatches)
        if told or asyncio.get_running_loop().time() >= late_s:
            return view
        await asyncio.sleep(READ_AGAIN_S)


async def _clean_up(ground: Ground, room: str) -> None:
    await asyncio.sleep(AGENT_LEAVE_S)
    if ground.api is not None:
        with contextlib.suppress(WireError):
            await ground.api.delete_room(room)
    await ground.close()


def _endpoint(target: Target) -> Endpoint:
    """Raises Refused where its name can't be resolved."""
    if not target.is_known:
        return Endpoint.nowhere()
    try:
        return Endpoint.resolve(target.host, target.port, target.authority, tls=target.tls)
    except WireError as exc:
        raise Refused([preflight.target_fault(target, exc)]) from exc


# What is printed.


def told(probed: Probed, settings: Settings, wait_s: float, given: Sequence[tuple[str, str]]) -> list[str]:
    """All of it, as lines. ``given``: options of the run that were given, and their values."""
    names = {"": "The unnamed agent", ANY_AGENT: "Any agent"}
    name = names.get(settings.agent_name, f'Agent "{settings.agent_name}"')
    head = f"{name}, one session in room {probed.room}, dispatch by {settings.dispatch}, {settings.order}:"
    lines = [head, "", *probed.timeline, ""]
    if not probed.came:
        return [*lines, *_none_came(probed, settings, wait_s)]
    proposal = propose(probed.seen, probed.speech, probed.watched_s)
    options = " ".join(f"--{option} {shlex.quote(value)}" for option, value in proposal.options())
    lines += [f"Proposal: {options}", *points(proposal.reasons)]
    remarks = [*proposal.warnings, *_remarks(probed, settings)]
    if remarks:
        lines += ["", "Mind:", *points(remarks)]
    return [*lines, "", "A burst of 50 with it:", "", f"  {command(proposal, given)}"]


def command(proposal: Proposal, given: Sequence[tuple[str, str]]) -> str:
    """A run as it would be typed."""
    words = ["locust -f locustfiles/burst.py --headless -u 50 -r 50"]
    words += [f"--{name} {shlex.quote(value)}" for name, value in (*given, *proposal.options())]
    return " ".join(words)


def _none_came(probed: Probed, settings: Settings, wait_s: float) -> list[str]:
    outcome, cause = next(iter(probed.findings.items()))
    why = OUTCOMES.get(outcome, "why is not known")
    lines = textwrap.wrap(
        f"No agent came within {wait_s:g} s: {why} ({outcome}: {cause}).", LINE_CHARS, break_on_hyphens=False
    )
    if probed.seen.sightings:
        names = ", ".join(
            next((s.attributes[key] for key in AGENT_NAME_ATTRIBUTES if s.attributes.get(key)), s.identity)
            for s in probed.seen.sightings
        )
        lines.append(f"An agent of another name was there: {names}.")
    return [*lines, "Check:", *points(hints(probed.findings, settings, wait_s))]


_REMARKS: Final = {
    Finding.GHOST_DISPATCH: "The room also asked for the unnamed agent, which no worker serves: in a burst "
    "by --dispatch api that holds the server up (about 1 s for 2 of its 50 slots each). --dispatch room or "
    "token avoids it.",
    Finding.BYSTANDER_AGENT: "Another agent was in the room, too: {cause}.",
    Finding.DUPLICATE_AGENT: "Two of the agent were there at once: {cause}.",
    Finding.DOUBLE_DISPATCH: "The room was asked for the agent twice: {cause}.",
    Finding.JOB_RETRIED: "The job was given away twice: {cause}.",
    Finding.AGENT_REJOINED: "The agent went and came back: {cause}.",
    Finding.WELCOME_CLIPPED: "The beginning of its welcome is lost to the user: {cause}.",
    Finding.WELCOME_TWICE: "The welcome came twice: {cause}.",
    Finding.USER_DROPPED: "The server sent the user away: {cause}.",
    Finding.CONNECTION_LOST: "The user's connection was cut: {cause}.",
    Finding.ROOM_CLOSED: "The room was closed under the user: {cause}.",
}


def _remarks(probed: Probed, settings: Settings) -> list[str]:
    found = []
    for finding, cause in probed.findings.items():
        if finding is Finding.GHOST_DISPATCH and settings.dispatch != "api":
            continue
        if finding in _REMARKS:
            found.append(_REMARKS[finding].format(cause=cause))
    return found
