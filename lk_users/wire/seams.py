"""Private parts of aiortc and aioice that we reach into, all in this one place.

Each has its reason here, a bound on the version in pyproject.toml, and a test in
``tests/integration/test_seams.py`` that fails when a new version moves it.

Receiver. aiortc decodes each track in a thread of its own. Hundreds of users would be hundreds of threads,
and under gevent a "thread" of patched ``threading`` would run as a greenlet inside our loop's thread. Our
receiver starts none and hands each RTP payload on, but keeps the bookkeeping for receiver reports: without
them the server's connection score for the user falls to POOR within half a minute. It sends them at the pace
of a browser: aiortc's own, one a second, were a quarter of what a user costs that only listens.

Certificate. aiortc makes a key and a TLS context for each connection and digests the certificate a dozen
times; one for all of a process's users costs the server nothing and us a millisecond less a session.

Demultiplexing. aioice tries every datagram as STUN first and takes the exception for a no. The first byte
tells (RFC 7983), and packets of a track that nobody listens to any more need no decryption: their headers,
which are in the clear, are all that the receiver reports want.

Addresses. aioice offers every address of the machine but never 127.0.0.1. A server on loopback needs just
that one, and it may be the only address there is.

Sockets. Our own instead of the loop's: a user who has nobody to hear yet can wait for what comes, and its
socket is read together with all others' (``datagrams``).

Ports. The kernel soon hands the UDP port of a closed connection to a new one. A server with one UDP port
(``rtc.udp_port``) may still route that address to the old connection, and the new one stalls. So a closed
session's socket stays bound, silent, until the server has forgotten it.

Relay. aiortc takes its TURN server when a connection is made, and LiveKit names it in the join response. So
it is told just before the first section, and what comes through it takes the same way as all else.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioice.candidate import Candidate, candidate_foundation, candidate_priority
from aioice.ice import CONSENT_FAILURES, CONSENT_INTERVAL, StunProtocol, get_host_addresses
from aioice.turn import UDP_SOCKET_BUFFER_SIZE
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCRtpReceiver,
)
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsFingerprint
from aiortc.rtcrtpreceiver import StreamStatistics
from aiortc.rtp import RtcpReceiverInfo, RtcpRrPacket

from lk_users.clock import NS_PER_S
from lk_users.wire.datagrams import Datagrams, TickReader
from lk_users.wire.keepalive import (
    TRANSACTION_BYTES,
    answer,
    check,
    check_attributes,
    confirms,
    is_request,
    is_response,
)
from lk_users.wire.microphone import Microphone, SilentSender
from lk_users.wire.ticks import sleep_about

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioice.ice import Connection
    from aiortc import RTCIceServer, RTCRtpTransceiver
    from aiortc.rtp import RtpPacket

    from lk_users.clock import Clock

# A server drops a participant that left at once, and its ICE agent's own timers are 5 s and 10 s.
PORT_QUARANTINE_S = 15.0
# The first check after the join, and one that is beside the rush of hundreds: their round trips are told.
CHECKS_READ_AT_ONCE = 2
# RFC 7983: first bytes 0-3 are STUN, 20-63 DTLS, 128-191 RTP and RTCP, which RFC 5761 tells apart.
FIRST_DTLS = b"\x14"
FIRST_RTP = b"\x80"
RTCP_KINDS = (192, 223)
RTP_HEADER = struct.Struct("!xBHII")
# RFC 3550, 6.2, and libwebrtc's for audio; each is from half to one and a half times as long (6.3.1).
REPORT_INTERVAL_S = 5.0
# A delay since the last sender report has 32 bits, in units of 1/65536 s.
REPORT_UNITS_PER_S = 1 << 16


def host_addresses(*, loopback: bool) -> tuple[str, ...]:
    """The addresses to offer to a server: 127.0.0.1 to one on loopback, else all but that."""
    return ("127.0.0.1",) if loopback else tuple(get_host_addresses(use_ipv4=True, use_ipv6=True))


def quiet_logs() -> None:
    """Turn off the libraries' logs: aioice logs every candidate pair, and a log call takes a lock that
    gevent patched, which must not be waited for in a native thread."""
    for name in ("aioice", "aioice.ice", "aiortc"):
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

    rtp: _Rtp
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

    def streams(self) -> dict[int, _Stream]:
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

    def _report(self, ssrc: int, stream: _Stream) -> RtcpReceiverInfo:
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
            streams[packet.ssrc] = _Stream(codec.clockRate)
        streams[packet.ssrc].add(packet)
        if self.on_packet is not None and packet.payload and packet.ssrc in (self.ssrcs or (packet.ssrc,)):
            self.on_packet(self, packet)


@dataclass(frozen=True)
class IcePath:
    """The candidate pair in use, by type (``host``, ``srflx``, ``prflx``, ``relay``)."""

    local: str
    remote: str
    rtt_ns: int | None
    """Smallest round trip of our own checks on it; None before the first answer."""


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
        self._rtp = _Rtp(clock)
        self._sockets = _Sockets(reader, self._rtp)

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
                chosen: Any = getattr(connection, "lk_addresses", None)
                rtt_ns = chosen.rtt_ns if isinstance(chosen, _Chosen) else None
                return IcePath(pair.local_candidate.type, pair.remote_candidate.type, rtt_ns)
        return None

    def announced_ssrcs(self) -> dict[str, frozenset[int]]:
        """The streams of each section of the other side's last description, by mid."""
        remote = self._RTCPeerConnection__remoteDescription()  # type: ignore[attr-defined]
        media = remote.media if remote is not None else []
        return {item.rtp.muxId: frozenset(one.ssrc for one in item.ssrc) for item in media}

    def can_wait(self, *, yes: bool) -> None:
        """May what comes be read up to a tick later, once round trips have been measured?"""
        self._sockets.can_wait(yes=yes)

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
        return [
            transport.iceGatherer._connection
            for transport in self._RTCPeerConnection__iceTransports  # type: ignore[attr-defined]
        ]

    def _prepare_transports(self) -> None:
        for connection in self.ice_connections():
            if not isinstance(getattr(connection, "lk_addresses", None), _Chosen):
                connection.lk_addresses = _Chosen(connection, self._host_addresses, self._rtp, self._sockets)  # type: ignore[attr-defined]


