"""What the reference agent says: Opus packets encoded once a process, and the track that sends them."""

from __future__ import annotations

import asyncio
import fractions
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from aiortc import MediaStreamTrack
from av import AudioCodecContext, AudioFrame, Packet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

SAMPLE_RATE_HZ: Final = 48_000
# A packet costs agent, server and listener the same whatever its length, so the longest that Opus has.
FRAME_S: Final = 0.06
FRAME_SAMPLES: Final = 2_880
# A busy server calls a track subscribed up to 1.4 s before its listener learns which section carries it
# (measured at 600): what is shorter would be over by then.
SPEECH_S: Final = 2.4
TONE_HZ: Final = 440
# Peak of -12 dBFS, as a voice that is well recorded.
TONE_PEAK: Final = 0.25
# RMS of -30 dBFS: clearly audible and clearly behind a voice.
AMBIENCE_RMS: Final = 0.03
AMBIENCE_S: Final = 2.4
_BIT_RATE: Final = 32_000
_TIME_BASE: Final = fractions.Fraction(1, SAMPLE_RATE_HZ)


@dataclass(frozen=True)
class Sounds:
    """Opus packets of ``FRAME_S``, mono as real agents speak, 48 kHz."""

    tone: tuple[bytes, ...]
    silence: tuple[bytes, ...]
    ambience: tuple[bytes, ...]

    @classmethod
    def encode(cls) -> Sounds:
        """Some 10 ms of CPU."""
        moments = np.arange(round(SPEECH_S * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
        noise = np.random.default_rng(1).normal(0, AMBIENCE_RMS, round(AMBIENCE_S * SAMPLE_RATE_HZ))
        return cls(
            tone=opus(TONE_PEAK * np.sin(2 * np.pi * TONE_HZ * moments)),
            silence=opus(np.zeros(len(moments))),
            ambience=opus(noise),
        )


def opus(samples: npt.NDArray[np.float64]) -> tuple[bytes, ...]:
    """Encode mono samples between -1 and 1, a whole number of frames of them."""
    encoder = AudioCodecContext.create("libopus", "w")
    encoder.sample_rate = SAMPLE_RATE_HZ
    encoder.layout = "mono"
    encoder.format = "s16"
    encoder.bit_rate = _BIT_RATE
    encoder.options = {"frame_duration": str(round(FRAME_S * 1000))}
    encoder.time_base = _TIME_BASE
    packets: list[bytes] = []
    whole = np.clip(samples * 32_767, -32_768, 32_767).astype(np.int16)
    for start in range(0, len(whole), FRAME_SAMPLES):
        samples_now = whole[start : start + FRAME_SAMPLES].reshape(1, -1)
        frame = AudioFrame.from_ndarray(samples_now, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE_HZ, start, _TIME_BASE
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return tuple(packets)


class SpokenTrack(MediaStreamTrack):
    """Sends nothing until it is told what to say, then one packet every ``FRAME_S``, then nothing again.

    aiortc's sender passes an ``av.Packet`` on as it is: no encoder, no executor.
    """

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._wake = asyncio.Event()
        self._said: asyncio.Future[None] | None = None
        self._packets: Iterator[bytes] = iter(())
        self._number = 0
        self._due_s: float | None = None

    async def say(self, packets: Iterable[bytes]) -> None:
        """Returns when the sender has taken the last one; it takes none before the connection is up."""
        self._packets, self._due_s = iter(packets), None
        self._said = asyncio.get_running_loop().create_future()
        self._wake.set()
        await self._said

    async def say_for_ever(self, packets: Iterable[bytes]) -> None:
        """Until cancelled."""
        await self.say(itertools.cycle(packets))

    async def recv(self) -> Packet[Any]:
        while (payload := next(self._packets, None)) is None:
            self._wake.clear()
            if self._said is not None and not self._said.done():
                self._said.set_result(None)
            await self._wake.wait()
        await self._pace()
        packet = Packet(payload)
        packet.pts = packet.dts = self._number * FRAME_SAMPLES
        packet.time_base = _TIME_BASE
        self._number += 1
        return packet

    async def _pace(self) -> None:
        now_s = asyncio.get_running_loop().time()
        due_s = now_s if self._due_s is None else self._due_s + FRAME_S
        if due_s > now_s:
            await asyncio.sleep(due_s - now_s)
        elif now_s - due_s > FRAME_S:
            # Late: go on from here. A burst to catch up would hit all listeners of a busy loop at once.
            due_s = now_s
        self._due_s = due_s
