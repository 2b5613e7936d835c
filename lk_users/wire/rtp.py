"""What one connection knows of incoming RTP by its headers, which are in the clear.

The statistics are aiortc's, a private part of it; the bound on its version and the test are those of
``wire/aiortc_seam.py``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from aiortc.rtcrtpreceiver import StreamStatistics

if TYPE_CHECKING:
    from collections.abc import Callable

    from lk_users.clock import Clock

# RFC 7983: a first byte of 128-191 is RTP or RTCP, which RFC 5761 tells apart by the second.
FIRST_RTP = b"\x80"
RTCP_KINDS = (192, 223)
RTP_HEADER = struct.Struct("!xBHII")
# Opus counts its time in these, whatever it was made of (RFC 7587).
OPUS_RATE_HZ = 48_000


class Rtp:
    """The streams of one connection, by SSRC."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.timed = True
        """Is it read when it comes?"""
        self.deaf: dict[int, Stream] = {}
        """Those that nobody listens to."""
        self.reached_ns: dict[int, int] = {}
        """When the first packet of each came, on the monotonic clock."""

    def counts_only(self, data: bytes, came_ns: Callable[[], int]) -> bool:
        """Was it a packet that nobody listens to? It is counted then, and needs no decryption. ``came_ns``:
        tells when it came, on the monotonic clock."""
        if data[:1] < FIRST_RTP or len(data) < RTP_HEADER.size:
            return False
        kind, sequence_number, timestamp, ssrc = RTP_HEADER.unpack_from(data)
        if RTCP_KINDS[0] <= kind <= RTCP_KINDS[1]:
            return False
        stream = self.deaf.get(ssrc)
        if stream is not None:
            stream.count(sequence_number, timestamp, timed=self.timed)
            return True
        if ssrc not in self.reached_ns:
            self.reached_ns[ssrc] = came_ns()
        return False


class Stream(StreamStatistics):
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