class _Rtp:
    """What one connection knows of incoming RTP by its headers, which are in the clear; by SSRC."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.timed = True
        """Is it read when it comes?"""
        self.deaf: dict[int, _Stream] = {}
        self.reached_ns: dict[int, int] = {}


class _Sockets:
    """The UDP sockets of one connection's host candidates."""

    def __init__(self, reader: TickReader | None, rtp: _Rtp) -> None:
        self._reader = reader
        self._rtp = rtp
        self._open: list[Datagrams] = []
        self._measured = self._can_wait = False

    def open(self, address: str) -> Datagrams:
        opened = Datagrams(address, UDP_SOCKET_BUFFER_SIZE, self._reader)
        self._open.append(opened)
        return opened

    def measured(self) -> None:
        """Round trips are known: from now on, what comes is read by tick if it may be."""
        self._measured = True
        self._pace()

    def can_wait(self, *, yes: bool) -> None:
        """May what comes be read up to a tick later?"""
        self._can_wait = yes
        self._pace()

    def _pace(self) -> None:
        for each in self._open:
            each.pace(by_tick=self._measured and self._can_wait)
        self._rtp.timed = not any(each.by_tick for each in self._open)


class _Chosen:
    """Replaces one ICE connection's gathering: our addresses, and sockets of our own."""

    def __init__(
        self, connection: Connection, addresses: Sequence[str], rtp: _Rtp, sockets: _Sockets
    ) -> None:
        self._connection = connection
        self._addresses = addresses
        self._rtp = rtp
        self._sockets = sockets
        self._asked = self._confirmed = b""
        self._asked_ns = 0
        self.rtt_ns: int | None = None
        connection.gather_candidates = self.gather  # type: ignore[method-assign]
        connection.query_consent = self.keep_consent  # type: ignore[method-assign]

    async def gather(self) -> None:
        """As aioice's own for the policy ALL, without asking the system for its addresses each time."""
        connection = self._connection
        if connection._local_candidates_start:
            return
        connection._local_candidates_start = True
        for component in sorted(connection._components):
            for address in self._addresses:
                # An address that went away since is no candidate.
                with contextlib.suppress(OSError):
                    self._open(component, address)
            connection._local_candidates += await connection.get_component_candidates(component, [])
        connection._local_candidates_end = True
        for protocol in connection._protocols:
            if protocol.local_candidate.type == "relay":
                relay: Any = protocol.transport
                relay._TurnTransport__inner_protocol.receiver = _Demux(protocol, self._rtp, self.confirm)

    def _open(self, component: int, address: str) -> None:
        """A host candidate, its socket read by ourselves."""
        connection = self._connection
        transport = self._sockets.open(address)
        host, port = transport.get_extra_info("sockname")[:2]
        protocol = StunProtocol(connection)
        protocol.connection_made(transport)
        protocol.close = _Quarantine(protocol, transport).close  # type: ignore[method-assign]
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", host),
            component=component,
            transport="udp",
            priority=candidate_priority(component, "host"),
            host=host,
            port=port,
            type="host",
        )
        transport.set_protocol(_Demux(protocol, self._rtp, self.confirm))
        connection._protocols.append(protocol)
        connection._local_candidates.append(protocol.local_candidate)

    async def keep_consent(self) -> None:
        """As aioice's own (RFC 7675), without a transaction of timers for each check: an answer counts
        until the next one is due. Ends the connection after as many failures. The first check goes out at
        once: it measures the round trip."""
        connection = self._connection
        failures = 0
        for number in itertools.count(1):
            self._ask()
            await sleep_about(CONSENT_INTERVAL * (0.8 + 0.4 * random.random()))
            failures = 0 if self._confirmed == self._asked else failures + 1
            if number >= CHECKS_READ_AT_ONCE:
                self._sockets.measured()
            if failures >= CONSENT_FAILURES:
                connection._query_consent_task = None
                await connection.close()
                return

    def _ask(self) -> None:
        connection = self._connection
        assert connection.remote_password is not None
        password = connection.remote_password.encode()
        username = f"{connection.remote_username}:{connection.local_username}"
        self._asked = os.urandom(TRANSACTION_BYTES)
        for pair in connection._nominated.values():
            priority = candidate_priority(pair.component, "prflx")
            attributes = check_attributes(
                username, priority, connection._tie_breaker, controlling=connection.ice_controlling
            )
            request = check(self._asked, attributes, password)
            self._asked_ns = self._rtp.clock.monotonic_ns()
            pair.protocol.transport.sendto(request, pair.remote_addr)

    def confirm(self, data: bytes) -> bool:
        """Is it the answer to our last check?"""
        password = self._connection.remote_password
        if not self._asked or password is None or not confirms(data, self._asked, password.encode()):
            return False
        if self._confirmed != self._asked:
            self._confirmed = self._asked
            if not self._rtp.timed:
                return True
            rtt_ns = self._rtp.clock.monotonic_ns() - self._asked_ns
            self.rtt_ns = rtt_ns if self.rtt_ns is None else min(self.rtt_ns, rtt_ns)
        return True


