"""Fails when aiortc or aioice move what ``wire/aiortc_seam.py`` and ``wire/aioice_seam.py`` reach into."""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import inspect
import itertools
import re
import selectors
import threading
import time
import tomllib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aioice.ice
import aiortc.rtcdtlstransport
import pytest
from aioice import stun
from aioice.turn import TurnClientUdpProtocol, TurnTransport
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceGatherer, RTCIceTransport
from aiortc.rtcrtpreceiver import StreamStatistics
from aiortc.rtcsctptransport import RTCSctpTransport
from aiortc.rtp import RtcpReceiverInfo, RtcpRrPacket, RtpPacket
from av import Packet
from loopback import LOOPBACK, is_bound, until

from lk_users.clock import NS_PER_MS, SystemClock
from lk_users.wire import aioice_seam, aiortc_seam
from lk_users.wire.aiortc_seam import PacketReceiver, SharedCertificate
from lk_users.wire.connection import OPUS_PAYLOAD_TYPE
from lk_users.wire.datagrams import Datagrams, TickReader
from lk_users.wire.keepalive import Checks
from lk_users.wire.microphone import SILENCE, Microphone, Microphones
from lk_users.wire.peer import GOODBYE_S, Peer
from lk_users.wire.ticks import TICK_MS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

REPOSITORY = Path(__file__).parents[2]
PAYLOAD = b"\xfc\x00an opus packet"


# Where things are.


