"""One job of the reference agent: joined, welcomed, left, or whatever its fault asks for instead."""

from __future__ import annotations

import asyncio
import enum
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from livekit import api
from livekit.protocol import models
from livekit.protocol import rtc as messages

from lk_users.clock import NS_PER_MS
from lk_users.errors import ConnectionCut, LkUsersError, WireError
from lk_users.evidence import AGENT_NAME_ATTRIBUTES, AGENT_STATE_ATTRIBUTE
from lk_users.local.faults import Fault
from lk_users.local.speech import FRAME_S, SpokenTrack
from lk_users.wire.api import TOKEN_TTL
from lk_users.wire.peer import Peer
from lk_users.wire.signalling import FIRST_OFFER_ID, Signal, SignalPath
from lk_users.wire.text_stream import TRANSCRIPTION, text_packets

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from lk_users.clock import Clock
    from lk_users.local.faults import Script
    from lk_users.local.pace import Pace
    from lk_users.local.speech import Sounds
    from lk_users.wire.aiortc_seam import SharedCertificate
    from lk_users.wire.api import Keys
    from lk_users.wire.endpoint import Endpoint
    from lk_users.wire.signalling import Pinger

WELCOME: Final = "Welcome, how can I help?"
# The transcript follows the voice, as it does from a real agent that transcribes what it says.
TRANSCRIPT_AFTER_S: Final = 0.3
BYSTANDER_NAME: Final = "bystander"
_CHANNEL_POLL_S: Final = 0.02
_AGENT: Final = models.ParticipantInfo.Kind.AGENT
_ACTIVE: Final = models.ParticipantInfo.State.ACTIVE
_GONE: Final = models.ParticipantInfo.State.DISCONNECTED


@dataclass(frozen=True)
class Place:
    """What all sessions of the process share. ``addresses``: host addresses to offer."""

    endpoint: Endpoint
    prefix: str
    addresses: Sequence[str]
    clock: Clock
    pinger: Pinger
    certificate: SharedCertificate
    sounds: Sounds
    keys: Keys
    agent_name: str
    pace: Pace


@dataclass(frozen=True)
class Job:
    """What we keep of an assignment."""

    job_id: str
    room: str
    token: str
    script: Script


class Ending(enum.Enum):
    """Why a session ended."""

    LISTENER_LEFT = enum.auto()
    SENT_AWAY = enum.auto()
    ON_PURPOSE = enum.auto()
    DIED = enum.auto()