class _Stream(StreamStatistics):
    """What receiver reports say of one stream."""

    def count(self, sequence_number: int, timestamp: int, *, timed: bool) -> None:
        """A packet by its header. Its jitter counts only if it was read when it came (``timed``)."""
        self.add(_Header(sequence_number, timestamp if timed else self._last_timestamp))  # type: ignore[arg-type]
        if self.max_seq == sequence_number:
            self._last_timestamp = timestamp


class _Header:
    """What receiver statistics want of an RTP packet."""

    __slots__ = ("sequence_number", "timestamp")

    def __init__(self, sequence_number: int, timestamp: int | None) -> None:
        self.sequence_number = sequence_number
        self.timestamp = timestamp


class _Demux(asyncio.DatagramProtocol):
    """Sorts a socket's datagrams by their first byte: STUN to aioice, SRTP and DTLS to the connection."""

    def __init__(self, protocol: Any, rtp: _Rtp, confirm: Callable[[bytes], bool]) -> None:
        self._protocol = protocol
        self._rtp = rtp
        self._confirm = confirm

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if data[:1] < FIRST_DTLS:
            if not self._kept_alive(data, addr):
                self._protocol.datagram_received(data, addr)
            return
        if data[:1] >= FIRST_RTP and len(data) >= RTP_HEADER.size:
            kind, sequence_number, timestamp, ssrc = RTP_HEADER.unpack_from(data)
            if not RTCP_KINDS[0] <= kind <= RTCP_KINDS[1]:
                rtp = self._rtp
                stream = rtp.deaf.get(ssrc)
                if stream is not None:
                    stream.count(sequence_number, timestamp, timed=rtp.timed)
                    return
                if ssrc not in rtp.reached_ns:
                    rtp.reached_ns[ssrc] = rtp.clock.monotonic_ns()
        protocol = self._protocol
        protocol.receiver.data_received(data, protocol.local_candidate.component)

    def _kept_alive(self, data: bytes, addr: tuple[Any, ...]) -> bool:
        """Was it a check on the connection that is up, and done with?"""
        if is_request(data):
            return self._answered(data, addr)
        return is_response(data) and self._confirm(data)

    def _answered(self, data: bytes, addr: tuple[Any, ...]) -> bool:
        """Did a check of the very pair that carries our data get its answer from us?"""
        protocol = self._protocol
        connection = protocol.receiver
        pair = connection._nominated.get(protocol.local_candidate.component)
        if pair is None or pair.protocol is not protocol or pair.remote_addr != (addr[0], addr[1]):
            return False
        response = answer(data, connection.local_password.encode(), (addr[0], addr[1]))
        if response is not None:
            protocol.transport.sendto(response, addr)
        return response is not None

    def error_received(self, exc: Exception) -> None:
        self._protocol.error_received(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)


class _Quarantine:
    """Closes a UDP socket late, so that its port is not used again while a server may remember it."""

    def __init__(self, protocol: Any, transport: Datagrams) -> None:
        self._protocol = protocol
        self._transport = transport

    async def close(self) -> None:
        self._transport.hush()
        asyncio.get_running_loop().call_later(PORT_QUARANTINE_S, self._transport.close)
        self._protocol.connection_lost(None)