@pytest.mark.parametrize("package", ["aiortc", "aioice"])
def test_the_installed_version_lies_within_our_bounds(package: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (bounds,) = [text for text in project["dependencies"] if re.match(rf"{package}[<>=]", text)]
    least, below = re.findall(r"[<>]=?([\d.]+)", bounds)
    numbers = [
        tuple(map(int, text.split(".")[:2])) for text in (least, importlib.metadata.version(package), below)
    ]
    assert numbers[0] <= numbers[1] < numbers[2]


@pytest.mark.parametrize(
    ("call", "parameters"),
    [
        (RTCRtpSender.send, "self parameters"),
        (RTCRtpSender.stop, "self"),
        (RTCRtpSender._send_rtcp, "self packets"),
        (RTCRtpSender._handle_rtcp_packet, "self packet"),
        (RTCDtlsTransport._register_rtp_sender, "self sender parameters"),
        (RTCDtlsTransport._unregister_rtp_sender, "self sender"),
        (RTCDtlsTransport._send_rtp, "self data"),
        (RTCRtpSender.__init__, "self trackOrKind transport"),
        (RTCRtpReceiver._handle_rtp_packet, "self packet arrival_time_ms"),
        (RTCRtpReceiver._handle_rtcp_packet, "self packet"),
        (RTCRtpReceiver._handle_disconnect, "self"),
        (RTCDtlsTransport.__init__, "self transport certificates"),
        (RTCDtlsTransport._set_role, "self role"),
        (RTCDtlsTransport._register_rtp_receiver, "self receiver parameters"),
        (RTCDtlsTransport._unregister_rtp_receiver, "self receiver"),
        (RTCSctpTransport.__init__, "self transport port"),
        (RTCSctpTransport.start, "self remoteCaps remotePort"),
        (RTCIceGatherer.__init__, "self iceServers iceTransportPolicy local_username local_password"),
        (RTCIceTransport.start, "self remoteParameters"),
        (RTCIceTransport.addRemoteCandidate, "self candidate"),
        (RTCCertificate._create_ssl_context, "self srtp_profiles"),
        (RTCCertificate.getFingerprints, "self"),
        (aioice.ice.Connection.get_component_candidates, "self component addresses timeout"),
        (aioice.ice.Connection.gather_candidates, "self"),
        (aioice.ice.Connection.query_consent, "self"),
        (aioice.ice.Connection.close, "self"),
        (aioice.candidate.candidate_priority, "candidate_component candidate_type local_pref"),
        (aioice.candidate.candidate_foundation, "candidate_type candidate_transport base_address"),
        (aioice.ice.get_host_addresses, "use_ipv4 use_ipv6"),
        (aioice.ice.StunProtocol.__init__, "self receiver"),
        (aioice.ice.StunProtocol.connection_made, "self transport"),
        (aioice.ice.StunProtocol.close, "self"),
        (aioice.ice.StunProtocol.datagram_received, "self data addr"),
        (aioice.ice.StunProtocol.error_received, "self exc"),
        (aioice.ice.StunProtocol.connection_lost, "self exc"),
        (aioice.ice.Connection.data_received, "self data component"),
        (StreamStatistics.__init__, "self clockrate"),
        (StreamStatistics.add, "self packet"),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_private_calls_are_what_they_were(call: Callable[..., Any], parameters: str) -> None:
    assert " ".join(inspect.signature(call).parameters) == parameters


def test_private_attributes_are_where_they_were() -> None:
    asyncio.run(look_into_a_connection())


async def look_into_a_connection() -> None:
    ice = RTCIceTransport(RTCIceGatherer(iceServers=[]))
    dtls = RTCDtlsTransport(ice, [RTCCertificate.generateCertificate()])
    assert isinstance(RTCRtpSender("audio", dtls)._ssrc, int)
    assert (dtls._role, ice.state, dtls.state) == ("auto", "new", "new")
    connection = ice.iceGatherer._connection
    assert connection.ice_controlling is False
    assert (connection._protocols, connection._local_candidates, connection._nominated) == ([], [], {})
    assert (connection._local_candidates_start, connection._local_candidates_end) == (False, False)
    assert connection._components == {1}
    assert isinstance(connection._queue, asyncio.Queue)
    assert ice._recv == connection.recv
    assert (connection._query_consent_task, connection.remote_password) == (None, None)
    assert isinstance(connection._tie_breaker, int)
    assert (aioice.ice.CONSENT_FAILURES, aioice.ice.CONSENT_INTERVAL) == (6, 5)
    await ice.stop()
    relay = TurnTransport(TurnClientUdpProtocol(("127.0.0.1", 3478), "user", "word", 600, 500))
    assert relay._TurnTransport__inner_protocol.receiver is None  # type: ignore[attr-defined]


def test_addresses_to_offer() -> None:
    assert aioice_seam.host_addresses(loopback=True) == (LOOPBACK,)
    assert LOOPBACK not in aioice_seam.host_addresses(loopback=False)


def test_one_certificate_makes_its_digests_and_its_context_once() -> None:
    certificate = SharedCertificate.generateCertificate()
    assert isinstance(certificate, SharedCertificate)
    assert certificate.getFingerprints() is certificate.getFingerprints()
    assert [item.algorithm for item in certificate.getFingerprints()] == [
        item.algorithm for item in RTCCertificate.generateCertificate().getFingerprints()
    ]
    profiles = aiortc.rtcdtlstransport.SRTP_PROFILES
    assert certificate._create_ssl_context(profiles) is certificate._create_ssl_context(profiles)


# A user's connection and the peer connection of a speaker, aiortc's own, over loopback, in real time.


class Tone(MediaStreamTrack):
    """A track of ready-made packets, 5 ms apart."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._sent = 0

    async def recv(self) -> Packet[Any]:
        await asyncio.sleep(0.005)
        packet = Packet(PAYLOAD)
        packet.pts, packet.time_base = self._sent * 960, Fraction(1, 48_000)
        self._sent += 1
        return packet


@dataclass
class Heard:
    """What a peer connection told."""

    told: list[str] = field(default_factory=list)
    packets: list[tuple[str, bytes]] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    timestamps: list[int] = field(default_factory=list)
    on_message: Callable[[], None] = lambda: None

    def media_up(self) -> None:
        self.told.append("up")

    def media_down(self, state: str) -> None:
        self.told.append(state)

    def packet(self, track_sid: str, payload: bytes, timestamp: int) -> None:
        self.packets.append((track_sid, payload))
        self.timestamps.append(timestamp)

    def data(self, message: bytes) -> None:
        self.messages.append(message)
        self.on_message()


@dataclass
class Pair:
    """A listener as a session has it, and a speaker that answers its offers."""

    heard: Heard
    peer: Peer
    speaker: RTCPeerConnection

    async def connect(self) -> str:
        """As a user joins: data channels only. The offer."""
        offer = await self.peer.offer()
        await self.peer.accept(await self._answer(offer), {})
        await until(lambda: self.peer.can_send)
        return offer

    async def hear(self) -> None:
        """As an agent's track comes: one more section."""
        self.speaker.addTransceiver(Tone(), direction="sendonly")
        answer = await self._answer(await self.peer.offer_again(1))
        await self.peer.accept(answer, {re.findall(r"a=mid:(\S+)", answer)[-1]: "TR_1"})
        await until(lambda: len(self.heard.packets) >= 5)

    async def close(self) -> None:
        await self.peer.close()
        await self.speaker.close()

    @property
    def receiver(self) -> PacketReceiver:
        """Of the listener's one section of audio."""
        (only,) = self.peer._connection.receivers()
        return only

    @property
    def ice(self) -> aioice_seam.OwnIce:
        """The listener's."""
        return self.peer._connection._transports.own

    @property
    def speaker_ice(self) -> aioice.ice.Connection:
        assert self.speaker.sctp is not None
        return self.speaker.sctp.transport.transport.iceGatherer._connection

    def streams(self) -> list[StreamStatistics]:
        return list(self.receiver.streams.values())

    async def _answer(self, offer: str) -> str:
        await self.speaker.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await self.speaker.setLocalDescription()
        return str(self.speaker.localDescription.sdp)


@asynccontextmanager
async def pair(reader: TickReader | None = None) -> AsyncIterator[Pair]:
    certificate = SharedCertificate.generateCertificate()
    heard = Heard()
    clock = SystemClock()
    made = Pair(
        heard,
        Peer(heard, [LOOPBACK], certificate, clock, reader=reader),
        RTCPeerConnection(RTCConfiguration(iceServers=[])),
    )
    try:
        yield made
    finally:
        await made.close()
        # The ports' quarantine is over.
        await asyncio.sleep(aioice_seam.PORT_QUARANTINE_S + 0.05)


@asynccontextmanager
async def pair_that_can_wait() -> AsyncIterator[tuple[Pair, Datagrams]]:
    """Connected, and the listener's socket."""
    async with pair(TickReader(selectors.DefaultSelector())) as both:
        await both.connect()
        (transport,) = both.peer._connection._sockets._open
        yield both, transport


@pytest.fixture
def quick_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Longer than a tick, so that an answer that waits for one is read before it is due.
    monkeypatch.setattr(aioice_seam, "CONSENT_INTERVAL", 1.5 * TICK_MS / 1000)


@pytest.fixture(autouse=True)
def short_quarantine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aioice_seam, "PORT_QUARANTINE_S", 0.05)


@pytest.fixture(autouse=True)
def speaker_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    # aioice offers every address but this one.
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda **_: [LOOPBACK])


def test_a_track_is_heard_without_a_thread_and_then_only_counted() -> None:
    async def work() -> None:
        threads = threading.active_count()
        async with pair() as both:
            offer = await both.connect()
            assert {line.split()[4] for line in offer.splitlines() if "a=candidate" in line} == {LOOPBACK}
            began_ns = time.monotonic_ns()
            await both.hear()
            assert set(both.heard.packets) == {("TR_1", PAYLOAD)}
            assert threading.active_count() == threads
            # Each packet with its own timestamp, and the time of the first one.
            steps = {b - a for a, b in itertools.pairwise(both.heard.timestamps)}
            assert steps == {960}
            assert began_ns < both.peer.reached_ns("TR_1") < time.monotonic_ns()
            assert both.peer.reached_ns("TR_2") == 0
            both.peer.deafen("TR_2")
            heard = len(both.heard.packets)
            await until(lambda: len(both.heard.packets) > heard)
            both.peer.deafen("TR_1")
            heard, (stream,) = len(both.heard.packets), both.streams()
            counted = stream.packets_received
            await until(lambda: stream.packets_received >= counted + 5)
            assert len(both.heard.packets) == heard
            assert stream.packets_lost == 0
            both.peer.hear("TR_1")
            await until(lambda: len(both.heard.packets) >= heard + 5)
            assert stream.packets_lost == 0
            assert both.streams() == [stream]

    asyncio.run(work())


def test_receiver_reports_tell_the_other_side_what_arrived_and_how_long_ago_it_spoke(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the last two aiortc's sender makes the round trip."""
    monkeypatch.setattr(aiortc_seam, "REPORT_INTERVAL_S", 0.05)
    reports: list[RtcpReceiverInfo] = []

    async def take(packet: Any) -> None:
        if isinstance(packet, RtcpRrPacket):
            reports.extend(packet.reports)

    async def work() -> None:
        async with pair() as both:
            await both.connect()
            await both.hear()
            sender = both.speaker.getTransceivers()[0].sender
            monkeypatch.setattr(sender, "_handle_rtcp_packet", take)
            await until(lambda: len(reports) >= 3 and reports[-1].lsr > 0)
            (stream,) = both.streams()
            last = reports[-1]
            assert {report.ssrc for report in reports} == {sender._ssrc}
            assert (last.fraction_lost, last.packets_lost) == (0, 0)
            assert reports[0].highest_sequence < last.highest_sequence <= (stream.max_seq or 0)
            # Its own reports come every 0.5 to 1.5 s.
            assert 0 < last.dlsr < 1.6 * aiortc_seam.REPORT_UNITS_PER_S

    asyncio.run(work())


def test_a_check_that_comes_before_the_answer_is_no_conflict_of_roles() -> None:
    """A server has our addresses from the offer, and its first checks may overtake its answer."""

    async def work() -> None:
        async with pair() as both:
            answer = await both._answer(await both.peer.offer())
            # The speaker's checks have been going out since it answered, and are answered by now.
            await until(lambda: bool(both.speaker_ice._nominated) or both.speaker_ice._check_list != [])
            await asyncio.sleep(0.1)
            assert not both.speaker_ice.ice_controlling
            assert both.ice._connection.ice_controlling
            await both.peer.accept(answer, {})
            await until(lambda: both.peer.can_send)
            assert not both.speaker_ice.ice_controlling

    asyncio.run(work())


def test_nothing_but_opus_is_offered_and_agreed_upon() -> None:
    async def work() -> None:
        async with pair() as both:
            await both.connect()
            await both.hear()
            (transceiver,) = both.speaker.getTransceivers()
            assert [codec.mimeType for codec in transceiver._codecs] == ["audio/opus"]
            offer = both.speaker.remoteDescription.sdp
            assert [line.split()[1] for line in offer.splitlines() if line.startswith("a=rtpmap")] == [
                "opus/48000/2"
            ]

    asyncio.run(work())


def test_the_peer_connection_tells_once_that_it_is_up() -> None:
    async def work() -> list[str]:
        async with pair() as both:
            await both.connect()
            await both.hear()
            return both.heard.told

    assert asyncio.run(work()) == ["up"]


def test_a_stream_that_was_not_announced_for_a_section_is_counted_and_not_heard() -> None:
    """A second track's packets that come before the answer that announces it."""

    async def work() -> None:
        async with pair() as both:
            await both.connect()
            await both.hear()
            receiver = both.receiver
            assert receiver.ssrcs == {both.speaker.getTransceivers()[0].sender._ssrc}
            (known,) = receiver.ssrcs
            for ssrc, payload in ((known + 1, b"foreign"), (known, b"own")):
                packet = RtpPacket(payload_type=OPUS_PAYLOAD_TYPE, ssrc=ssrc, payload=payload)
                await receiver._handle_rtp_packet(packet, 0)
            assert ("TR_1", b"own") in both.heard.packets
            assert ("TR_1", b"foreign") not in both.heard.packets
            assert known + 1 in receiver.streams

    asyncio.run(work())


def test_a_section_that_is_used_again_for_another_track_hears_that_one() -> None:
    async def work() -> None:
        async with pair() as both:
            await both.connect()
            await both.hear()
            router = both.peer._connection._transports.dtls._rtp_router
            (old,) = both.receiver.ssrcs
            answer = both.speaker.localDescription.sdp
            mid = re.findall(r"a=mid:(\S+)", answer)[-1]
            await both.peer.accept(answer.replace(str(old), "1234567"), {mid: "TR_2"})
            assert both.receiver.ssrcs == {1234567}
            assert router.ssrc_table[1234567] is both.receiver
            heard = len(both.heard.packets)
            await until(lambda: any(stream.packets_received >= 5 for stream in both.streams()))
            assert len(both.heard.packets) == heard
            await both.peer.accept(answer, {mid: "TR_3"})
            await until(lambda: both.heard.packets[-1] == ("TR_3", PAYLOAD))

    asyncio.run(work())


def test_a_check_of_the_pair_in_use_is_answered_without_aioice(monkeypatch: pytest.MonkeyPatch) -> None:
    ours: list[bytes | None] = []
    answer = Checks.answer

    def noted(checks: Checks, request: bytes) -> bytes | None:
        ours.append(answer(checks, request))
        return ours[-1]

    async def work() -> None:
        async with pair() as both:
            await both.connect()
            ice = both.speaker_ice
            used = ice._nominated[1]
            monkeypatch.setattr(Checks, "answer", noted)
            request = ice.build_request(used, nominate=False)
            assert ice.remote_password is not None
            key = ice.remote_password.encode()
            response, _ = await used.protocol.request(request, used.remote_addr, integrity_key=key)
            assert response.message_class is stun.Class.RESPONSE
            assert response.attributes["XOR-MAPPED-ADDRESS"] == (LOOPBACK, used.local_candidate.port)
            assert len(ours) == 1
            assert ours[0] is not None

    asyncio.run(work())


@pytest.mark.usefixtures("quick_checks")
def test_consent_is_kept_by_answers_and_ends_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with pair() as both:
            await both.connect()
            kept = both.ice
            await until(lambda: kept._confirmed != b"")
            first = kept._confirmed
            await until(lambda: kept._confirmed not in (b"", first))
            ice_facts = both.peer.ice()
            assert (ice_facts["local"], ice_facts["remote"]) == ("host", "host")
            assert 0 < ice_facts["rtt_ms"] < 1000
            assert 0 <= ice_facts["gather_ms"] < 1000
            monkeypatch.setattr(aioice_seam.OwnIce, "kept_alive", lambda *args: True)
            await until(lambda: "failed" in both.heard.told or "closed" in both.heard.told)

    asyncio.run(work())


@pytest.mark.usefixtures("quick_checks")
def test_who_has_nobody_to_hear_can_wait_once_it_is_connected_and_then_hears_at_once() -> None:
    async def work() -> None:
        async with pair(TickReader(selectors.DefaultSelector())) as both:
            both.peer.can_wait(yes=True)
            began_s = asyncio.get_running_loop().time()
            await both.connect()
            # A tick for each of its handshakes would be longer.
            assert asyncio.get_running_loop().time() - began_s < 3 * TICK_MS / 1000
            (transport,) = both.peer._connection._sockets._open
            await until(lambda: transport.by_tick)
            ice = both.ice
            checks: set[bytes] = set()

            def checked(times: int) -> bool:
                checks.add(ice._confirmed)
                return len(checks - {b""}) >= times

            ice.rtt_ns = None
            await until(lambda: checked(4))
            # Its checks go on and are answered, and when the answers came the kernel knows.
            assert 0 < both.peer.ice()["rtt_ms"] < TICK_MS / 4
            assert both.heard.told == ["up"]
            both.peer.can_wait(yes=False)
            assert not transport.by_tick
            await both.hear()
            both.peer.can_wait(yes=True)
            assert transport.by_tick

    asyncio.run(work())


def test_of_data_that_could_wait_it_is_known_when_it_came() -> None:
    async def work() -> None:
        async with pair_that_can_wait() as (both, transport):
            channel = both.speaker.createDataChannel("words")
            loop = asyncio.get_running_loop()
            came: list[tuple[int, int]] = []
            both.heard.on_message = lambda: came.append((both.peer.data_ns, time.monotonic_ns()))
            await until(lambda: channel.readyState == "open")
            channel.send(b"now")
            await until(lambda: len(came) == 1)
            assert came[0][0] == 0
            both.peer.can_wait(yes=True)
            await until(lambda: transport.by_tick)
            # Just after a tick, so that it waits for the next.
            await asyncio.sleep(TICK_MS / 1000 - loop.time() % (TICK_MS / 1000) + 0.01)
            sent_ns = time.monotonic_ns()
            channel.send(b"first")
            await asyncio.sleep(0.04)
            later_ns = time.monotonic_ns()
            channel.send(b"later")
            await until(lambda: len(came) == 3)
            for (at_ns, told_ns), ns in zip(came[1:], (sent_ns, later_ns), strict=True):
                assert -NS_PER_MS < at_ns - ns < TICK_MS / 5 * NS_PER_MS
                assert told_ns - sent_ns > TICK_MS / 2 * NS_PER_MS
            assert both.heard.messages == [b"now", b"first", b"later"]

    asyncio.run(work())


@pytest.mark.usefixtures("quick_checks")
def test_a_track_that_is_only_counted_by_tick_has_the_jitter_it_had_and_no_round_trip() -> None:
    async def work() -> None:
        async with pair_that_can_wait() as (both, transport):
            await both.hear()
            receiver = both.receiver
            ((ssrc, stream),) = receiver.streams.items()
            await until(lambda: ssrc in receiver._spoke)
            assert receiver._report(ssrc, stream).lsr > 0
            both.peer.deafen("TR_1")
            both.peer.can_wait(yes=True)
            await until(lambda: transport.by_tick)
            jitter_q4, before = stream._jitter_q4, stream.packets_received
            await until(lambda: stream.packets_received > before + 50)
            assert stream._jitter_q4 == jitter_q4
            report = receiver._report(ssrc, stream)
            assert (report.lsr, report.dlsr, report.packets_lost) == (0, 0, 0)
            both.peer.can_wait(yes=False)
            assert receiver._report(ssrc, stream).lsr > 0

    asyncio.run(work())


def test_messages_arrive_and_a_closed_port_stays_bound_for_the_quarantine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        monkeypatch.setattr(aioice_seam, "PORT_QUARANTINE_S", 0.2)
        async with pair() as both:
            channels: list[Any] = []
            both.speaker.on("datachannel", channels.append)
            await both.connect()
            await until(lambda: len(channels) == 2)
            channels[0].send(b"a data packet")
            await until(lambda: both.heard.messages == [b"a data packet"])
            ports = both.peer.local_ports()
            assert len(ports) == 1
            await both.peer.close()
            await both.peer.close()
            await asyncio.sleep(0.02)
            assert is_bound(ports[0])
        assert not is_bound(ports[0])

    asyncio.run(work())


def test_a_microphone_is_heard_at_the_other_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        microphones = Microphones()
        certificate, clock, heard = SharedCertificate.generateCertificate(), SystemClock(), Heard()
        peer = Peer(heard, [LOOPBACK], certificate, clock, publish=Microphone(microphones))
        other = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        payloads: list[bytes] = []

        async def take(packet: RtpPacket, arrival_time_ms: int) -> None:
            payloads.append(packet.payload)

        made = Pair(heard, peer, other)
        sending = asyncio.create_task(microphones.run())
        try:
            await made.connect()
            (transceiver,) = other.getTransceivers()
            monkeypatch.setattr(transceiver.receiver, "_handle_rtp_packet", take)
            await until(lambda: len(payloads) >= 2)
            assert set(payloads) == {SILENCE}
            ours = peer._connection._lines["0"].sender
            assert ours in microphones._senders
            await made.close()
            assert ours not in microphones._senders
        finally:
            sending.cancel()
            await made.close()
            await asyncio.sleep(aioice_seam.PORT_QUARANTINE_S + 0.05)

    asyncio.run(work())


def test_a_connection_that_never_connected_closes() -> None:
    async def work() -> list[str]:
        async with pair() as both:
            await both.peer.offer()
            await both.peer.close()
            return both.heard.told

    assert asyncio.run(work()) == []


def test_an_offer_of_the_other_side_is_answered_and_heard_but_for_its_video() -> None:
    """The way of ``/rtc``."""

    async def work() -> None:
        async with pair() as both:
            channel = both.speaker.createDataChannel("words")
            both.speaker.addTransceiver(Tone(), direction="sendonly")
            video = both.speaker.addTransceiver("video", direction="sendonly")
            await both.speaker.setLocalDescription()
            offer = both.speaker.localDescription.sdp
            mids = re.findall(r"m=(\w+)[\s\S]*?a=mid:(\S+)", offer)
            assert [kind for kind, _ in mids] == ["audio", "video", "application"]
            answer = await both.peer.answer(offer, {mids[0][1]: "TR_1"})
            await both.speaker.setRemoteDescription(RTCSessionDescription(answer, "answer"))
            await until(lambda: channel.readyState == "open")
            channel.send(b"words")
            await until(lambda: both.heard.messages == [b"words"] and len(both.heard.packets) >= 5)
            assert set(both.heard.packets) == {("TR_1", PAYLOAD)}
            assert video.currentDirection == "inactive"
            assert 0 <= both.peer.ice()["gather_ms"] < 1000
            assert both.heard.told == ["up"]
            await both.speaker.close()
            await until(lambda: both.heard.told == ["up", "closed"])

    asyncio.run(work())


@pytest.mark.usefixtures("quick_checks")
def test_what_was_not_confirmed_is_not_sent_again_once_the_connection_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when a server's machine is gone: silence, until checks have had no answer for too long."""

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        async with pair() as both:
            await both.connect()
            sctp = both.peer._connection._transports.sctp
            # Due soon after the end, as for who sent something shortly before.
            sctp._rto = 1.5
            monkeypatch.setattr(aioice_seam._Demux, "datagram_received", lambda *args: None)
            both.peer.send(b"never confirmed")
            await until(lambda: sctp._t3_handle is not None)
            await until(lambda: both.peer._connection._state == "closed")
            await asyncio.sleep(sctp._rto + 0.2)
            gc.collect()

    faults: list[dict[str, Any]] = []
    asyncio.run(work())
    assert faults == []


def test_what_is_said_of_a_hang_up_goes_before_it() -> None:
    """A server that sends somebody away closes both of its connections, and says why on the other one."""

    async def hung_up(*, told_why: bool) -> list[str]:
        async with pair() as both:
            await both.connect()
            await both.speaker.close()
            await until(lambda: both.peer._connection._state == "closed")
            assert both.heard.told == ["up"]
            if told_why:
                await both.peer.close()
            await asyncio.sleep(GOODBYE_S + 0.2)
            return both.heard.told

    async def work() -> None:
        without, with_it = await asyncio.gather(hung_up(told_why=False), hung_up(told_why=True))
        assert without == ["up", "closed"]
        assert with_it == ["up"]

    asyncio.run(work())


def test_a_connection_that_is_closed_before_it_began_ends_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> list[str]:
        async with pair() as both:
            await both.peer.accept(await both._answer(await both.peer.offer()), {})
            await both.peer.close()
            return both.heard.told

    assert asyncio.run(work()) == []
    gc.collect()
    assert not caplog.records


def test_a_section_answered_without_opus_ends_the_connection_with_its_reason() -> None:
    async def work() -> None:
        microphones, heard, clock = Microphones(), Heard(), SystemClock()
        certificate = SharedCertificate.generateCertificate()
        peer = Peer(heard, [LOOPBACK], certificate, clock, publish=Microphone(microphones))
        made = Pair(heard, peer, RTCPeerConnection(RTCConfiguration(iceServers=[])))
        try:
            answer = await made._answer(await peer.offer())
            await peer.accept(answer.replace("opus/48000/2", "PCMU/8000"), {})
            await until(lambda: len(heard.told) == 2)
            assert heard.told == ["up", "failed: section 0 was answered without Opus"]
        finally:
            await made.close()
            await asyncio.sleep(aioice_seam.PORT_QUARANTINE_S + 0.05)

    asyncio.run(work())


def test_who_can_not_reach_the_other_side_is_told_that_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stun, "RETRY_MAX", 2)

    async def work() -> None:
        async with pair() as both:
            answer = await both._answer(await both.peer.offer())
            # A port on which nothing listens any more.
            (port,) = re.findall(r"a=candidate:\S+ 1 udp \d+ \S+ (\d+)", answer)[:1]
            await both.speaker.close()
            assert not is_bound(int(port))
            await both.peer.accept(answer, {})
            await until(lambda: both.heard.told == ["failed"])

    asyncio.run(work())
