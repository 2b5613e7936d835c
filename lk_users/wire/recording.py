"""Sound that a session received, kept as it came: Opus payloads and their times. Decoded when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from av import AudioCodecContext, Packet
from av.error import FFmpegError

from lk_users.clock import NS_PER_S

if TYPE_CHECKING:
    import numpy.typing as npt

SAMPLE_RATE_HZ: Final = 48_000
# A welcome is over by then; and 600 silent sessions stay within 40 MB.
KEPT_SAMPLES: Final = 20 * SAMPLE_RATE_HZ
KEPT_BYTES: Final = 64 * 1024
_TIMESTAMPS: Final = 1 << 32


@dataclass(frozen=True)
class _Track:
    first_timestamp: int
    starts_at: int
    """In samples from the recording's beginning."""
    payloads: list[tuple[int, bytes]]
    """Position in samples from the recording's beginning, and Opus."""


class Recording:
    """The sound of one session: all its tracks together, as its user hears them."""

    def __init__(self) -> None:
        self._tracks: dict[str, _Track] = {}
        self._first_ns = 0
        self._bytes = 0

    @property
    def is_empty(self) -> bool:
        return not self._tracks

    def add(self, track_sid: str, payload: bytes, timestamp: int, at_ns: int) -> bool:
        """One payload, with its RTP timestamp and its arrival (monotonic clock). Is there room for more?"""
        if self._bytes >= KEPT_BYTES:
            return False
        if not self._tracks:
            self._first_ns = at_ns
        track = self._tracks.get(track_sid)
        if track is None:
            starts_at = (at_ns - self._first_ns) * SAMPLE_RATE_HZ // NS_PER_S
            track = self._tracks[track_sid] = _Track(timestamp, starts_at, [])
        position = track.starts_at + _signed(timestamp - track.first_timestamp)
        if position >= KEPT_SAMPLES:
            return False
        if position >= 0:
            track.payloads.append((position, payload))
            self._bytes += len(payload)
        return True

    def samples(self) -> npt.NDArray[np.int16]:
        """Mono, ``SAMPLE_RATE_HZ``, from the first payload to the end of the last; gaps are silent."""
        mixed = np.zeros(KEPT_SAMPLES, np.float32)
        end = 0
        for track in self._tracks.values():
            decoder = AudioCodecContext.create("libopus", "r")
            for position, payload in sorted(track.payloads):
                for frame in _decoded(decoder, payload):
                    room = mixed[position : position + len(frame)]
                    room += frame[: len(room)]
                    position += len(frame)
                    end = max(end, min(position, KEPT_SAMPLES))
        return np.round(np.clip(mixed[:end], -1.0, 1.0) * 32_767).astype(np.int16)


def _decoded(decoder: AudioCodecContext, payload: bytes) -> list[npt.NDArray[np.float32]]:
    """Mono frames between -1 and 1; none of what is not Opus."""
    try:
        return [_mono(frame) for frame in decoder.decode(Packet(payload))]
    except FFmpegError:
        return []


def _mono(frame: Any) -> npt.NDArray[np.float32]:
    samples = frame.to_ndarray()
    scale = np.float32(1.0 if samples.dtype.kind == "f" else 1 / 32_768)
    channels = frame.layout.nb_channels
    each = samples.reshape(channels, -1) if frame.format.is_planar else samples.reshape(-1, channels).T
    return np.asarray(each.astype(np.float32).mean(axis=0) * scale, np.float32)


def _signed(difference: int) -> int:
    """Timestamps are 32 bits and go round."""
    return (difference + _TIMESTAMPS // 2) % _TIMESTAMPS - _TIMESTAMPS // 2
