"""The reference agent's fault table, and what it has to say."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from lk_users.clock import SystemClock
from lk_users.local.faults import DEFAULT_DELAY_MS, Fault, Script, parse
from lk_users.local.speech import FRAME_S, SPEECH_S, Sounds, SpokenTrack
from lk_users.wire.audio import Ear
from lk_users.wire.loudness import AUDIBLE_DBFS


@pytest.mark.parametrize("fault", list(Fault))
def test_each_fault_is_known_by_its_name(fault: Fault) -> None:
    script = parse(json.dumps({"lk": {"fault": fault.value, "delay_ms": 1500}, "other": 1}))
    assert script == Script(fault, 1500)
    assert script.delay_s == 1.5


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "hello",
        "[]",
        "null",
        "17",
        '"lk"',
        "{",
        '{"lk": "freeze"}',
        '{"lk": null}',
        "{}",
        '{"lk": {}}',
        "[" * 99_999,
    ],
    ids=range(12),
)
def test_metadata_that_is_not_about_us_asks_for_nothing(metadata: str) -> None:
    assert parse(metadata) == Script()


@pytest.mark.parametrize("fault", list(Fault))
def test_without_a_delay_each_fault_has_its_own(fault: Fault) -> None:
    assert parse(json.dumps({"lk": {"fault": fault}})).delay_ms == DEFAULT_DELAY_MS.get(fault, 0)


@pytest.mark.parametrize("fault", ["frieze", 7, None, [], {}])
def test_an_unknown_fault_is_noted_and_healthy(fault: object) -> None:
    script = parse(json.dumps({"lk": {"fault": fault}}))
    assert script.fault is Fault.NONE
    assert repr(fault) in script.note


@pytest.mark.parametrize("delay_ms", [-1, "soon", [], 1e12, float("nan")])
def test_an_impossible_delay_is_noted_and_none(delay_ms: object) -> None:
    script = parse(json.dumps({"lk": {"fault": "end", "delay_ms": delay_ms}}))
    assert (script.fault, script.delay_ms) == (Fault.END, 0)
    assert "delay_ms" in script.note


def level_dbfs(packets: tuple[bytes, ...]) -> float:
    ear = Ear(SystemClock())
    for packet in packets:
        ear.hear(packet)
    return ear.loudest_dbfs


def test_tone_is_audible_at_its_second_packet_and_as_long_as_said() -> None:
    tone = Sounds.encode().tone
    assert len(tone) == round(SPEECH_S / FRAME_S)
    ear = Ear(SystemClock())
    heard = [ear.hear(packet) for packet in tone]
    assert heard.index(True) <= 2
    assert all(heard[heard.index(True) :])
    # A sine with its peak at -12 dBFS, of which the encoder keeps about all.
    assert -17 < ear.loudest_dbfs < -13


def test_silence_is_not_audible_and_ambience_is() -> None:
    sounds = Sounds.encode()
    assert len(sounds.silence) == len(sounds.tone)
    assert level_dbfs(sounds.silence) < AUDIBLE_DBFS - 20
    assert AUDIBLE_DBFS + 10 < level_dbfs(sounds.ambience) < -25


def test_a_track_paces_its_packets_and_numbers_them_on() -> None:
    async def speak() -> tuple[list[int | None], float]:
        track = SpokenTrack()
        pulled: list[int | None] = []

        async def sender() -> None:
            while True:
                pulled.append((await track.recv()).pts)

        pulling = asyncio.ensure_future(sender())
        started = time.monotonic()
        await track.say([b"\xf8\xff\xfe"] * 5)
        took_s = time.monotonic() - started
        await track.say([b"\xf8\xff\xfe"])
        pulling.cancel()
        return pulled, took_s

    pulled, took_s = asyncio.run(speak())
    assert pulled == [number * 2_880 for number in range(6)]
    assert took_s >= 4 * FRAME_S - 0.005


def test_a_late_track_does_not_catch_up_in_a_burst() -> None:
    async def speak() -> list[float]:
        track = SpokenTrack()
        saying = asyncio.ensure_future(track.say([b"\xf8\xff\xfe"] * 20))
        await asyncio.sleep(0)
        await track.recv()
        time.sleep(0.2)  # noqa: ASYNC251  the stall of a busy loop
        moments = []
        for _ in range(6):
            await track.recv()
            moments.append(time.monotonic())
        saying.cancel()
        return moments

    moments = asyncio.run(speak())
    # Ten packets are overdue; what comes now still takes its 20 ms each.
    assert moments[-1] - moments[0] >= 4 * FRAME_S
