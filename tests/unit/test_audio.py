from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from av import CodecContext

from lk_users.evidence import Onset
from lk_users.local.speech import FRAME_SAMPLES, SAMPLE_RATE_HZ, opus
from lk_users.wire.audio import Ear
from lk_users.wire.loudness import AUDIBLE_DBFS, SILENCE_DBFS, LoudnessGate, rms_dbfs

# In place of a float, which it is not.
about: Any = pytest.approx


def tone(level_dbfs: float, samples: int = FRAME_SAMPLES) -> np.ndarray:
    """A sine of 440 Hz and this RMS level."""
    moments = np.arange(samples) / SAMPLE_RATE_HZ
    return math.sqrt(2) * 10 ** (level_dbfs / 20) * np.sin(2 * np.pi * 440 * moments)


def listen(*levels_dbfs: float) -> tuple[LoudnessGate, list[Onset | None]]:
    """A gate that hears frames of 20 ms of these levels, one a nanosecond from 1 on."""
    gate = LoudnessGate()
    frames = (np.full((1, 960), 10 ** (level / 20), np.float32) for level in levels_dbfs)
    return gate, [gate.hear(frame, 0.02, at_ns) for at_ns, frame in enumerate(frames, 1)]


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
    assert listen(-90, -20, -90, -20, -90)[1] == [None] * 5
    *silent, onset = listen(-90, -20, -20)[1]
    assert silent == [None, None]
    assert onset is not None


def test_a_frame_at_the_threshold_is_loud() -> None:
    assert listen(AUDIBLE_DBFS + 0.01, AUDIBLE_DBFS + 0.01)[1][-1] is not None
    assert listen(AUDIBLE_DBFS - 0.01, AUDIBLE_DBFS - 0.01)[1][-1] is None


def test_the_first_frame_of_the_sound_counts() -> None:
    gate, onsets = listen(-20, -90, -30, -25)
    assert onsets[-1] == Onset(3, about(-30, abs=0.01), AUDIBLE_DBFS, 2, about(40.0))
    assert (gate.loudest_dbfs, gate.frames) == (about(-20, abs=0.01), 4)


def test_a_sound_from_the_first_frame_on_has_nothing_before_it() -> None:
    onset = listen(-30, -30)[1][-1]
    assert onset is not None
    assert (onset.at_ns, onset.frames_before, onset.ms_before) == (1, 0, 0.0)


def test_integers_and_floats_open_it_alike() -> None:
    samples = tone(-20.0)
    for pcm in (samples.astype(np.float32), np.round(samples * 32_768).astype(np.int16)):
        onset = LoudnessGate().hear(pcm, 0.06, 7)
        assert onset == Onset(7, about(-20.0, abs=0.1), AUDIBLE_DBFS, 0, 0.0)


def test_a_tone_through_the_codec_is_heard_at_its_level() -> None:
    ear = Ear()
    quiet, loud = np.zeros(2 * FRAME_SAMPLES), tone(-20.0, 5 * FRAME_SAMPLES)
    heard = [ear.hear(payload, at_ns) for at_ns, payload in enumerate(opus(np.concatenate([quiet, loud])))]
    assert heard[:3] == [None, None, Onset(2, about(-20.0, abs=1.0), AUDIBLE_DBFS, 2, 120.0)]
    assert ear.gate.loudest_dbfs == pytest.approx(-20.0, abs=1.0)


def test_silence_through_the_codec_is_never_heard() -> None:
    ear = Ear()
    assert not any(ear.hear(payload, 0) for payload in opus(np.zeros(10 * FRAME_SAMPLES)))
    assert ear.gate.loudest_dbfs < -90
    assert ear.packets == 10


def test_a_whisper_below_the_threshold_is_never_heard() -> None:
    ear = Ear()
    assert not any(ear.hear(payload, 0) for payload in opus(tone(-52.0, 5 * FRAME_SAMPLES)))
    assert -60 < ear.gate.loudest_dbfs < AUDIBLE_DBFS


def test_what_is_no_opus_is_not_heard_and_breaks_nothing() -> None:
    ear = Ear()
    assert ear.hear(b"\xff\xff", 0) is None
    assert ear.packets == 1
    assert any(ear.hear(payload, 0) for payload in opus(tone(-20.0, 3 * FRAME_SAMPLES)))


def test_the_decoder_is_the_one_we_count_on() -> None:
    assert CodecContext.create("libopus", "r").name == "libopus"
