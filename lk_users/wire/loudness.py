"""The gate that says from when on something is audible: on samples, whoever decoded them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lk_users.clock import Clock

# Louder than comfort noise and codec hiss (below -60 dBFS), quieter than any speech (above -35 dBFS).
AUDIBLE_DBFS = -45.0
# What is over sooner is a click.
AUDIBLE_S = 0.04
SILENCE_DBFS = -120.0


class LoudnessGate:
    """Opens for loud frames in a row of ``AUDIBLE_S``, of which the first counts (``first_loud_ns``,
    monotonic clock)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loud_s = 0.0
        self.first_loud_ns = 0
        self.loudest_dbfs = SILENCE_DBFS

    def pass_frame(self, samples: np.ndarray, length_s: float) -> bool:
        """Is it open, with this frame?"""
        level_dbfs = rms_dbfs(samples)
        self.loudest_dbfs = max(self.loudest_dbfs, level_dbfs)
        if level_dbfs < AUDIBLE_DBFS:
            self._loud_s = 0.0
            return False
        if self._loud_s == 0:
            self.first_loud_ns = self._clock.monotonic_ns()
        self._loud_s += length_s
        return self._loud_s >= AUDIBLE_S


def rms_dbfs(samples: np.ndarray) -> float:
    """Level of a frame against full scale, floats or 16-bit integers."""
    scale = 1.0 if samples.dtype.kind == "f" else 32768.0
    power = float(np.mean(np.square(samples.astype(np.float32) / scale)))
    return max(SILENCE_DBFS, 10 * math.log10(power)) if power > 0 else SILENCE_DBFS
