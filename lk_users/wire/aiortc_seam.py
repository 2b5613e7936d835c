"""Private parts of aiortc that we reach into, all in this one place.

Each has its reason here, a bound on the version in pyproject.toml, and a test in
``tests/integration/test_seams.py`` that fails when a new version moves it.

Transports. aiortc's own ICE, DTLS and SCTP, one on top of the other, are told their roles by its peer
connection, which we do without (``connection``).

Receiver. aiortc's decodes each track in a thread of its own. Hundreds of users would be hundreds of threads,
and under gevent a "thread" of patched ``threading`` would run as a greenlet inside our loop's thread. Ours
hands each RTP payload on, and makes the receiver reports: without them the server's connection score for the
user falls to POOR within half a minute. It sends them at the pace of a browser: aiortc's own, one a second,
were a quarter of what a user costs that only listens.

Certificate. aiortc makes a TLS context for each connection and digests the certificate a dozen times; one for
all of a process's users costs the server nothing and us a millisecond less a session.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from typing import TYPE_CHECKING, Any

from aiortc import RTCIceServer, RTCIceTransportPolicy, RTCRtpSender
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsFingerprint, RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceGatherer, RTCIceTransport
from aiortc.rtcsctptransport import RTCSctpTransport
from aiortc.rtp import RtcpReceiverInfo, RtcpRrPacket, RtcpSrPacket

from lk_users.clock import NS_PER_S
from lk_users.wire.aioice_seam import COMPONENT, IcePath, OwnIce, Sockets
from lk_users.wire.rtp import OPUS_RATE_HZ, Rtp, Stream
from lk_users.wire.ticks import sleep_about

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aiortc.rtcrtpparameters import RTCRtpReceiveParameters
    from aiortc.rtp import AnyRtcpPacket, RtpPacket

# RFC 3550, 6.2, and libwebrtc's for audio; each is from half to one and a half times as long (6.3.1).
REPORT_INTERVAL_S = 5.0
# A delay since the last sender report has 32 bits, in units of 1/65536 s.
REPORT_UNITS_PER_S = 1 << 16
# RFC 8445, 5.3, asks for 24 and 128 bits at least.
USERNAME_BYTES = 4
PASSWORD_BYTES = 16


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


class PacketReceiver:
    """Hears one section: hands each payload on, decodes nothing, and reports what arrived.

    ``track_sid``: the server's name of the track. ``ssrcs``: the streams that it announced for the section;
    none if any will do.
    """

    def __init__(self, transport: RTCDtlsTransport, rtp: Rtp) -> None:
        self.track_sid = ""
        self.ssrcs: frozenset[int] = frozenset()
        self.on_packet: Callable[[PacketReceiver, RtpPacket], None] | None = None
        self.streams: dict[int, Stream] = {}
        """The statistics that reports are made of, by SSRC."""
        self._transport = transport
        self._rtp = rtp
        self._own_ssrc = random.getrandbits(32)
        self._spoke: dict[int, tuple[int, int]] = {}
        """Of each SSRC's last sender report the middle of its time, and when it came by our wall clock."""
        self._reporting: asyncio.Task[None] | None = None

    def announced(self, ssrcs: Iterable[int]) -> None:
        """What its section carries from now on. A server uses a section again when its track has gone."""
        self.ssrcs = frozenset(ssrcs)
        if self.ssrcs:
            for gone in self.streams.keys() - self.ssrcs:
                del self.streams[gone]

    def receive(self, parameters: RTCRtpReceiveParameters) -> None:
        """What has these streams is ours, from now on."""
        self._transport._register_rtp_receiver(self, parameters)
        if self._reporting is None:
            self._reporting = asyncio.get_running_loop().create_task(self._report_for_ever())

    def stop(self) -> None:
        if self._reporting is not None:
            self._reporting.cancel()
            self._transport._unregister_rtp_receiver(self)

    async def _report_for_ever(self) -> None:
        while True:
            await sleep_about(REPORT_INTERVAL_S * (0.5 + random.random()))
            reports = [self._report(ssrc, stream) for ssrc, stream in self.streams.items()]
            if reports:
                try:
                    await self._transport._send_rtp(bytes(RtcpRrPacket(self._own_ssrc, reports)))
                except ConnectionError:
                    # Who owns the connection learns of it by itself.
                    return

    def _report(self, ssrc: int, stream: Stream) -> RtcpReceiverInfo:
        """On one stream, since the last report."""
        assert stream.max_seq is not None
        # Of a sender report that was read late, the other side would make a round trip that is too long.
        middle, heard_ns = self._spoke.get(ssrc, (0, 0)) if self._rtp.timed else (0, 0)
        since_s = (self._rtp.clock.wall_ns() - heard_ns) / NS_PER_S if heard_ns else 0.0
        return RtcpReceiverInfo(
            ssrc=ssrc,
            fraction_lost=stream.fraction_lost,
            packets_lost=stream.packets_lost,
            highest_sequence=stream.max_seq,
            jitter=stream.jitter,
            lsr=middle,
            dlsr=int(since_s * REPORT_UNITS_PER_S) if 0 < since_s < REPORT_UNITS_PER_S else 0,
        )

    # What aiortc's transport calls.

    async def _handle_rtp_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        """There are no NACKs for audio, and nothing is put in order for a decoder that is not there.

        While there is but one section, aiortc's router gives it whatever stream it does not know yet, and a
        second track's packets can come before the answer that announces it.
        """
        stream = self.streams.get(packet.ssrc)
        if stream is None:
            stream = self.streams[packet.ssrc] = Stream(OPUS_RATE_HZ)
        stream.add(packet)
        if self.on_packet is not None and packet.payload and packet.ssrc in (self.ssrcs or (packet.ssrc,)):
            self.on_packet(self, packet)

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpSrPacket):
            middle = packet.sender_info.ntp_timestamp >> 16 & 0xFFFFFFFF
            self._spoke[packet.ssrc] = (middle, self._rtp.clock.wall_ns())

    def _handle_disconnect(self) -> None:
        """The connection's owner learns of it by itself."""


