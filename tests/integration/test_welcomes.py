"""What a welcome can be but heard in time, on the real stack: each with its cause, evidence and sound."""

from __future__ import annotations

import json
import re
import wave
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lk_users.local.speech import FRAME_S, SPEECH_S
from lk_users.wire.loudness import AUDIBLE_DBFS, SILENCE_DBFS, rms_dbfs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Finished

    Burst = Callable[..., Finished]

pytestmark = pytest.mark.real

WORDS = "Welcome, how can I help?"
UNHEARD_S = 0.8


def fault(name: str, delay_ms: int | None = None) -> str:
    delay = {} if delay_ms is None else {"delay_ms": delay_ms}
    return json.dumps({"lk": {"fault": name, **delay}})


def sound(done: Finished, record: dict[str, Any]) -> tuple[float, float]:
    """Length in seconds and level in dBFS of what a session received."""
    with wave.open(str(done.run_dir / record["evidence"]["audio"])) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert (file.getnchannels(), file.getframerate()) == (1, 48_000)
        return len(samples) / 48_000, rms_dbfs(samples)


def text_of(record: dict[str, Any]) -> list[tuple[str, str]]:
    return [(text["kind"], text["text"]) for text in record["evidence"].get("texts", [])]


def test_what_became_of_a_welcome_that_failed(burst: Burst, tmp_path: Path) -> None:
    """Four faults, three users each, in one burst."""
    jobs = tmp_path / "jobs.jsonl"
    unheard = fault("eager", round(1000 * SPEECH_S))
    jobs.write_text("\n".join([fault("eager"), unheard, fault("background"), fault("silent")]))
    done = burst(12, "--dispatch", "room", "--metadata", f"@{jobs}", "--session-timeout", "8")
    assert (done.code, done.outcomes) == (10, {"welcome_missing": 9, "welcome_clipped": 3}), done.stdout
    kinds: list[list[dict[str, Any]]] = [done.records[number::4] for number in range(4)]
    eager, unheard_at_all, background, silent = kinds
    for record in eager:
        assert list(record["findings"]) == ["welcome_clipped"]
        told = re.fullmatch(
            r"it had been speaking for (\d+) ms before its audio could reach the user, and its transcript "
            rf"was complete: '{re.escape(WORDS)}'",
            record["findings"]["welcome_clipped"],
        )
        assert told is not None, record["findings"]
        assert 1000 * UNHEARD_S - 50 <= int(told[1]) <= 1000 * UNHEARD_S + 500
        assert record["evidence"]["speech_ms_before_us"] >= int(told[1])
        assert record["evidence"]["ms_before"] == 0
        assert text_of(record) == [("transcription", WORDS)]
        # It came before its sound, which was listened to on, for the evidence.
        assert record["marks_ns"]["first_text"] < record["marks_ns"]["first_audio"]
        length_s, level_dbfs = sound(done, record)
        assert 1.0 <= length_s <= SPEECH_S - UNHEARD_S + FRAME_S
        assert -16 < level_dbfs < -14
    for record in unheard_at_all:
        cause = record["findings"]["welcome_missing"]
        assert cause.startswith(
            f"it said that it was speaking, but no audio packet arrived; its text came: '{WORDS}'; "
            "missing: audio"
        )
        assert "audio" not in record["evidence"]
    for record in (*background, *silent):
        cause = record["findings"]["welcome_missing"]
        assert cause.startswith("its audio arrived, but silent; missing: audio")
        assert text_of(record) == []
        assert record["evidence"]["loudest_dbfs"] < AUDIBLE_DBFS - 20
        length_s, level_dbfs = sound(done, record)
        assert length_s == pytest.approx(SPEECH_S, abs=0.5)
        assert SILENCE_DBFS <= level_dbfs < AUDIBLE_DBFS - 20
    markdown = (done.run_dir / "summary.md").read_text()
    assert "What 9 failed sessions received is kept as sound" in markdown
    assert len(done.summary["audio"]) == len(list((done.run_dir / "audio").iterdir())) == 9


def test_late_welcomes_pass_the_default_slos_and_the_headline_says_so(burst: Burst) -> None:
    done = burst(3, "--metadata", fault("slow_welcome", 2000), "--welcome-timeout", "1")
    assert (done.code, done.outcomes) == (0, {"welcome_late": 3})
    headline = "PASS: every SLO was met, BUT 3 welcomes came later than --welcome-timeout (exit code 0)"
    assert f"\n{headline}\n" in done.stdout
    assert (done.run_dir / "summary.md").read_text().startswith(f"# {headline}\n")
    assert all(sound(done, record)[1] > AUDIBLE_DBFS for record in done.records)


def test_two_agents_that_both_welcome_are_heard_twice(burst: Burst) -> None:
    done = burst(3, "--dispatch", "room", "--metadata", fault("duplicate", 300), "--watch", "5")
    assert (done.code, done.outcomes) == (10, {"duplicate_agent": 3})
    for record in done.records:
        assert re.fullmatch(
            r"agent-\S+ \(PA_\S+\) and agent-\S+ \(PA_\S+\) were heard", record["findings"]["welcome_twice"]
        )
        assert text_of(record) == [("transcription", WORDS)] * 2


@pytest.mark.parametrize(
    ("expected", "code", "outcome", "cause"),
    [
        ("(?i)HOW CAN .* help", 0, "ok", ""),
        (
            "^Good (morning|evening)",
            10,
            "welcome_missing",
            f"it was heard; its text did not match --expect-text: '{WORDS}'; missing: text",
        ),
    ],
    ids=["matches", "does not"],
)
def test_the_text_that_is_expected(burst: Burst, expected: str, code: int, outcome: str, cause: str) -> None:
    done = burst(3, "--dispatch", "room", "--expect-text", expected, "--session-timeout", "8")
    assert (done.code, done.outcomes) == (code, {outcome: 3}), done.stdout
    for record in done.records:
        assert record["findings"][outcome].startswith(cause)
        assert ("text_matched" in record["marks_ns"]) is (outcome == "ok")
        assert text_of(record) == [("transcription", WORDS)]
        (text,) = record["evidence"]["texts"]
        assert text["ms"] == pytest.approx(record["marks_ns"]["first_text"] / 1e6, abs=0.1)
        assert text["final_ms"] == text["ms"]


def test_a_malformed_expected_text_is_one_line(burst: Burst) -> None:
    done = burst(3, "--expect-text", "(welcome")
    assert (done.code, done.run_dirs) == (12, [])
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("lk-users:")]
    assert "--expect-text (welcome: not a regular expression" in line
    assert "position 0" in line
    assert "Traceback" not in done.stderr


def test_a_hundred_healthy_welcomes_are_neither_clipped_nor_twice(burst: Burst) -> None:
    done = burst(100, "--dispatch", "room", "--watch", "3")
    assert (done.code, done.outcomes) == (0, {"ok": 100}), done.stdout
    assert set(done.summary["findings"]) <= {"ok", "lag_in_window", "rearmed"}
    for record in done.records:
        facts = record["evidence"]
        # The tone has -18; of the first audible frame a part may still be the silence before it.
        assert -24 < facts["audible_dbfs"] < -10
        assert facts["threshold_dbfs"] == AUDIBLE_DBFS
        assert facts["frames_before"] == 0
        assert facts.get("speech_ms_before_us", 0.0) < 150
        assert text_of(record) == [("transcription", WORDS)]
    assert not (done.run_dir / "audio").exists()
