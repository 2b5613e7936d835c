"""Hearing: is this Opus audible? Decoded in the loop, and only until the first audible frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from av import CodecContext, Packet
from av.error import FFmpegError

from lk_users.wire.loudness import LoudnessGate

if TYPE_CHECKING:
    from lk_users.clock import Clock


class Ear:
    """Decodes one track until it is audible."""

    def __init__(self, clock: Clock) -> None:
        self._decoder = CodecContext.create("libopus", "r")
        self._gate = LoudnessGate(clock)
        self.packets = 0

    @property
    def first_loud_ns(self) -> int:
        return self._gate.first_loud_ns

    @property
    def loudest_dbfs(self) -> float:
        return self._gate.loudest_dbfs

    def hear(self, payload: bytes) -> bool:
        """Is the track audible, with this payload?"""
        self.packets += 1
        try:
            frames = self._decoder.decode(Packet(payload))
        except FFmpegError:
            return False
        audible = False
        for frame in frames:
            audible = self._gate.pass_frame(frame.to_ndarray(), frame.samples / frame.sample_rate)
        return audible