class Transports:
    """What carries a connection: ICE, DTLS and SCTP.

    ``relay``: the TURN server that media shall go by, and no other way; ``addresses``: the host addresses to
    offer, where there is none. ``changed`` is told when ICE or DTLS have another state.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        relay: RTCIceServer | None,
        certificate: SharedCertificate,
        rtp: Rtp,
        sockets: Sockets,
        changed: Callable[[], None],
    ) -> None:
        # An empty list, not None: aiortc's default is a public STUN server. Names and passwords of aioice's
        # own take it a hundred microseconds.
        self._clock = rtp.clock
        self.gather_ns: int | None = None
        """How long our candidates took; None before they are there."""
        self._gatherer = RTCIceGatherer(
            [] if relay is None else [relay],
            RTCIceTransportPolicy.ALL if relay is None else RTCIceTransportPolicy.RELAY,
            local_username=secrets.token_hex(USERNAME_BYTES),
            local_password=secrets.token_hex(PASSWORD_BYTES),
        )
        self._connection = self._gatherer._connection
        self.ice = RTCIceTransport(self._gatherer)
        self.dtls = RTCDtlsTransport(self.ice, [certificate])
        self.sctp = RTCSctpTransport(self.dtls)
        self.own = OwnIce(self._connection, () if relay else addresses, rtp, sockets)
        self.ice._recv = self.own.receive
        self.ice.on("statechange", changed)
        self.dtls.on("statechange", changed)

    def control(self, *, yes: bool) -> None:
        """Do we nominate? To be said before the other side can send its first check: it is refused if both
        say the same."""
        self._connection.ice_controlling = yes

    def serve(self, *, yes: bool) -> None:
        """Do we wait for the first flight of DTLS? Before it starts."""
        self.dtls._set_role("server" if yes else "client")

    @property
    def serves(self) -> bool:
        return self.dtls._role == "server"

    async def gather(self) -> None:
        """Our candidates. Idempotent."""
        before_ns = self._clock.monotonic_ns()
        await self._gatherer.gather()
        if self.gather_ns is None:
            self.gather_ns = self._clock.monotonic_ns() - before_ns

    @property
    def username(self) -> str:
        return self._connection.local_username

    @property
    def password(self) -> str:
        return self._connection.local_password

    def candidates(self) -> tuple[str, ...]:
        """Ours, as descriptions have them."""
        return tuple(candidate.to_sdp() for candidate in self._connection.local_candidates)

    def ports(self) -> list[int]:
        """The UDP ports of our candidates."""
        return [candidate.port for candidate in self._connection.local_candidates]

    def path(self) -> IcePath | None:
        """The way that media takes; None as long as there is none."""
        pair = self._connection._nominated.get(COMPONENT)
        if pair is None:
            return None
        return IcePath(pair.local_candidate.type, pair.remote_candidate.type, self.own.rtt_ns)


def ssrc_of(sender: RTCRtpSender) -> int:
    """The stream that it sends."""
    return sender._ssrc
