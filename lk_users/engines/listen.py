"""Engine ``listen``: a real WebRTC participant that hears audio and reads transcripts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from livekit.protocol import models

from lk_users.clock import NS_PER_MS
from lk_users.engines.opening import way_in
from lk_users.errors import ConnectionCut, WireError
from lk_users.outcome import Finding
from lk_users.wire import api
from lk_users.wire.audio import Ear
from lk_users.wire.microphone import Microphone
from lk_users.wire.names import connection_quality, disconnect_reason
from lk_users.wire.peer import Peer
from lk_users.wire.recording import Recording
from lk_users.wire.score import WorstScore
from lk_users.wire.signalling import Signal, SignalPath
from lk_users.wire.text_stream import TextPiece, TextStreams
from lk_users.wire.turn import MediaWay, turns

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from livekit.protocol import rtc as messages

    from lk_users.address import Address
    from lk_users.clock import Clock
    from lk_users.engines.port import EngineListener
    from lk_users.errors import BackendError
    from lk_users.evidence import ParticipantView
    from lk_users.plan import PlannedSession
    from lk_users.settings.run import Settings
    from lk_users.wire.aiortc_seam import SharedCertificate
    from lk_users.wire.backend import Backend, Ticket
    from lk_users.wire.datagrams import TickReader
    from lk_users.wire.endpoint import Endpoint
    from lk_users.wire.microphone import Microphones
    from lk_users.wire.servers import Servers
    from lk_users.wire.signalling import Pinger
    from lk_users.wire.turn import Turn

ROOM_ENDED = (models.DisconnectReason.ROOM_DELETED, models.DisconnectReason.ROOM_CLOSED)
# A server may fail to ask for the audio section of a track that it announced (seen once in 600 joins
# over /rtc/v1): after this long we offer one without being asked. A busy server asks after 1 to 2 s, and
# an offer that crosses its request costs the session its audio.
SECTION_WAIT_S = 6.0


@dataclass(frozen=True)
class Surroundings:
    """What all sessions of a process share."""

    address: Address
    """LIVEKIT_URL, or nothing."""
    endpoint: Endpoint
    """Of it; without addresses where it is not known, or not resolved."""
    keys: api.Keys | None
    servers: Servers
    clock: Clock
    path: SignalPath
    addresses: tuple[str, ...]
    pinger: Pinger
    certificate: SharedCertificate
    microphones: Microphones
    way: MediaWay = MediaWay.HOST
    backend: Backend | None = None
    reader: TickReader | None = None
    """Of the sockets of users who have nobody to hear."""


class ListenEngine:
    """One user: its way in, its signalling, its peer connection, its ears."""

    def __init__(
        self,
        planned: PlannedSession,
        settings: Settings,
        around: Surroundings,
        listener: EngineListener,
        given: Ticket | BackendError | None = None,
    ) -> None:
        self._around = around
        self._listener = listener
        self.turns: list[Turn] = []
        """The TURN servers that the server named."""
        self.must_relay = False
        """The server wants media to go by TURN and no other way."""
        # Over V0 it would need a second peer connection.
        with_microphone = settings.mic == "silence" and around.path is SignalPath.V1
        self._microphone = Microphone(around.microphones) if with_microphone else None
        self._signal = Signal(around.endpoint, around.clock, self)
        self._peer = Peer(
            self,
            around.addresses,
            around.certificate,
            around.clock,
            publish=self._microphone,
            reader=around.reader,
        )
        self._way_in = way_in(planned, settings, around, listener, given)
        self._offer_sdp = ""
        self._armed_to: Address | None = None
        self._loaded = False
        self._late_facts: dict[str, Any] = {}
        self._streams = TextStreams()
        self._serial = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._owners: dict[str, str] = {}
        self._mapped: set[str] = set()
        self._ears: dict[str, Ear | None] = {}
        self._recording = Recording()
        self._unheard: set[str] = set()
        self._heard = False
        self._alone = True
        self._resting = False
        self._connected = False
        self._ended = False
        self._offer_id = 1
        self._offer_open = True
        self._sections_unasked = 0
        self._own_sid = ""
        self._local_ports: list[int] = []
        self._ice: dict[str, Any] = {}
        self._published = False
        self._score = WorstScore()

    async def build(self) -> None:
        """Tokens, request bytes, offer and open connections. Raises ConnectionCut, BackendError."""
        around = self._around
        ticket = self._way_in.ticket()
        # A TURN server is named in the join response, so an offer that needs one has to wait for it.
        if around.path is SignalPath.V1 and around.way is MediaWay.HOST:
            self._offer_sdp = await self._peer.offer()
        if ticket is not None:
            await self._arm(ticket)
        elif around.endpoint.addresses:
            # The token comes with the answer; where to, most likely, is known before.
            await self._signal.arm()
            self._armed_to = around.address
        await self._way_in.arm()

    def open(self) -> int:
        return self._way_in.fire()

    def dispatch(self) -> int:
        return self._way_in.fire()

    def join(self) -> int:
        if self._loaded:
            return self._signal.fire()
        ticket = self._way_in.ticket()
        assert ticket is not None
        if ticket.address == self._armed_to:
            self._load(ticket)
            return self._signal.fire()
        self._start(self._join_elsewhere(ticket))
        return self._around.clock.monotonic_ns()

    async def _arm(self, ticket: Ticket) -> None:
        around = self._around
        if ticket.address != around.address:
            self._late_facts["server_url"] = ticket.address.shown_url
            self._signal.close()
            self._signal = Signal(await around.servers.endpoint(ticket.address), around.clock, self)
        self._load(ticket)
        await self._signal.arm()

    def _load(self, ticket: Ticket) -> None:
        self._loaded = True
        self._signal.load_join(
            ticket.address.path,
            self._around.path,
            ticket.token,
            offer_sdp=self._offer_sdp,
            track=self._microphone.request() if self._microphone is not None else None,
        )

    async def _join_elsewhere(self, ticket: Ticket) -> None:
        """To a server that only the answer named: the connection is opened first, and that is part of the
        user's way in."""
        began_ns = self._around.clock.monotonic_ns()
        try:
            await self._arm(ticket)
        except WireError as exc:
            if not self._ended:
                self._listener.join_failed(exc)
            return
        if self._ended:
            self._signal.close()
            return
        self._late_facts["connect_ms"] = round((self._signal.fire() - began_ns) / NS_PER_MS, 3)

    def rest(self) -> None:
        self._resting = True
        self._pace()

    def leave(self) -> None:
        if not self._ended:
            self._ended = True
            self._around.pinger.discard(self._signal)
            self._signal.leave()

    async def close(self) -> None:
        self.leave()
        self._local_ports, self._ice = self._peer.local_ports(), self._peer.ice()
        self._way_in.close()
        for task in list(self._tasks):
            task.cancel()
        await self._peer.close()

    def evidence(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "local_ports": self._local_ports or self._peer.local_ports(),
            "ice": self._ice or self._peer.ice(),
            "mic": "silence" if self._published else "none",
        }
        if self._score.name:
            facts["worst_quality"] = self._score.name
        if self._sections_unasked:
            facts["sections_unasked"] = self._sections_unasked
        facts.update(self._late_facts)
        if self._signal.rearmed or self._way_in.rearmed:
            facts["rearmed"] = True
        ears = [ear for ear in self._ears.values() if ear is not None]
        if ears:
            facts["loudest_dbfs"] = round(max(ear.gate.loudest_dbfs for ear in ears), 1)
            facts["packets"] = sum(ear.packets for ear in ears)
        return facts

    def recording(self) -> Recording:
        return self._recording

    # What signalling tells.

    def signal(self, kind: str, response: messages.SignalResponse) -> None:
        if self._ended:
            return
        if kind == "join":
            self._joined(response.join)
        elif kind == "update":
            for info in response.update.participants:
                self._updated(info)
        elif kind == "answer":
            self._later(self._accept(response.answer))
        elif kind == "media_sections_requirement":
            self._want_sections(response.media_sections_requirement.num_audios)
        elif kind == "offer":
            self._later(self._answer_offer(response.offer))
        elif kind == "trickle":
            self._later(self._peer.add_candidate(response.trickle.candidateInit))
        elif kind == "track_published":
            self._published = True
        elif kind == "connection_quality":
            self._scored(response.connection_quality)
        elif kind == "leave":
            self._sent_away(response.leave)

    def signal_lost(self, error: WireError) -> None:
        if self._ended:
            return
        if not self._connected:
            self._listener.join_failed(error)
        else:
            self._listener.dropped(Finding.CONNECTION_LOST, error.cause)
        self._around.pinger.discard(self._signal)

    def _joined(self, join: messages.JoinResponse) -> None:
        self._connected = True
        self._own_sid = join.participant.sid
        self._around.pinger.add(self._signal)
        info = join.server_info
        edition = "cloud" if info.edition == models.ServerInfo.Edition.Cloud else "open source"
        server = f"{edition} {info.version} node {info.node_id} region {info.region or '-'}"
        others = [api.participant_view(other) for other in join.other_participants]
        self._alone = not others
        for other in others:
            self._own_tracks(other)
        self.turns = turns(join.ice_servers)
        self.must_relay = join.client_configuration.force_relay == models.ClientConfigSetting.ENABLED
        self._listener.connected(api.participant_view(join.participant), join.room.sid, others, server)
        if self._around.way is not MediaWay.HOST and not self._ended:
            self._relay()

    def _relay(self) -> None:
        """Media goes by TURN, of the kind that was found to work, with credentials of our own."""
        turn = next((turn for turn in self.turns if turn.way is self._around.way), None)
        if turn is None:
            self._listener.media_failed(f"the server names no TURN server for {self._around.way}")
            return
        self._peer.relay_through(turn)
        if self._around.path is SignalPath.V1:
            self._later(self._first_offer())

    async def _first_offer(self) -> None:
        self._signal.offer(await self._peer.offer(), self._offer_id)

    def _updated(self, info: models.ParticipantInfo) -> None:
        if info.sid == self._own_sid:
            return
        view = api.participant_view(info)
        self._alone = False
        # The participant first: a session that does not know it yet would not know whose track it is.
        self._listener.participant(view)
        self._own_tracks(view)
        self._pace()

    def _pace(self) -> None:
        """Who has nobody to hear can wait for what comes: alone yet, or with all heard that there is. Of
        text the moment is known all the same."""
        self._peer.can_wait(yes=self._alone or (self._resting and not self._unheard))

    def _own_tracks(self, view: ParticipantView) -> None:
        """Remember whose microphones to hear: an agent's, or that of a participant on its behalf."""
        if not view.agent and not view.on_behalf_of:
            return
        fresh = [sid for sid in view.microphones if sid not in self._owners]
        for sid in fresh:
            self._owners[sid] = view.sid
            self._unheard.add(sid)
            self._peer.hear(sid)
            if sid in self._mapped:
                self._listener.subscribed(view.sid)
        if fresh and self._around.path is SignalPath.V1:
            asyncio.get_running_loop().call_later(SECTION_WAIT_S, self._section_check, fresh)

    def _section_check(self, sids: Sequence[str]) -> None:
        missing = [sid for sid in sids if sid not in self._mapped]
        if missing and not self._ended and not self._offer_open:
            self._sections_unasked += len(missing)
            self._want_sections(len(missing))

    def _sent_away(self, leave: messages.LeaveRequest) -> None:
        reason = disconnect_reason(leave.reason)
        finding = Finding.ROOM_CLOSED if leave.reason in ROOM_ENDED else Finding.USER_DROPPED
        if self._connected:
            self._listener.dropped(finding, reason)
        else:
            self._listener.join_failed(ConnectionCut(f"sent away: {reason}"))
        self._ended = True
        self._around.pinger.discard(self._signal)
        self._signal.close()

    def _scored(self, update: messages.ConnectionQualityUpdate) -> None:
        for info in update.updates:
            if info.participant_sid == self._own_sid:
                self._score.take(connection_quality(info.quality))

    # Offers and answers, one after another.

    def _later(self, step: Coroutine[Any, Any, None]) -> None:
        self._start(self._one_by_one(step))

    def _start(self, step: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(step)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _one_by_one(self, step: Coroutine[Any, Any, None]) -> None:
        async with self._serial:
            if self._ended:
                step.close()
                return
            try:
                await step
            except Exception as exc:
                if not self._ended:
                    self._listener.media_failed(f"{type(exc).__name__}: {exc}")

    async def _accept(self, answer: messages.SessionDescription) -> None:
        await self._peer.accept(answer.sdp, answer.mid_to_track_id)
        self._mark_mapped()
        self._offer_open = False

    async def _answer_offer(self, offer: messages.SessionDescription) -> None:
        sdp = await self._peer.answer(offer.sdp, offer.mid_to_track_id)
        self._signal.answer(sdp, offer.id)
        self._mark_mapped()

    def _want_sections(self, audios: int) -> None:
        """The server asks for a new offer. While one is open it counts for nothing: the server answers that
        one first, and then asks anew for what is still missing."""
        if not self._offer_open:
            self._offer_open = True
            self._later(self._offer_sections(audios))

    async def _offer_sections(self, audios: int) -> None:
        self._offer_id += 1
        self._signal.offer(await self._peer.offer_again(audios), self._offer_id)

    def _mark_mapped(self) -> None:
        for sid in self._peer.tracks:
            if sid not in self._mapped:
                self._mapped.add(sid)
                if sid in self._owners:
                    self._listener.subscribed(self._owners[sid])

    # What the peer connection tells.

    def media_up(self) -> None:
        if not self._ended:
            self._listener.media_up()
            self._pace()

    def media_down(self, state: str) -> None:
        if not self._ended:
            self._listener.media_failed(state)

    def packet(self, track_sid: str, payload: bytes, timestamp: int) -> None:
        owner = self._owners.get(track_sid)
        if self._ended:
            return
        if owner is None:
            if self._heard:
                # Background noise, or a microphone of which we will be told: until then it costs nothing.
                self._peer.deafen(track_sid)
            return
        now_ns = self._around.clock.monotonic_ns()
        if track_sid not in self._ears:
            self._ears[track_sid] = Ear()
            self._listener.packet(owner, self._peer.reached_ns(track_sid) or now_ns)
        more = self._recording.add(track_sid, payload, timestamp, now_ns)
        ear = self._ears[track_sid]
        if ear is not None:
            onset = ear.hear(payload, now_ns)
            if onset is None:
                return
            self._ears[track_sid] = None
            more = self._listener.audible(owner, onset) and more
        if not more:
            # This track only: a second agent's must be heard as well.
            self._heard = True
            self._enough(track_sid)

    def _enough(self, track_sid: str) -> None:
        """Nothing more is to be learned from this track."""
        self._peer.deafen(track_sid)
        self._unheard.discard(track_sid)
        self._pace()

    def data(self, message: bytes) -> None:
        if not self._ended:
            piece, at_ns = self._streams.feed(message), self._peer.data_ns or None
            if isinstance(piece, TextPiece):
                self._listener.text(piece, at_ns)
            elif piece is not None:
                self._listener.data(piece, at_ns)
