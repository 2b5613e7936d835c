"""Sockets that can wait are read once a tick, all together."""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from virtual import in_virtual_time

from lk_users.clock import NS_PER_MS
from lk_users.wire.datagrams import READS_A_TICK, TickReader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from virtual import VirtualClock


class Ready(selectors.BaseSelector):
    """Each of its sockets has so many datagrams (``each``) a tick. Counts how often it was asked."""

    def __init__(self, clock: VirtualClock, each: int = 1) -> None:
        self._clock = clock
        self._each = each
        self.asked: Counter[int] = Counter()
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return self._keys[fileobj]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout == 0, "the loop would wait"
        now_ns = self._clock.monotonic_ns()
        self.asked[now_ns] += 1
        keys = self._keys.values() if self.asked[now_ns] <= self._each else ()
        return [(key, selectors.EVENT_READ) for key in keys]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


def test_all_sockets_are_read_on_the_same_ticks_until_they_are_taken_back() -> None:
    async def work(clock: VirtualClock) -> dict[str, list[int]]:
        reader, began_ns = TickReader(Ready(clock)), clock.monotonic_ns()
        read_ms: dict[str, list[int]] = {"one": [], "other": []}
        socks: dict[str, Any] = dict(zip(read_ms, (object(), object()), strict=True))

        def add(name: str) -> None:
            reader.add(
                socks[name],
                lambda: read_ms[name].append((clock.monotonic_ns() - began_ns) // NS_PER_MS),
            )

        add("one")
        await asyncio.sleep(0.15)
        add("other")
        await asyncio.sleep(0.2)
        reader.discard(socks["one"])
        await asyncio.sleep(0.1)
        reader.discard(socks["other"])
        await asyncio.sleep(0.2)
        add("one")
        await asyncio.sleep(0.1)
        reader.discard(socks["one"])
        return read_ms

    assert in_virtual_time(work) == {"one": [100, 200, 300, 700], "other": [200, 300, 400]}


def test_with_nothing_to_read_it_does_not_wake_the_process() -> None:
    async def work(clock: VirtualClock) -> list[int]:
        ready = Ready(clock)
        reader, asked, sock = TickReader(ready), [], object()
        for _ in range(2):
            reader.add(sock, lambda: None)  # type: ignore[arg-type]
            await asyncio.sleep(0.22)
            reader.discard(sock)  # type: ignore[arg-type]
            await asyncio.sleep(60)
            asked.append(len(ready.asked))
        return asked

    assert in_virtual_time(work) == [2, 4]


def test_a_reader_that_takes_its_socket_back_in_mid_tick_does_not_hold_the_others() -> None:
    async def work(clock: VirtualClock) -> list[str]:
        reader, told = TickReader(Ready(clock)), []
        first, second = object(), object()

        def once() -> None:
            told.append("first")
            reader.discard(first)  # type: ignore[arg-type]

        reader.add(first, once)  # type: ignore[arg-type]
        reader.add(second, lambda: told.append("second"))  # type: ignore[arg-type]
        await asyncio.sleep(0.25)
        reader.discard(second)  # type: ignore[arg-type]
        return told

    assert in_virtual_time(work) == ["first", "second", "second"]


@pytest.mark.parametrize(
    ("each", "read"), [(0, 0), (3, 3), (READS_A_TICK, READS_A_TICK), (1_000, READS_A_TICK)]
)
def test_all_that_came_is_read_in_a_tick_but_of_a_flood_no_more_than_its_share(each: int, read: int) -> None:
    async def work(clock: VirtualClock) -> list[int]:
        reader, sock = TickReader(Ready(clock, each)), object()
        moments: list[int] = []
        reader.add(sock, lambda: moments.append(clock.monotonic_ns()))  # type: ignore[arg-type]
        await asyncio.sleep(0.15)
        reader.discard(sock)  # type: ignore[arg-type]
        return moments

    assert len(in_virtual_time(work)) == min(each, READS_A_TICK)
