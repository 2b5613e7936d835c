"""What is not urgent wakes up together."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from livekit.protocol import rtc as messages
from virtual import in_virtual_time

from lk_users.clock import NS_PER_MS
from lk_users.wire.signalling import PING_INTERVAL_S, Pinger
from lk_users.wire.ticks import TICK_MS, sleep_about

if TYPE_CHECKING:
    from virtual import VirtualClock


@pytest.mark.parametrize(
    ("start_ms", "delay_s", "woken_ms"),
    [(0, 0.0, 100), (0, 5.0, 5_100), (1, 4.899, 5_000), (1, 4.898, 4_900), (299, 0.0, 300), (300, 0.0, 400)],
)
def test_a_sleeper_wakes_on_the_tick_after_its_delay(start_ms: int, delay_s: float, woken_ms: int) -> None:
    async def work(clock: VirtualClock) -> int:
        began_ns = clock.monotonic_ns()
        await asyncio.sleep(start_ms / 1000)
        await sleep_about(delay_s)
        return clock.monotonic_ns() - began_ns

    assert in_virtual_time(work) == woken_ms * NS_PER_MS


def test_hundreds_of_sleepers_wake_the_process_once_a_tick() -> None:
    async def work(clock: VirtualClock) -> Counter[int]:
        moments: Counter[int] = Counter()

        async def user(number: int) -> None:
            await asyncio.sleep(number / 600)
            await sleep_about(4.0 + number / 300)
            moments[clock.monotonic_ns() // NS_PER_MS] += 1

        await asyncio.gather(*(user(number) for number in range(600)))
        return moments

    moments = in_virtual_time(work)
    assert moments.total() == 600
    assert {moment % TICK_MS for moment in moments} == {0}
    assert len(moments) <= 31


class Signal:
    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.pings_ms: list[int] = []

    def send_bytes(self, request: bytes) -> None:
        sent = messages.SignalRequest.FromString(request)
        assert sent.WhichOneof("message") == "ping_req"
        assert sent.ping_req.timestamp == self._clock.wall_ns() // NS_PER_MS
        self.pings_ms.append(self._clock.monotonic_ns() // NS_PER_MS)


def test_each_connection_is_pinged_once_an_interval_and_all_of_them_on_fifty_ticks() -> None:
    async def work(clock: VirtualClock) -> list[Signal]:
        pinger, signals = Pinger(clock), [Signal(clock) for _ in range(600)]
        for signal in signals:
            pinger.add(signal)  # type: ignore[arg-type]
        task = asyncio.create_task(pinger.run())
        await asyncio.sleep(PING_INTERVAL_S * 3 - 0.05)
        task.cancel()
        return signals

    signals = in_virtual_time(work)
    interval_ms = 1_000 * PING_INTERVAL_S
    gaps = {
        later - sooner
        for signal in signals
        for sooner, later in zip(signal.pings_ms, signal.pings_ms[1:], strict=False)
    }
    assert {len(signal.pings_ms) for signal in signals} == {3}
    assert gaps == {interval_ms}
    assert set(Counter(signal.pings_ms[0] for signal in signals).values()) == {12}
