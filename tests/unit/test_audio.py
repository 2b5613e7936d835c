from __future__ import annotations

import math

import numpy as np
import pytest
from av import CodecContext

from lk_users.clock import NS_PER_MS
from lk_users.local.speech import FRAME_SAMPLES, SAMPLE_RATE_HZ, opus
from lk_users.wire.audio import Ear
from lk_users.wire.loudness import AUDIBLE_DBFS, SILENCE_DBFS, rms_dbfs


class Ticking:
    """20 ms for each look at it."""

    now_ns = 0

    def monotonic_ns(self) -> int:
        self.now_ns += 20 * NS_PER_MS
        return self.now_ns

    def wall_ns(self) -> int:
        return 0


class Decoded:
    """Stands for the decoder: each payload is the level of its frame of 20 ms, in dBFS."""

    def decode(self, packet: object) -> list[Frame]:
        return [Frame(float(bytes(packet)))]  # type: ignore[call-overload]


class Frame:
    samples = 960
    sample_rate = SAMPLE_RATE_HZ

    def __init__(self, level_dbfs: float) -> None:
        self._level_dbfs = level_dbfs

    def to_ndarray(self) -> np.ndarray:
        return np.full((1, 960), 10 ** (self._level_dbfs / 20), np.float32)


def tone(level_dbfs: float, samples: int = FRAME_SAMPLES) -> np.ndarray:
    """A sine of 440 Hz and this RMS level."""
    moments = np.arange(samples) / SAMPLE_RATE_HZ
    return math.sqrt(2) * 10 ** (level_dbfs / 20) * np.sin(2 * np.pi * 440 * moments)


def listen(*levels_dbfs: float) -> tuple[Ear, list[bool]]:
    """An ear that hears frames of 20 ms of these levels."""
    ear = Ear(Ticking())
    ear._decoder = Decoded()  # type: ignore[assignment]
    return ear, [ear.hear(str(level).encode()) for level in levels_dbfs]


@pytest.mark.parametrize("level", [-60.0, -45.0, -20.0, -6.0])
def test_level_of_a_tone(level: float) -> None:
    samples = tone(level, SAMPLE_RATE_HZ)
    assert rms_dbfs(samples) == pytest.approx(level, abs=0.01)
    assert rms_dbfs(np.round(samples * 32_768).astype(np.int16)) == pytest.approx(level, abs=0.1)


def test_level_of_silence() -> None:
    assert rms_dbfs(np.zeros((1, 960), np.float32)) == SILENCE_DBFS
    assert rms_dbfs(np.zeros((1, 960), np.int16)) == SILENCE_DBFS
    assert rms_dbfs(np.full((1, 960), 1e-9, np.float32)) == SILENCE_DBFS


def test_level_of_full_scale() -> None:
    assert rms_dbfs(np.full((1, 960), -32_768, np.int16)) == pytest.approx(0.0)


def test_one_loud_frame_is_a_click_and_two_are_a_sound() -> None:
    assert listen(-90, -20, -90, -20, -90)[1] == [False] * 5
    assert listen(-90, -20, -20)[1] == [False, False, True]


def test_a_frame_at_the_threshold_is_loud() -> None:
    assert listen(AUDIBLE_DBFS + 0.01, AUDIBLE_DBFS + 0.01)[1][-1]
    assert not listen(AUDIBLE_DBFS - 0.01, AUDIBLE_DBFS - 0.01)[1][-1]


def test_the_first_frame_of_the_sound_counts() -> None:
    ear, _ = listen(-20, -90, -30, -30)
    # The clock was looked at when the click began and when the sound began.
    assert ear.first_loud_ns == 40 * NS_PER_MS
    assert (ear.loudest_dbfs, ear.packets) == (pytest.approx(-20, abs=0.01), 4)


def test_a_tone_through_the_codec_is_heard_at_its_level() -> None:
    ear = Ear(Ticking())
    heard = [ear.hear(payload) for payload in opus(tone(-20.0, 5 * FRAME_SAMPLES))]
    assert heard[0] is True
    assert ear.loudest_dbfs == pytest.approx(-20.0, abs=1.0)


def test_silence_through_the_codec_is_never_heard() -> None:
    ear = Ear(Ticking())
    assert not any(ear.hear(payload) for payload in opus(np.zeros(10 * FRAME_SAMPLES)))
    assert ear.loudest_dbfs < -90
    assert ear.packets == 10


def test_a_whisper_below_the_threshold_is_never_heard() -> None:
    ear = Ear(Ticking())
    assert not any(ear.hear(payload) for payload in opus(tone(-52.0, 5 * FRAME_SAMPLES)))
    assert -60 < ear.loudest_dbfs < AUDIBLE_DBFS


def test_what_is_no_opus_is_not_heard_and_breaks_nothing() -> None:
    ear = Ear(Ticking())
    assert not ear.hear(b"\xff\xff")
    assert ear.packets == 1
    assert any(ear.hear(payload) for payload in opus(tone(-20.0, 3 * FRAME_SAMPLES)))


def test_the_decoder_is_the_one_we_count_on() -> None:
    assert CodecContext.create("libopus", "r").name == "libopus"
