"""One participant's WebRTC connection, in LiveKit's terms: its data channels, and tracks by section."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiortc import RTCIceServer

from lk_users.clock import NS_PER_MS
from lk_users.wire.connection import BundledConnection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiortc import MediaStreamTrack, RTCDataChannel
    from aiortc.rtp import RtpPacket

    from lk_users.clock import Clock
    from lk_users.wire.aiortc_seam import PacketReceiver, SharedCertificate
    from lk_users.wire.datagrams import TickReader
    from lk_users.wire.turn import Turn

RELIABLE: Final = "_reliable"
LOSSY: Final = "_lossy"
# A server that hangs up says why by signalling, on another socket: for so long that may come after it.
GOODBYE_S: Final = 1.0


class PeerListener(Protocol):
    """What a peer connection tells."""

    def media_up(self) -> None:
        """ICE and DTLS are up."""

    def media_down(self, state: str) -> None:
        """The connection is over: ``failed``, with a reason where there is one, or ``closed``, ``GOODBYE_S``
        after the other side hung up."""

    def packet(self, track_sid: str, payload: bytes, timestamp: int) -> None:
        """One RTP payload of an audio track. ``timestamp``: RTP's, in samples of 48 kHz, 32 bits."""

    def data(self, message: bytes) -> None:
        """One data channel message: a ``models.DataPacket``."""


