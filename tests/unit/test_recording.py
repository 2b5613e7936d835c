from __future__ import annotations

import math
import wave
from typing import TYPE_CHECKING

import numpy as np
import pytest
from builders import record, welcomed

from lk_users.clock import NS_PER_MS
from lk_users.local.speech import FRAME_SAMPLES, SAMPLE_RATE_HZ, opus
from lk_users.sinks.wav import FILES_A_BURST, FailedSounds
from lk_users.wire.loudness import rms_dbfs
from lk_users.wire.recording import KEPT_BYTES, KEPT_SAMPLES, Recording

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    Samples = npt.NDArray[np.float64]

FRAME_NS = 60 * NS_PER_MS
# What an Opus decoder is late by: 6.5 ms (RFC 7845, the default pre-skip is 80 ms, of which it needs this).
LOOKAHEAD = 312
MISSING = {"findings": {"welcome_missing": "its audio arrived, but silent"}}


def tone(level_dbfs: float, frames: int, hz: float = 440.0) -> Samples:
    """A sine of this RMS level."""
    moments = np.arange(frames * FRAME_SAMPLES) / SAMPLE_RATE_HZ
    return math.sqrt(2) * 10 ** (level_dbfs / 20) * np.sin(2 * np.pi * hz * moments)


def received(
    payloads: Sequence[bytes],
    track: str = "TR_1",
    first_timestamp: int = 1_000,
    begin_ns: int = 5,
    into: Recording | None = None,
) -> Recording:
    """Payloads as they come, frame by frame."""
    recording = into or Recording()
    for number, payload in enumerate(payloads):
        timestamp = (first_timestamp + number * FRAME_SAMPLES) % (1 << 32)
        recording.add(track, payload, timestamp, begin_ns + number * FRAME_NS)
    return recording


def pitch_hz(samples: npt.NDArray[np.int16]) -> float:
    spectrum = np.abs(np.fft.rfft(samples.astype(float)))
    return float(np.argmax(spectrum) * SAMPLE_RATE_HZ / len(samples))


def test_a_tone_comes_out_at_its_length_level_and_pitch() -> None:
    samples = received(opus(tone(-20.0, 20))).samples()
    assert samples.dtype == np.int16
    assert len(samples) == 20 * FRAME_SAMPLES
    assert rms_dbfs(samples[LOOKAHEAD:]) == pytest.approx(-20.0, abs=0.5)
    assert pitch_hz(samples) == pytest.approx(440.0, abs=1.0)


def test_a_gap_is_silence_of_its_length() -> None:
    payloads = opus(tone(-20.0, 6))
    recording = received(payloads[:3])
    for number, payload in enumerate(payloads[3:], 8):
        recording.add("TR_1", payload, 1_000 + number * FRAME_SAMPLES, number * FRAME_NS)
    samples = recording.samples()
    assert len(samples) == 11 * FRAME_SAMPLES
    assert not samples[3 * FRAME_SAMPLES : 8 * FRAME_SAMPLES].any()
    assert rms_dbfs(samples[9 * FRAME_SAMPLES :]) == pytest.approx(-20.0, abs=0.5)


def test_packets_that_came_in_the_wrong_order_are_put_right() -> None:
    payloads = opus(tone(-20.0, 4))
    right = received(payloads).samples()
    recording = Recording()
    for number in (0, 2, 1, 3):
        recording.add("TR_1", payloads[number], number * FRAME_SAMPLES, 0)
    assert np.array_equal(recording.samples(), right)


def test_timestamps_go_round() -> None:
    payloads = opus(tone(-20.0, 4))
    over = received(payloads, first_timestamp=(1 << 32) - FRAME_SAMPLES)
    assert np.array_equal(over.samples(), received(payloads).samples())


def test_two_voices_are_heard_together_each_from_when_it_came() -> None:
    recording = received(opus(tone(-20.0, 10)))
    received(opus(tone(-20.0, 10, 1_000.0)), "TR_2", 77, 5 + 5 * FRAME_NS, into=recording)
    samples = recording.samples()
    assert len(samples) == 15 * FRAME_SAMPLES
    assert pitch_hz(samples[: 5 * FRAME_SAMPLES]) == pytest.approx(440.0, abs=3)
    assert pitch_hz(samples[10 * FRAME_SAMPLES :]) == pytest.approx(1_000.0, abs=3)
    # Two tones of equal power are 3 dB louder than one.
    both = samples[6 * FRAME_SAMPLES : 10 * FRAME_SAMPLES]
    assert rms_dbfs(both) == pytest.approx(-17.0, abs=0.5)


