from __future__ import annotations

from typing import TYPE_CHECKING

from av import CodecContext, Packet
from livekit.protocol import models
from virtual import in_virtual_time

from lk_users.clock import NS_PER_MS
from lk_users.wire.audio import SILENCE_DBFS, rms_dbfs
from lk_users.wire.microphone import SILENCE, SilentMicrophone

if TYPE_CHECKING:
    from virtual import VirtualClock


def test_a_packet_of_silence_every_400_ms() -> None:
    async def work(clock: VirtualClock) -> list[tuple[int, int, bytes]]:
        microphone, start_ns = SilentMicrophone(), clock.monotonic_ns()
        sent = []
        for _ in range(4):
            packet = await microphone.recv()
            at_ms = (clock.monotonic_ns() - start_ns) // NS_PER_MS
            assert packet.pts is not None
            assert packet.time_base is not None
            sent.append((at_ms, round(packet.pts * packet.time_base * 1000), bytes(packet)))
        return sent

    assert in_virtual_time(work) == [(at_ms, at_ms, SILENCE) for at_ms in (0, 400, 800, 1200)]


def test_the_packet_is_20_ms_of_silence() -> None:
    decoder = CodecContext.create("libopus", "r")
    (frame,) = decoder.decode(Packet(SILENCE))
    assert (frame.samples, frame.sample_rate) == (960, 48_000)
    assert rms_dbfs(frame.to_ndarray()) == SILENCE_DBFS


def test_it_is_announced_as_a_microphone() -> None:
    microphone = SilentMicrophone()
    request = microphone.request()
    assert (request.cid, request.type, request.source) == (
        microphone.id,
        models.TrackType.AUDIO,
        models.TrackSource.MICROPHONE,
    )