class Participant:
    """One agent in one room. ``over`` is told once why it has to go: an ending, or what went wrong.

    ``publish``: with its microphone's track from the start.
    """

    def __init__(
        self, place: Place, over: Callable[[Ending | LkUsersError], None], *, publish: bool = True
    ) -> None:
        self.active = asyncio.Event()
        """The server calls us ACTIVE."""
        self.media = asyncio.Event()
        """Our peer connection is up."""
        self.listened = asyncio.Event()
        """Our track is subscribed, and its listener is ACTIVE."""
        self._place = place
        self._over: Callable[[Ending | LkUsersError], None] | None = over
        self._track = SpokenTrack()
        self._published = publish
        own = self._track if publish else None
        self._peer = Peer(self, place.addresses, place.certificate, place.clock, publish=own)
        self._signal = Signal(place.endpoint, place.clock, self)
        self._sid = self._track_sid = ""
        self._subscribed = False
        self._listeners: dict[str, bool] = {}
        self._offers = FIRST_OFFER_ID
        self._requests = self._packets = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what it does ---

    async def join(self, token: str) -> None:
        """Ask for it, with offer and track, if there is one, in the request. Raises ConnectionCut."""
        offer_sdp = await self._peer.offer()
        track = _microphone(self._track) if self._published else None
        # It hears nothing, so it has no use for the user's tracks.
        self._signal.load_join(
            self._place.prefix, SignalPath.V1, token, offer_sdp=offer_sdp, track=track, subscribe=False
        )
        await self._signal.arm()
        self._signal.fire()
        self._place.pinger.add(self._signal)

    async def publish_background(self) -> SpokenTrack:
        """A second track, as agents publish their office noise."""
        track = SpokenTrack()
        request = _microphone(track)
        request.name, request.source = "background_audio", models.TrackSource.UNKNOWN
        await self._publish(track, request)
        return track

    async def _publish(self, track: SpokenTrack, request: messages.AddTrackRequest) -> None:
        self._signal.add_track(request)
        offer_sdp = await self._peer.offer_also(track)
        self._offers += 1
        self._signal.offer(offer_sdp, self._offers)

    def set_state(self, state: str) -> None:
        """As AgentSession shows its state."""
        self._requests += 1
        self._signal.set_attributes({AGENT_STATE_ATTRIBUTE: state}, self._requests)

    async def say(self, packets: Sequence[bytes], transcript: str, *, unheard_s: float = 0.0) -> None:
        """Speak, then listen again. ``transcript``: empty for none; ``unheard_s``: so much is said before
        there is a track to say it on."""
        self.set_state("speaking")
        async with asyncio.TaskGroup() as both:
            both.create_task(self._voice(packets, unheard_s))
            if transcript:
                both.create_task(self._send_transcript(transcript))
        self.set_state("listening")

    async def _voice(self, packets: Sequence[bytes], unheard_s: float) -> None:
        if not self._published:
            await asyncio.sleep(unheard_s)
            self._published = True
            await self._publish(self._track, _microphone(self._track))
        await self._track.say(packets[round(unheard_s / FRAME_S) :])

    async def _send_transcript(self, text: str) -> None:
        await asyncio.sleep(TRANSCRIPT_AFTER_S)
        while not self._peer.can_send:  # noqa: ASYNC110  the channel tells nobody when it opens
            await asyncio.sleep(_CHANNEL_POLL_S)
        attributes = {
            "lk.transcription_final": "true",
            "lk.segment_id": f"SG_{secrets.token_hex(6)}",
            "lk.transcribed_track_id": self._track_sid,
        }
        now_ms = self._place.clock.wall_ns() // NS_PER_MS
        stream_id = secrets.token_hex(8)
        first = self._packets + 1
        for packet in text_packets(stream_id, TRANSCRIPTION, text, now_ms, first, attributes):
            self._packets += 1
            self._peer.send(packet)

    async def leave(self) -> None:
        """On purpose and for good. Idempotent."""
        self._stop()
        self._signal.leave()
        await self._peer.close()

    async def die(self) -> None:
        """Hang up without a word, as a crashed process. A server waits some 20 s for it to come back."""
        self._stop()
        self._signal.close()
        await self._peer.close()

    def _stop(self) -> None:
        self._over = None
        self._place.pinger.discard(self._signal)
        for task in self._tasks:
            task.cancel()

    # --- what it is told: signalling ---

    def signal(self, kind: str, response: messages.SignalResponse) -> None:
        if self._over is None:
            return
        if kind == "update":
            self._seen(response.update.participants)
        elif kind == "trickle":
            self._start(self._peer.add_candidate(response.trickle.candidateInit))
        elif kind == "track_subscribed":
            self._subscribed = self._subscribed or response.track_subscribed.track_sid == self._track_sid
            self._look_for_listener()
        elif kind == "track_published":
            if response.track_published.cid == self._track.id:
                self._track_sid = response.track_published.track.sid
        elif kind == "answer":
            self._start(self._peer.accept(response.answer.sdp, {}))
        elif kind == "join":
            self._sid = response.join.participant.sid
            self._seen(response.join.other_participants)
        elif kind == "leave":
            self._tell(Ending.SENT_AWAY)

    def signal_lost(self, error: WireError) -> None:
        self._tell(error)

    def _seen(self, participants: Sequence[models.ParticipantInfo]) -> None:
        for info in participants:
            if info.sid == self._sid:
                if info.state == _ACTIVE:
                    self.active.set()
            elif info.kind != _AGENT:
                if info.state != _GONE:
                    self._listeners[info.sid] = info.state == _ACTIVE
                elif self._listeners.pop(info.sid, None) is not None and not self._listeners:
                    self._tell(Ending.LISTENER_LEFT)
        self._look_for_listener()

    def _look_for_listener(self) -> None:
        if self._subscribed and any(self._listeners.values()):
            self.listened.set()

    def _start(self, negotiation: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(negotiation)
        self._tasks.add(task)
        task.add_done_callback(self._negotiated)

    def _negotiated(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._tell(WireError(f"negotiation failed: {type(fault).__name__}: {fault}"))

    def _tell(self, why: Ending | LkUsersError) -> None:
        over, self._over = self._over, None
        if over is not None:
            over(why)

    # --- what it is told: media ---

    def media_up(self) -> None:
        self.media.set()

    def media_down(self, state: str) -> None:
        self._tell(ConnectionCut(f"peer connection {state}"))

    def packet(self, track_sid: str, payload: bytes, timestamp: int) -> None:
        """It listens to nobody."""

    def data(self, message: bytes) -> None:
        """Nor reads."""


class AgentSession:
    """One job, from its assignment to its status."""

    def __init__(self, place: Place, job: Job) -> None:
        self._place = place
        self._job = job
        self._script = job.script
        self._over: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._participants: list[Participant] = []
        self._acting: set[asyncio.Task[None]] = set()
        self._away = False

    def terminate(self) -> None:
        """The server ended the job; it also says so when we left, and a rejoin goes on after that."""
        if not self._away:
            self._finish(Ending.SENT_AWAY)

    async def run(self) -> Ending:
        """Why it is over; its participants are still there. Raises WireError if it was the network."""
        self._start(self._act())
        return await self._over

    async def close(self) -> None:
        """Leave, or drop dead where that was asked for."""
        for task in self._acting:
            task.cancel()
        died = self._over.done() and not self._over.exception() and self._over.result() is Ending.DIED
        for participant in self._participants:
            await (participant.die() if died else participant.leave())

    def _finish(self, why: Ending | LkUsersError) -> None:
        if self._over.done():
            return
        if isinstance(why, Ending):
            self._over.set_result(why)
        else:
            self._over.set_exception(why)

    def _start(self, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(doing)
        self._acting.add(task)
        task.add_done_callback(self._acted)

    def _acted(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (fault := task.exception()) is None:
            return
        self._finish(
            fault if isinstance(fault, LkUsersError) else WireError(f"{type(fault).__name__}: {fault}")
        )

    async def _act(self) -> None:
        fault, delay_s = self._script.fault, self._script.delay_s
        await self._place.pace.turn()
        if fault is Fault.SLOW_JOIN:
            await asyncio.sleep(delay_s)
        agent = await self._join(self._job.token, publish=fault is not Fault.EAGER)
        if fault is Fault.FREEZE:
            return
        if fault in (Fault.DIE_AFTER_JOIN, Fault.END):
            if not delay_s:
                self._end()
                return
            asyncio.get_running_loop().call_later(delay_s, self._end)
        elif fault is Fault.REJOIN:
            agent = await self._rejoin(agent)
        elif fault is Fault.CUT:
            self._start(self._cut(agent))
        elif fault in (Fault.DUPLICATE, Fault.BYSTANDER):
            self._start(self._bring_another())
        elif fault is Fault.BACKGROUND:
            self._start(self._make_noise(agent))
        await self._welcome(agent)

    async def _join(self, token: str, *, publish: bool = True) -> Participant:
        """In the room, ACTIVE where that is waited for, and listening."""
        participant = Participant(self._place, self._finish, publish=publish)
        self._participants.append(participant)
        await participant.join(token)
        await participant.active.wait()
        participant.set_state("listening")
        return participant

    async def _welcome(self, agent: Participant) -> None:
        fault, sounds = self._script.fault, self._place.sounds
        if fault is Fault.EAGER:
            await agent.say(sounds.tone, WELCOME, unheard_s=self._script.delay_s)
            return
        await agent.listened.wait()
        if fault is Fault.SLOW_WELCOME:
            await asyncio.sleep(self._script.delay_s)
        if fault in (Fault.SILENT, Fault.BACKGROUND):
            await agent.say(sounds.silence, "")
        elif fault is Fault.TEXT_ONLY:
            await agent.say(sounds.silence, WELCOME)
        else:
            await agent.say(sounds.tone, WELCOME)

    def _end(self) -> None:
        self._finish(Ending.DIED if self._script.fault is Fault.DIE_AFTER_JOIN else Ending.ON_PURPOSE)

    async def _rejoin(self, agent: Participant) -> Participant:
        await asyncio.sleep(self._script.delay_s)
        self._away = True
        self._participants.remove(agent)
        await agent.leave()
        return await self._join(self._job.token)

    async def _cut(self, agent: Participant) -> None:
        """The server ends the job when the old participant goes, which is of no account to who is back."""
        await asyncio.sleep(self._script.delay_s)
        self._away = True
        self._participants.remove(agent)
        await agent.die()
        await asyncio.sleep(self._script.back_s)
        await self._join(self._job.token)

    async def _bring_another(self) -> None:
        await asyncio.sleep(self._script.delay_s)
        same = self._script.fault is Fault.DUPLICATE
        other = await self._join(self._token(self._place.agent_name if same else BYSTANDER_NAME))
        if same:
            await self._welcome(other)

    async def _make_noise(self, agent: Participant) -> None:
        await agent.media.wait()
        await (await agent.publish_background()).say_for_ever(self._place.sounds.ambience)

    def _token(self, agent_name: str) -> str:
        """For one more agent in the job's room."""
        grants = api.VideoGrants(
            room_join=True, room=self._job.room, agent=True, can_update_own_metadata=True
        )
        token = api.AccessToken(self._place.keys.key, self._place.keys.secret)
        token = token.with_identity(f"agent-{secrets.token_hex(6)}").with_kind("agent").with_ttl(TOKEN_TTL)
        return (
            token.with_attributes(dict.fromkeys(AGENT_NAME_ATTRIBUTES, agent_name))
            .with_grants(grants)
            .to_jwt()
        )


def _microphone(track: SpokenTrack) -> messages.AddTrackRequest:
    """The server finds the track in the offer by its id."""
    return messages.AddTrackRequest(
        cid=track.id, name="welcome", type=models.TrackType.AUDIO, source=models.TrackSource.MICROPHONE
    )
