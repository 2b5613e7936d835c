"""A microphone in which nobody speaks, as a browser's is with DTX: a packet of silence every 400 ms."""

from __future__ import annotations

import asyncio
import fractions
from typing import Any, Final

from aiortc import MediaStreamTrack
from av import Packet
from livekit.protocol import models
from livekit.protocol import rtc as messages

SAMPLE_RATE_HZ: Final = 48_000
# How often libopus sends a frame with DTX while there is only silence (20 frames of 20 ms).
INTERVAL_S: Final = 0.4
INTERVAL_SAMPLES: Final = 19_200
# 20 ms of digital silence, stereo, CELT at full band: the frame that libopus makes of it.
SILENCE: Final = b"\xfc\xff\xfe"
_TIME_BASE: Final = fractions.Fraction(1, SAMPLE_RATE_HZ)


class SilentMicrophone(MediaStreamTrack):
    """aiortc's sender passes an ``av.Packet`` on as it is: no encoder, no executor."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._number = 0

    def request(self) -> messages.AddTrackRequest:
        """What announces it to the server, which finds the track in the offer by its id."""
        return messages.AddTrackRequest(
            cid=self.id,
            name="microphone",
            type=models.TrackType.AUDIO,
            source=models.TrackSource.MICROPHONE,
            disable_red=True,
        )

    async def recv(self) -> Packet[Any]:
        if self._number:
            await asyncio.sleep(INTERVAL_S)
        packet = Packet(SILENCE)
        packet.pts = packet.dts = self._number * INTERVAL_SAMPLES
        packet.time_base = _TIME_BASE
        self._number += 1
        return packet