def test_what_is_no_opus_is_silence() -> None:
    payloads = opus(tone(-20.0, 3))
    samples = received([payloads[0], b"\xff\xff", payloads[2]]).samples()
    assert len(samples) == 3 * FRAME_SAMPLES
    assert not samples[FRAME_SAMPLES : 2 * FRAME_SAMPLES].any()


def test_it_keeps_so_many_seconds() -> None:
    recording = Recording()
    empty = [recording.is_empty]
    assert recording.add("TR_1", b"\xfc", 0, 0)
    assert recording.add("TR_1", b"\xfc", KEPT_SAMPLES - FRAME_SAMPLES, 0)
    assert not recording.add("TR_1", b"\xfc", KEPT_SAMPLES, 0)
    # Before its first: nobody knows where that belongs.
    assert recording.add("TR_1", b"\xfc", -FRAME_SAMPLES, 0)
    empty.append(recording.is_empty)
    assert empty == [True, False]
    assert len(received(opus(np.zeros(FRAME_SAMPLES)) * 400).samples()) == KEPT_SAMPLES


def test_it_keeps_so_many_bytes() -> None:
    recording = Recording()
    room = [recording.add("TR_1", b"x" * 1024, number * 10, 0) for number in range(70)]
    assert room == [True] * (KEPT_BYTES // 1024) + [False] * 6


def test_nothing_received_is_no_sound() -> None:
    assert len(Recording().samples()) == 0


# Files.


def read(path: Path) -> tuple[int, int, int, npt.NDArray[np.int16]]:
    with wave.open(str(path)) as file:
        frames = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return file.getnchannels(), file.getsampwidth(), file.getframerate(), frames


def test_a_failed_session_names_a_file_that_is_there(tmp_path: Path) -> None:
    recording = received(opus(tone(-20.0, 10)))
    kept = FailedSounds(tmp_path).keep(record(3, evidence={"packets": 10}, **MISSING), recording)
    assert kept.evidence == {"packets": 10, "audio": f"audio/{kept.session_id}.wav"}
    channels, width, rate, samples = read(tmp_path / kept.evidence["audio"])
    assert (channels, width, rate, len(samples)) == (1, 2, 48_000, 10 * FRAME_SAMPLES)
    assert np.array_equal(samples, recording.samples())
    assert rms_dbfs(samples[LOOKAHEAD:]) == pytest.approx(-20.0, abs=0.5)
    assert [path.name for path in (tmp_path / "audio").iterdir()] == [f"{kept.session_id}.wav"]


@pytest.mark.parametrize(
    "findings",
    [{"ok": ""}, {"cancelled": "stopped"}, {"ok": "", "bystander_agent": "x"}, {"engine_crashed": "x"}],
)
def test_no_file_of_a_session_that_did_not_fail_or_not_by_the_target(
    tmp_path: Path, findings: dict[str, str]
) -> None:
    item = welcomed(0, findings=findings)
    assert FailedSounds(tmp_path).keep(item, received(opus(tone(-20.0, 2)))) is item
    assert list(tmp_path.iterdir()) == []


def test_no_file_where_nothing_was_received(tmp_path: Path) -> None:
    item = record(0, **MISSING)
    sounds = FailedSounds(tmp_path)
    assert sounds.keep(item, None) is item
    assert sounds.keep(item, Recording()) is item
    assert list(tmp_path.iterdir()) == []


def test_so_many_files_a_burst(tmp_path: Path) -> None:
    recording = received(opus(tone(-20.0, 1)))
    sounds = FailedSounds(tmp_path)
    kept = [sounds.keep(record(n, **MISSING), recording) for n in range(FILES_A_BURST + 3)]
    assert ["audio" in item.evidence for item in kept] == [True] * FILES_A_BURST + [False] * 3
    assert len(list((tmp_path / "audio").iterdir())) == FILES_A_BURST


def test_a_disk_that_takes_nothing_costs_no_record(tmp_path: Path) -> None:
    (tmp_path / "audio").write_text("in the way")
    kept = FailedSounds(tmp_path).keep(record(0, **MISSING), received(opus(tone(-20.0, 1))))
    assert kept.evidence == {"audio_unwritten": "File exists"}
