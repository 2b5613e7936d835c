"""Private parts of aiortc that we reach into, all in this one place.

Each has its reason here, a bound on the version in pyproject.toml, and a test in
``tests/integration/test_seams.py`` that fails when a new version moves it.

Receiver. aiortc decodes each track in a thread of its own. Hundreds of users would be hundreds of threads,
and under gevent a "thread" of patched ``threading`` would run as a greenlet inside our loop's thread. Our
receiver starts none and hands each RTP payload on, but keeps the bookkeeping for receiver reports: without
them the server's connection score for the user falls to POOR within half a minute. It sends them at the pace
of a browser: aiortc's own, one a second, were a quarter of what a user costs that only listens.

Certificate. aiortc makes a key and a TLS context for each connection and digests the certificate a dozen
times; one for all of a process's users costs the server nothing and us a millisecond less a session.

Codecs. aiortc offers four for each audio section, of which LiveKit has one. Without the other three each
offer and answer is shorter, and to write, read and compare them is what a section costs.

Relay. aiortc takes its TURN server when a connection is made, and LiveKit names it in the join response. So
it is told just before the first section, and what comes through it takes the same way as all else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING, Any

from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCRtpCodecCapability,
    RTCRtpReceiver,
)
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsFingerprint
from aiortc.rtp import RtcpReceiverInfo, RtcpRrPacket

from lk_users.clock import NS_PER_S
from lk_users.wire.aioice_seam import IcePath, OwnIce, Sockets
from lk_users.wire.microphone import Microphone, SilentSender
from lk_users.wire.rtp import Rtp, Stream
from lk_users.wire.ticks import sleep_about

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioice.ice import Connection
    from aiortc import RTCIceServer, RTCRtpTransceiver
    from aiortc.rtp import RtpPacket

    from lk_users.clock import Clock
    from lk_users.wire.datagrams import TickReader

# RFC 3550, 6.2, and libwebrtc's for audio; each is from half to one and a half times as long (6.3.1).
REPORT_INTERVAL_S = 5.0
OPUS = RTCRtpCodecCapability(mimeType="audio/opus", clockRate=48_000, channels=2)
# A delay since the last sender report has 32 bits, in units of 1/65536 s.
REPORT_UNITS_PER_S = 1 << 16


def quiet_logs() -> None:
    """Turn off the libraries' logs: aioice logs every candidate pair, and a log call takes a lock that
    gevent patched, which must not be waited for in a native thread."""
    for name in ("aioice", "aioice.ice", "aiortc", "websockets.client"):
        logging.getLogger(name).disabled = True
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("aioice", "aiortc")):
            logging.getLogger(name).disabled = True


class SharedCertificate(RTCCertificate):
    """One certificate for all connections of a process, its digests and TLS context made once."""

    _fingerprints: list[RTCDtlsFingerprint] | None = None
    _context: Any = None

    def getFingerprints(self) -> list[RTCDtlsFingerprint]:  # noqa: N802
        if self._fingerprints is None:
            self._fingerprints = super().getFingerprints()
        return self._fingerprints

    def _create_ssl_context(self, srtp_profiles: Any) -> Any:
        if self._context is None:
            self._context = super()._create_ssl_context(srtp_profiles)
        return self._context


class PacketReceiver(RTCRtpReceiver):
    """A receiver that decodes nothing and hands on what came."""

    rtp: Rtp
    on_packet: Callable[[PacketReceiver, RtpPacket], None] | None = None
    track_sid: str = ""
    ssrcs: frozenset[int] = frozenset()
    """The streams that the server announced for this section; empty: it announced none, and any will do."""

    async def receive(self, parameters: Any) -> None:
        """As aiortc's own, without its decoder thread."""
        private: Any = self
        if private._RTCRtpReceiver__started:
            return
        for codec in parameters.codecs:
            private._RTCRtpReceiver__codecs[codec.payloadType] = codec
        for encoding in parameters.encodings:
            if encoding.rtx:
                private._RTCRtpReceiver__rtx_ssrc[encoding.rtx.ssrc] = encoding.ssrc
        private._RTCRtpReceiver__transport._register_rtp_receiver(self, parameters)
        private._RTCRtpReceiver__rtcp_task = asyncio.ensure_future(self._run_rtcp())
        private._RTCRtpReceiver__started = True

    def streams(self) -> dict[int, Stream]:
        """The statistics that receiver reports are made of, by SSRC."""
        private: Any = self
        return private._RTCRtpReceiver__remote_streams  # type: ignore[no-any-return]

    async def _run_rtcp(self) -> None:
        """As aiortc's own, less often."""
        private: Any = self
        private._RTCRtpReceiver__rtcp_started.set()
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await sleep_about(REPORT_INTERVAL_S * (0.5 + random.random()))
                reports = [self._report(ssrc, stream) for ssrc, stream in self.streams().items()]
                if reports:
                    await self._send_rtcp(RtcpRrPacket(private._RTCRtpReceiver__rtcp_ssrc, reports))
        private._RTCRtpReceiver__rtcp_exited.set()

    def _report(self, ssrc: int, stream: Stream) -> RtcpReceiverInfo:
        """On one stream, since the last report."""
        assert stream.max_seq is not None
        private: Any = self
        # Of a sender report that was read late, the other side would make a round trip that is too long.
        heard_s = private._RTCRtpReceiver__lsr_time.get(ssrc) if self.rtp.timed else None
        since_s = self.rtp.clock.wall_ns() / NS_PER_S - heard_s if heard_s is not None else 0.0
        return RtcpReceiverInfo(
            ssrc=ssrc,
            fraction_lost=stream.fraction_lost,
            packets_lost=stream.packets_lost,
            highest_sequence=stream.max_seq,
            jitter=stream.jitter,
            lsr=private._RTCRtpReceiver__lsr[ssrc] if heard_s is not None else 0,
            dlsr=int(since_s * REPORT_UNITS_PER_S) if 0 < since_s < REPORT_UNITS_PER_S else 0,
        )

    async def _handle_rtp_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        """As aiortc's own for audio, as far as the server sees it: statistics for receiver reports. There
        are no NACKs for audio, and nothing is put in order for a decoder that is not there.

        While there is but one section, aiortc's router gives it whatever stream it does not know yet, and a
        second track's packets can come before the answer that announces it.
        """
        private: Any = self
        codec = private._RTCRtpReceiver__codecs.get(packet.payload_type)
        if codec is None:
            return
        streams = self.streams()
        if packet.ssrc not in streams:
            streams[packet.ssrc] = Stream(codec.clockRate)
        streams[packet.ssrc].add(packet)
        if self.on_packet is not None and packet.payload and packet.ssrc in (self.ssrcs or (packet.ssrc,)):
            self.on_packet(self, packet)


