"""One WebRTC peer connection: the only module that knows aiortc (private parts are in ``aiortc_seam``)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from aiortc import RTCIceServer, RTCSessionDescription
from aiortc.sdp import candidate_from_sdp

from lk_users.clock import NS_PER_MS
from lk_users.wire.aiortc_seam import BundledPeerConnection, PacketReceiver, SharedCertificate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiortc import MediaStreamTrack
    from aiortc.rtp import RtpPacket

    from lk_users.clock import Clock
    from lk_users.wire.datagrams import TickReader
    from lk_users.wire.turn import Turn

RELIABLE = "_reliable"
LOSSY = "_lossy"


class PeerListener(Protocol):
    """What a peer connection tells."""

    def media_up(self) -> None:
        """ICE and DTLS are up."""

    def media_down(self, state: str) -> None:
        """The connection failed or closed: ``failed`` or ``closed``."""

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
        self._clock = clock
        self._pc = BundledPeerConnection(addresses, certificate, clock, reader)
        self._publish = publish
        self._reliable: Any = None
        self._settled = self._can_wait = self._ended = False
        self._gather_ns: int | None = None
        self._tracks: dict[str, str] = {}
        self._pc.on("connectionstatechange", self._state_changed)
        self._pc.on("datachannel", self._channel_opened)

    def relay_through(self, turn: Turn) -> None:
        """Media shall go by this TURN server and no other way; before the first offer or answer."""
        self._pc.relay_through(
            RTCIceServer(urls=[turn.url], username=turn.username, credential=turn.credential)
        )

    async def offer(self) -> str:
        """The first offer of V1: data channels, and our own track where there is one. The server asks for
        sections to hear on when there is something to hear; one offered now it would not use."""
        # Audio first: aiortc bundles what comes later into it, and stops the transport of data channels
        # that were there before.
        if self._publish is not None:
            self._pc.addTransceiver(self._publish, direction="sendonly")
        self._reliable = self._pc.createDataChannel(RELIABLE, ordered=True)
        lossy = self._pc.createDataChannel(LOSSY, ordered=False, maxRetransmits=0)
        for channel in (self._reliable, lossy):
            channel.on("message", self._message)
        self._reliable.on("open", self._settle)
        return await self._local()

    async def offer_again(self, more_audios: int) -> str:
        """The offer that the server asks for when tracks come: with so many more audio sections."""
        for _ in range(more_audios):
            self._pc.addTransceiver("audio", direction="recvonly")
        return await self._local()

    async def offer_also(self, track: MediaStreamTrack) -> str:
        """The offer that publishes one more audio track."""
        self._pc.addTransceiver(track, direction="sendonly")
        return await self._local()

    async def accept(self, answer_sdp: str, tracks_by_mid: Mapping[str, str]) -> None:
        """The server's answer, and which track each section carries."""
        self._tracks.update(tracks_by_mid)
        await self._pc.setRemoteDescription(RTCSessionDescription(answer_sdp, "answer"))
        self._attach()

    async def answer(self, offer_sdp: str, tracks_by_mid: Mapping[str, str]) -> str:
        """Our answer to an offer of the server (the ``/rtc`` path)."""
        self._tracks.update(tracks_by_mid)
        await self._pc.setRemoteDescription(RTCSessionDescription(offer_sdp, "offer"))
        self._attach()
        return await self._local()

    async def add_candidate(self, candidate_init: str) -> None:
        """A trickled candidate, as the JSON of an RTCIceCandidateInit."""
        init = json.loads(candidate_init)
        if not init.get("candidate"):
            return
        candidate = candidate_from_sdp(init["candidate"].split(":", 1)[1])
        candidate.sdpMid = init.get("sdpMid")
        candidate.sdpMLineIndex = init.get("sdpMLineIndex")
        await self._pc.addIceCandidate(candidate)

    @property
    def can_send(self) -> bool:
        """Is the reliable data channel open?"""
        return self._reliable is not None and self._reliable.readyState == "open"

    def send(self, message: bytes) -> None:
        self._reliable.send(message)

    def can_wait(self, *, yes: bool) -> None:
        """Is there nobody to hear, so that what comes may be read up to a tick later? It is from when the
        connection's own round trips are over: ICE, DTLS and data channels."""
        self._can_wait = yes
        self._pc.can_wait(yes=yes and self._settled)

    @property
    def data_ns(self) -> int:
        """When what ``PeerListener.data`` is told now came, on the monotonic clock; 0: just now."""
        return self._pc.data_ns

    def deafen(self, track_sid: str) -> None:
        """What was listened for has been heard: count the track's packets, but read them no more."""
        for receiver in self._receivers(track_sid):
            self._pc.deafen(receiver)

    def hear(self, track_sid: str) -> None:
        """Read the track's packets again, if it was deafened."""
        for receiver in self._receivers(track_sid):
            self._pc.hear(receiver)
            receiver.on_packet = self._packet

    def reached_ns(self, track_sid: str) -> int:
        """When the track's first packet came to our socket, on the monotonic clock; 0 if none did. The server
        may send before its answer has told us which section carries the track: such packets are lost."""
        return max(map(self._pc.reached_ns, self._receivers(track_sid)), default=0)

    def local_ports(self) -> list[int]:
        """The UDP ports of our own candidates."""
        return [candidate.port for ice in self._pc.ice_connections() for candidate in ice.local_candidates]

    def ice(self) -> dict[str, Any]:
        """What is known of the way that media takes: candidate types, gathering and round trip in ms."""
        facts: dict[str, Any] = {}
        path = self._pc.path()
        if path is not None:
            facts = {"local": path.local, "remote": path.remote}
            if path.rtt_ns is not None:
                facts["rtt_ms"] = round(path.rtt_ns / NS_PER_MS, 2)
        if self._gather_ns is not None:
            facts["gather_ms"] = round(self._gather_ns / NS_PER_MS, 2)
        return facts

    async def close(self) -> None:
        """Idempotent."""
        self._ended = True
        await self._pc.close()

    async def _local(self) -> str:
        before_ns = self._clock.monotonic_ns()
        await self._pc.setLocalDescription()
        if self._gather_ns is None:
            self._gather_ns = self._clock.monotonic_ns() - before_ns
        return str(self._pc.localDescription.sdp)

    def _attach(self) -> None:
        ssrcs = self._pc.announced_ssrcs()
        for transceiver in self._pc.getTransceivers():
            receiver = transceiver.receiver
            if transceiver.kind == "audio" and isinstance(receiver, PacketReceiver):
                receiver.ssrcs = ssrcs.get(transceiver.mid or "", frozenset())
                receiver.track_sid = self._tracks.get(transceiver.mid or "", "")
                receiver.on_packet = self._packet

    def _receivers(self, track_sid: str) -> list[PacketReceiver]:
        found = (transceiver.receiver for transceiver in self._pc.getTransceivers())
        return [item for item in found if isinstance(item, PacketReceiver) and item.track_sid == track_sid]

    def _packet(self, receiver: PacketReceiver, packet: RtpPacket) -> None:
        self._listener.packet(receiver.track_sid, packet.payload, packet.timestamp)

    def _state_changed(self) -> None:
        if self._ended:
            return
        state = self._pc.connectionState
        if state == "connected":
            self._listener.media_up()
        elif state in ("failed", "closed"):
            self._listener.media_down(state)

    def _channel_opened(self, channel: Any) -> None:
        channel.on("message", self._message)
        if channel.label == RELIABLE:
            self._settle()

    def _settle(self) -> None:
        self._settled = True
        if not self._ended:
            self.can_wait(yes=self._can_wait)

    def _message(self, message: bytes | str) -> None:
        if isinstance(message, bytes):
            self._listener.data(message)