class Peer:
    """A peer connection that listens, and publishes one audio track where it is given one.

    ``addresses``: host addresses to offer. ``reader``: reads its sockets while they can wait.
    """

    def __init__(
        self,
        listener: PeerListener,
        addresses: Sequence[str],
        certificate: SharedCertificate,
        clock: Clock,
        *,
        publish: MediaStreamTrack | None = None,
        reader: TickReader | None = None,
    ) -> None:
        self._listener = listener
        self._connection = BundledConnection(
            addresses,
            certificate,
            clock,
            reader,
            on_state=self._state_changed,
            on_channel=self._channel_opened,
        )
        self._publish = publish
        self._reliable: RTCDataChannel | None = None
        self._settled = self._can_wait = self._ended = False

    def relay_through(self, turn: Turn) -> None:
        """Media shall go by this TURN server and no other way; before the first offer or answer."""
        self._connection.relay_through(
            RTCIceServer(urls=[turn.url], username=turn.username, credential=turn.credential)
        )

    async def offer(self) -> str:
        """The first offer of V1: data channels, and our own track where there is one. The server asks for
        sections to hear on when there is something to hear; one offered now it would not use."""
        if self._publish is not None:
            self._connection.add_audio(self._publish)
        self._reliable = self._connection.add_channel(RELIABLE, ordered=True)
        lossy = self._connection.add_channel(LOSSY, ordered=False, retransmits=0)
        for channel in (self._reliable, lossy):
            channel.on("message", self._message)
        self._reliable.on("open", self._settle)
        return await self._connection.offer()

    async def offer_again(self, more_audios: int) -> str:
        """The offer that the server asks for when tracks come: with so many more audio sections."""
        for _ in range(more_audios):
            self._connection.add_audio()
        return await self._connection.offer()

    async def offer_also(self, track: MediaStreamTrack) -> str:
        """The offer that publishes one more audio track."""
        self._connection.add_audio(track)
        return await self._connection.offer()

    async def accept(self, answer_sdp: str, tracks_by_mid: Mapping[str, str]) -> None:
        """The server's answer, and which track each section carries. Raises WireError."""
        await self._connection.accept(answer_sdp)
        self._attach(tracks_by_mid)

    async def answer(self, offer_sdp: str, tracks_by_mid: Mapping[str, str]) -> str:
        """Our answer to an offer of the server (the ``/rtc`` path). Raises WireError.

        ``tracks_by_mid``: empty from a server of before 1.9, where the offer itself tells.
        """
        answer = await self._connection.answer(offer_sdp)
        self._attach(tracks_by_mid or self._connection.tracks_by_mid())
        return answer

    @property
    def tracks(self) -> tuple[str, ...]:
        """Sids of the tracks that have a section to be heard on."""
        return tuple(item.track_sid for item in self._connection.receivers() if item.track_sid)

    async def add_candidate(self, candidate_init: str) -> None:
        """A trickled candidate, as the JSON of an RTCIceCandidateInit; be it before the answer."""
        candidate = json.loads(candidate_init).get("candidate", "")
        if candidate:
            await self._connection.add_candidate(candidate.partition(":")[2])

    @property
    def can_send(self) -> bool:
        """Is the reliable data channel open?"""
        return self._reliable is not None and self._reliable.readyState == "open"

    def send(self, message: bytes) -> None:
        """On the reliable channel, which must be open."""
        assert self._reliable is not None
        self._reliable.send(message)

    def can_wait(self, *, yes: bool) -> None:
        """Is there nobody to hear, so that what comes may be read up to a tick later? It is from when the
        connection's own round trips are over: ICE, DTLS and data channels."""
        if yes != self._can_wait:
            self._can_wait = yes
            self._pace()

    @property
    def data_ns(self) -> int:
        """When what ``PeerListener.data`` is told now came, on the monotonic clock; 0: just now."""
        return self._connection.data_ns

    def deafen(self, track_sid: str) -> None:
        """What was listened for has been heard: count the track's packets, but read them no more."""
        for receiver in self._receivers(track_sid):
            self._connection.deafen(receiver)

    def hear(self, track_sid: str) -> None:
        """Read the track's packets again, if it was deafened."""
        for receiver in self._receivers(track_sid):
            self._connection.hear(receiver)
            receiver.on_packet = self._packet

    def reached_ns(self, track_sid: str) -> int:
        """When the track's first packet came to our socket, on the monotonic clock; 0 if none did. The server
        may send before its answer has told us which section carries the track: such packets are lost."""
        return max(map(self._connection.reached_ns, self._receivers(track_sid)), default=0)

    def local_ports(self) -> list[int]:
        """The UDP ports of our own candidates."""
        return self._connection.local_ports()

    def ice(self) -> dict[str, Any]:
        """What is known of the way that media takes: candidate types, gathering and round trip in ms."""
        facts: dict[str, Any] = {}
        path = self._connection.path()
        if path is not None:
            facts = {"local": path.local, "remote": path.remote}
            if path.rtt_ns is not None:
                facts["rtt_ms"] = round(path.rtt_ns / NS_PER_MS, 2)
        gather_ns = self._connection.gather_ns
        if gather_ns is not None:
            facts["gather_ms"] = round(gather_ns / NS_PER_MS, 2)
        return facts

    async def close(self) -> None:
        """Idempotent."""
        self._ended = True
        await self._connection.close()

    def _attach(self, tracks_by_mid: Mapping[str, str]) -> None:
        for mid, track_sid in tracks_by_mid.items():
            receiver = self._connection.receiver(mid)
            if receiver is not None:
                receiver.track_sid = track_sid
                receiver.on_packet = self._packet

    def _receivers(self, track_sid: str) -> list[PacketReceiver]:
        return [item for item in self._connection.receivers() if item.track_sid == track_sid]

    def _packet(self, receiver: PacketReceiver, packet: RtpPacket) -> None:
        self._listener.packet(receiver.track_sid, packet.payload, packet.timestamp)

    def _state_changed(self, state: str) -> None:
        if self._ended:
            return
        if state == "connected":
            self._listener.media_up()
        elif state == "closed":
            asyncio.get_running_loop().call_later(GOODBYE_S, self._down, state)
        else:
            self._down(state)

    def _down(self, state: str) -> None:
        if not self._ended:
            self._listener.media_down(state)

    def _channel_opened(self, channel: RTCDataChannel) -> None:
        channel.on("message", self._message)
        if channel.label == RELIABLE:
            self._settle()

    def _settle(self) -> None:
        self._settled = True
        if not self._ended:
            self._pace()

    def _pace(self) -> None:
        self._connection.can_wait(yes=self._can_wait and self._settled)

    def _message(self, message: bytes | str) -> None:
        if isinstance(message, bytes):
            self._listener.data(message)
