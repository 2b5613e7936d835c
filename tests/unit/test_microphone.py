from __future__ import annotations

import asyncio
import itertools
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiortc.rtp import RtcpByePacket, RtcpPacket, RtcpSdesPacket, RtcpSrPacket
from av import CodecContext, Packet
from livekit.protocol import models
from virtual import in_virtual_time

from lk_users.clock import NS_PER_MS
from lk_users.wire.loudness import SILENCE_DBFS, rms_dbfs
from lk_users.wire.microphone import (
    INTERVAL_SAMPLES,
    REPORT_EVERY,
    SILENCE,
    SLICES,
    Microphone,
    Microphones,
    SilentSender,
)

if TYPE_CHECKING:
    from virtual import VirtualClock

OPUS = 111
PARAMETERS = SimpleNamespace(codecs=[SimpleNamespace(payloadType=OPUS)], rtcp=SimpleNamespace(cname="a user"))


class Transport:
    """Takes down what is sent, and when."""

    state = "new"

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.connected = True
        self.senders: list[SilentSender] = []
        self.rtp: list[tuple[int, bytes]] = []
        self.rtcp: list[Any] = []

    async def _send_rtp(self, data: bytes) -> None:
        if not self.connected:
            raise ConnectionError
        if data[1] & 0x7F == OPUS:
            self.rtp.append((self._clock.monotonic_ns() // NS_PER_MS, data))
        else:
            self.rtcp += RtcpPacket.parse(data)

    def _register_rtp_sender(self, sender: SilentSender, parameters: Any) -> None:
        self.senders.append(sender)

    def _unregister_rtp_sender(self, sender: SilentSender) -> None:
        self.senders.remove(sender)


def made(microphones: Microphones, transport: Transport) -> SilentSender:
    microphone = Microphone(microphones)
    return SilentSender(microphone, cast("Any", transport))


def test_every_user_sends_a_packet_of_silence_every_400_ms() -> None:
    async def work(clock: VirtualClock) -> list[Transport]:
        microphones = Microphones()
        transports = [Transport(clock) for _ in range(3 * SLICES)]
        for transport in transports:
            await made(microphones, transport).send(PARAMETERS)
        running = asyncio.create_task(microphones.run())
        await asyncio.sleep(1.99)
        running.cancel()
        return transports

    transports = in_virtual_time(work)
    for transport in transports:
        moments_ms = [at_ms for at_ms, _ in transport.rtp]
        assert [later - at for at, later in itertools.pairwise(moments_ms)] == [400] * 4
        headers = [struct.unpack("!BBHII", data[:12]) for _, data in transport.rtp]
        assert {header[:2] for header in headers} == {(0x80, OPUS)}
        assert {data[12:] for _, data in transport.rtp} == {SILENCE}
        first = headers[0]
        for number, header in enumerate(headers):
            assert header[2] == (first[2] + number) & 0xFFFF
            assert header[3] == (first[3] + number * INTERVAL_SAMPLES) & 0xFFFFFFFF
    # Three a slice of 20 ms: no tick sends for all.
    assert len({transport.rtp[0][0] for transport in transports}) == SLICES


def test_a_report_now_and_then_and_a_goodbye() -> None:
    async def work(clock: VirtualClock) -> Transport:
        transport = Transport(clock)
        sender = made(Microphones(), transport)
        await sender.send(PARAMETERS)
        await sender.send(PARAMETERS)
        assert transport.senders == [sender]
        for _ in range(2 * REPORT_EVERY):
            await sender.send_silence()
        await sender.stop()
        assert transport.senders == []
        return transport

    transport = in_virtual_time(work)
    reports = [packet for packet in transport.rtcp if isinstance(packet, RtcpSrPacket)]
    assert [type(packet) for packet in transport.rtcp] == [
        *(RtcpSrPacket, RtcpSdesPacket) * 2,
        RtcpByePacket,
    ]
    first, second = (report.sender_info for report in reports)
    assert second.packet_count - first.packet_count == REPORT_EVERY
    assert (first.octet_count, second.octet_count) == (3 * first.packet_count, 3 * second.packet_count)
    assert (second.rtp_timestamp - first.rtp_timestamp) & 0xFFFFFFFF == REPORT_EVERY * INTERVAL_SAMPLES
    assert second.ntp_timestamp > first.ntp_timestamp


@pytest.mark.parametrize("how", ["stopped", "connection gone"])
def test_nothing_is_sent_any_more(how: str) -> None:
    async def work(clock: VirtualClock) -> int:
        microphones, transport = Microphones(), Transport(clock)
        sender = made(microphones, transport)
        await sender.send(PARAMETERS)
        running = asyncio.create_task(microphones.run())
        await asyncio.sleep(1.0)
        before = len(transport.rtp)
        assert before == 3
        if how == "stopped":
            await sender.stop()
        else:
            transport.connected = False
            await asyncio.sleep(1.0)
            transport.connected = True
        await asyncio.sleep(1.0)
        running.cancel()
        return len(transport.rtp) - before

    assert in_virtual_time(work) == 0


def test_where_nobody_has_one_nothing_is_due() -> None:
    async def work(clock: VirtualClock) -> list[tuple[int, int]]:
        microphones, transport = Microphones(), Transport(clock)
        loop: Any = asyncio.get_running_loop()
        running = asyncio.create_task(microphones.run())
        found: list[tuple[int, int]] = []
        for _ in range(2):
            await asyncio.sleep(10.0)
            found.append((len(transport.rtp), len(loop._scheduled)))
            sender = made(microphones, transport)
            await sender.send(PARAMETERS)
            await asyncio.sleep(1.0)
            found.append((len(transport.rtp), len(loop._scheduled)))
            await sender.stop()
        running.cancel()
        return found

    assert in_virtual_time(work) == [(0, 0), (3, 1), (3, 0), (6, 1)]


def test_a_sender_that_never_started_stops() -> None:
    async def work(clock: VirtualClock) -> Transport:
        transport = Transport(clock)
        await made(Microphones(), transport).stop()
        return transport

    assert in_virtual_time(work).rtcp == []


def test_the_packet_is_20_ms_of_silence() -> None:
    decoder = CodecContext.create("libopus", "r")
    (frame,) = decoder.decode(Packet(SILENCE))
    assert (frame.samples, frame.sample_rate) == (960, 48_000)
    assert rms_dbfs(frame.to_ndarray()) == SILENCE_DBFS


def test_it_is_announced_as_a_microphone() -> None:
    microphone = Microphone(Microphones())
    request = microphone.request()
    assert (request.cid, request.type, request.source) == (
        microphone.id,
        models.TrackType.AUDIO,
        models.TrackSource.MICROPHONE,
    )
