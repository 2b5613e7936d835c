"""Hearing: is this Opus audible? Decoded in the loop, and only until the first audible frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from av import AudioCodecContext, CodecContext, Packet
from av.error import FFmpegError

from lk_users.wire.loudness import LoudnessGate

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lk_users.evidence import Onset


class Decoder:
    """Decodes the Opus payloads of one track, to mono: what there is to hear of two channels is in their
    mean, at half the cost."""

    def __init__(self) -> None:
        decoder: AudioCodecContext = CodecContext.create("libopus", "r")
        decoder.layout = "mono"
        self._decoder = decoder

    def frames(self, payload: bytes) -> list[tuple[npt.NDArray[np.generic], float]]:
        """Samples and their length in seconds; nothing of what is not Opus."""
        try:
            frames = self._decoder.decode(Packet(payload))
        except FFmpegError:
            return []
        return [(frame.to_ndarray(), frame.samples / frame.sample_rate) for frame in frames]


class Ear:
    """Decodes the Opus payloads of one track for a gate."""

    def __init__(self) -> None:
        self.gate = LoudnessGate()
        self.packets = 0
        self._decoder = Decoder()

    def hear(self, payload: bytes, at_ns: int) -> Onset | None:
        """One payload that came at ``at_ns``, monotonic clock. The onset, once the track is audible."""
        self.packets += 1
        onset = None
        for samples, length_s in self._decoder.frames(payload):
            onset = self.gate.hear(samples, length_s, at_ns) or onset
        return onset
