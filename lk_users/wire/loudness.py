"""The gate that says from when on something is audible: on samples, whoever decoded them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lk_users.evidence import Onset

if TYPE_CHECKING:
    import numpy.typing as npt

# Louder than comfort noise and codec hiss (below -60 dBFS), quieter than any speech (above -35 dBFS).
AUDIBLE_DBFS = -45.0
# What is over sooner is a click.
AUDIBLE_S = 0.04
SILENCE_DBFS = -120.0


class LoudnessGate:
    """Opens for a sound: loud frames in a row for ``AUDIBLE_S``, of which the first is the onset."""

    def __init__(self) -> None:
        self.frames = 0
        self.loudest_dbfs = SILENCE_DBFS
        self._passed_s = 0.0
        self._loud_s = 0.0
        self._onset = Onset(0, SILENCE_DBFS, AUDIBLE_DBFS, 0, 0.0)

    @property
    def loud_since_ns(self) -> int:
        """When the sound began that is heard now, be it a click so far; 0 while it is silent."""
        return self._onset.at_ns if self._loud_s else 0

    def hear(self, samples: npt.NDArray[np.generic], length_s: float, at_ns: int) -> Onset | None:
        """One frame of PCM (floats or 16-bit integers, any shape) that came at ``at_ns``, monotonic clock.

        The onset, once the sound has lasted long enough.
        """
        level_dbfs = rms_dbfs(samples)
        self.loudest_dbfs = max(self.loudest_dbfs, level_dbfs)
        if level_dbfs < AUDIBLE_DBFS:
            self._loud_s = 0.0
        else:
            if self._loud_s == 0:
                self._onset = Onset(at_ns, level_dbfs, AUDIBLE_DBFS, self.frames, 1000 * self._passed_s)
            self._loud_s += length_s
        self.frames += 1
        self._passed_s += length_s
        return self._onset if self._loud_s >= AUDIBLE_S else None


def rms_dbfs(samples: npt.NDArray[np.generic]) -> float:
    """Level of a frame against full scale, floats or 16-bit integers."""
    scale = 1.0 if samples.dtype.kind == "f" else 32768.0
    flat = samples.ravel().astype(np.float32)
    power = float(np.dot(flat, flat)) / (flat.size * scale * scale)
    return max(SILENCE_DBFS, 10 * math.log10(power)) if power > 0 else SILENCE_DBFS
