"""The reference agent's fault table, and what it has to say."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from virtual import in_virtual_time

from lk_users.local.faults import DEFAULT_DELAY_MS, Fault, Script, parse
from lk_users.local.speech import FRAME_S, SPEECH_S, Sounds, SpokenTrack
from lk_users.wire.audio import Ear
from lk_users.wire.loudness import AUDIBLE_DBFS

if TYPE_CHECKING:
    from virtual import VirtualClock


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


def test_a_cut_agent_comes_back_when_it_is_told_to() -> None:
    script = parse('{"lk": {"fault": "cut", "delay_ms": 36000, "back_ms": 9000}}')
    assert (script.fault, script.delay_s, script.back_s, script.note) == (Fault.CUT, 36.0, 9.0, "")
    assert parse('{"lk": {"fault": "cut", "back_ms": "soon"}}') == Script(
        Fault.CUT, 0, "back_ms 'soon' is not between 0 and 3600000; both are taken as 0", 0
    )


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
    ear = Ear()
    for packet in packets:
        ear.hear(packet, 0)
    return ear.gate.loudest_dbfs


def test_tone_is_audible_at_its_second_packet_and_as_long_as_said() -> None:
    tone = Sounds.encode().tone
    assert len(tone) == round(SPEECH_S / FRAME_S)
    ear = Ear()
    heard = [ear.hear(packet, 0) is not None for packet in tone]
    assert heard.index(True) <= 2
    assert all(heard[heard.index(True) :])
    # A sine with its peak at -12 dBFS, of which the encoder keeps about all.
    assert -17 < ear.gate.loudest_dbfs < -13


def test_silence_is_not_audible_and_ambience_is() -> None:
    sounds = Sounds.encode()
    assert len(sounds.silence) == len(sounds.tone)
    assert level_dbfs(sounds.silence) < AUDIBLE_DBFS - 20
    assert AUDIBLE_DBFS + 10 < level_dbfs(sounds.ambience) < -25


def test_a_track_paces_its_packets_and_numbers_them_on() -> None:
    async def speak(clock: VirtualClock) -> tuple[list[int | None], list[float]]:
        track = SpokenTrack()
        pulled: list[int | None] = []
        moments_s: list[float] = []
        started_us = clock.now_us

        async def sender() -> None:
            while True:
                pulled.append((await track.recv()).pts)
                moments_s.append((clock.now_us - started_us) / 1e6)

        pulling = asyncio.ensure_future(sender())
        await track.say([b"\xf8\xff\xfe"] * 5)
        await track.say([b"\xf8\xff\xfe"])
        pulling.cancel()
        return pulled, moments_s

    pulled, moments_s = in_virtual_time(speak)
    assert pulled == [number * 2_880 for number in range(6)]
    assert moments_s == pytest.approx([0, 0.06, 0.12, 0.18, 0.24, 0.24])


def test_a_late_track_does_not_catch_up_in_a_burst() -> None:
    async def speak(clock: VirtualClock) -> list[float]:
        track = SpokenTrack()
        saying = asyncio.ensure_future(track.say([b"\xf8\xff\xfe"] * 20))
        await asyncio.sleep(0)
        await track.recv()
        clock.now_us += 200_000
        stalled_until_us = clock.now_us
        moments_s = []
        for _ in range(5):
            await track.recv()
            moments_s.append((clock.now_us - stalled_until_us) / 1e6)
        saying.cancel()
        return moments_s

    # Three packets are overdue; what comes now still takes its 60 ms each.
    assert in_virtual_time(speak) == pytest.approx([0, 0.06, 0.12, 0.18, 0.24])
