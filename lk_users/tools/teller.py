"""What happens to a probe's one session, as lines of a timeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lk_users.evidence import AGENT_NAME_ATTRIBUTES, AGENT_STATE_ATTRIBUTE
from lk_users.reading import KINDS
from lk_users.tools.speech import Speech
from lk_users.tools.timeline import Timeline, attributes_text, excerpt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lk_users.clock import Clock
    from lk_users.engines.port import EngineListener
    from lk_users.errors import WireError
    from lk_users.evidence import DispatchView, Onset, ParticipantView
    from lk_users.outcome import Finding
    from lk_users.wire.text_stream import DataPiece, TextPiece


class Teller:
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