class BundledPeerConnection(RTCPeerConnection):
    """An aiortc peer connection with our receivers, one transport and chosen host addresses.

    ``addresses``: the host addresses to offer. ``reader``: reads its sockets while they can wait.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        certificate: SharedCertificate,
        clock: Clock,
        reader: TickReader | None = None,
    ) -> None:
        # An empty list, not None: aiortc's default is a public STUN server.
        super().__init__(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self._RTCPeerConnection__certificates = [certificate]
        self._host_addresses = tuple(addresses)
        self._rtp = Rtp(clock)
        self._sockets = Sockets(reader, self._rtp)

    def relay_through(self, turn: RTCIceServer) -> None:
        """Offer nothing but an address of this TURN server; before the first section."""
        configuration: RTCConfiguration = self._RTCPeerConnection__configuration  # type: ignore[attr-defined]
        configuration.iceServers = [turn]
        configuration.iceTransportPolicy = RTCIceTransportPolicy.RELAY
        self._host_addresses = ()

    def path(self) -> IcePath | None:
        """The way that media takes; None as long as there is none."""
        for connection in self.ice_connections():
            for pair in connection._nominated.values():
                chosen: Any = getattr(connection, "lk_ice", None)
                rtt_ns = chosen.rtt_ns if isinstance(chosen, OwnIce) else None
                return IcePath(pair.local_candidate.type, pair.remote_candidate.type, rtt_ns)
        return None

    def announced_ssrcs(self) -> dict[str, frozenset[int]]:
        """The streams of each section of the other side's last description, by mid."""
        remote = self._RTCPeerConnection__remoteDescription()  # type: ignore[attr-defined]
        media = remote.media if remote is not None else []
        return {item.rtp.muxId: frozenset(one.ssrc for one in item.ssrc) for item in media}

    def can_wait(self, *, yes: bool) -> None:
        """May what comes be read up to a tick later?"""
        self._sockets.can_wait(yes=yes)

    @property
    def data_ns(self) -> int:
        """When what a data channel tells now came, on the monotonic clock; 0: just now."""
        return self._sockets.data_ns

    def deafen(self, receiver: PacketReceiver) -> None:
        """Nobody listens to its track any more: the packets are only counted."""
        receiver.on_packet = None
        self._rtp.deaf.update(receiver.streams())

    def hear(self, receiver: PacketReceiver) -> None:
        """Listen to its track again; ``on_packet`` is the caller's to set."""
        for ssrc in receiver.streams():
            self._rtp.deaf.pop(ssrc, None)

    def reached_ns(self, receiver: PacketReceiver) -> int:
        """When its track's first packet came to our socket, be it before we knew which section it is of; on
        the monotonic clock, 0 if none did."""
        return min((self._rtp.reached_ns.get(ssrc, 0) for ssrc in receiver.streams()), default=0)

    def _RTCPeerConnection__createTransceiver(  # noqa: N802
        self, direction: str, kind: str, sender_track: Any = None
    ) -> RTCRtpTransceiver:
        transceiver = super()._RTCPeerConnection__createTransceiver(direction, kind, sender_track)  # type: ignore[misc]
        receiver = PacketReceiver(kind, transceiver.receiver.transport)
        receiver.rtp = self._rtp
        receiver._set_rtcp_ssrc(transceiver.sender._ssrc)
        transceiver._RTCRtpTransceiver__receiver = receiver
        transceiver._preferred_codecs = [OPUS]
        if isinstance(sender_track, Microphone):
            transceiver._RTCRtpTransceiver__sender = SilentSender(sender_track, transceiver.sender)
        self._prepare_transports()
        return transceiver  # type: ignore[no-any-return]

    def createDataChannel(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        channel = super().createDataChannel(*args, **kwargs)
        self._prepare_transports()
        return channel

    async def setRemoteDescription(self, description: Any) -> None:  # noqa: N802
        await super().setRemoteDescription(description)
        self._prepare_transports()

    def ice_connections(self) -> list[Connection]:
        return [transport.iceGatherer._connection for transport in self._ice_transports()]

    def _ice_transports(self) -> set[Any]:
        return self._RTCPeerConnection__iceTransports  # type: ignore[attr-defined,no-any-return]

    def _prepare_transports(self) -> None:
        for transport in self._ice_transports():
            connection = transport.iceGatherer._connection
            if not isinstance(getattr(connection, "lk_ice", None), OwnIce):
                connection.lk_ice = OwnIce(connection, self._host_addresses, self._rtp, self._sockets)
                transport._recv = connection.lk_ice.receive
