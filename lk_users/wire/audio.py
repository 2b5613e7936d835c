"""Hearing: is this Opus audible? Decoded in the loop, and only until the first audible frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from av import CodecContext, Packet
from av.error import FFmpegError

from lk_users.wire.loudness import LoudnessGate

if TYPE_CHECKING:
    from lk_users.evidence import Onset


class Ear:
    """Decodes the Opus payloads of one track for a gate."""

    def __init__(self) -> None:
        self.gate = LoudnessGate()
        self.packets = 0
        self._decoder = CodecContext.create("libopus", "r")

    def hear(self, payload: bytes, at_ns: int) -> Onset | None:
        """One payload that came at ``at_ns``, monotonic clock. The onset, once the track is audible."""
        self.packets += 1
        try:
            frames = self._decoder.decode(Packet(payload))
        except FFmpegError:
            return None
        onset = None
        for frame in frames:
            onset = self.gate.hear(frame.to_ndarray(), frame.samples / frame.sample_rate, at_ns) or onset
        return onset
