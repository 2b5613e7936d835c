"""Sockets that can wait are read once a tick, all together."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any

from virtual import in_virtual_time

from lk_users.clock import NS_PER_MS
from lk_users.wire.datagrams import TickReader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from virtual import VirtualClock


class Ready(selectors.BaseSelector):
    """Whatever it is given has something to read. Counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return self._keys[fileobj]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout == 0, "the loop would wait"
        self.asked += 1
        return [(key, selectors.EVENT_READ) for key in self._keys.values()]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


def test_all_sockets_are_read_on_the_same_ticks_until_they_are_taken_back() -> None:
    async def work(clock: VirtualClock) -> dict[str, list[int]]:
        reader, began_ns = TickReader(Ready()), clock.monotonic_ns()
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
        ready = Ready()
        reader, asked, sock = TickReader(ready), [], object()
        for _ in range(2):
            reader.add(sock, lambda: None)  # type: ignore[arg-type]
            await asyncio.sleep(0.22)
            reader.discard(sock)  # type: ignore[arg-type]
            await asyncio.sleep(60)
            asked.append(ready.asked)
        return asked

    assert in_virtual_time(work) == [2, 4]


def test_a_reader_that_takes_its_socket_back_in_mid_tick_does_not_hold_the_others() -> None:
    async def work(clock: VirtualClock) -> list[str]:
        reader, told = TickReader(Ready()), []
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
