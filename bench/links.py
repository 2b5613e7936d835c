"""Emulated links of a region: a TCP proxy with delay, jitter, a rate, darkness and cuts.

``tc netem`` is not everywhere; a proxy between a Locust worker and its master shows the same to both. A link
that goes *dark* forwards nothing and loses nothing, as when a cable is out for a while and TCP sends again;
one that is *cut* drops its connections and takes no new ones, as when a VPN or a load balancer restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_BYTES = 4096
# What a direction holds before it takes no more from its sender.
HELD_CHUNKS = 64


@dataclass(frozen=True)
class Way:
    """One direction of a link. ``jitter``: the delay varies by this part of it either way; ``rate``: bytes a
    second, 0 for any."""

    delay_s: float = 0.0
    jitter: float = 0.0
    rate: float = 0.0


STRAIGHT = Way()


@dataclass
class _Pipe:
    """The bytes of one connection in one direction: what came in goes out in order, each when it is due."""

    way: Way
    random: random.Random
    free_s: float = 0.0
    due_s: float = 0.0
    queue: asyncio.Queue[tuple[float, bytes]] = field(default_factory=lambda: asyncio.Queue(HELD_CHUNKS))

    def when_s(self, now_s: float, size: int) -> float:
        """When a chunk that came now is at the other end; never before the one that it follows."""
        sent_s = now_s
        if self.way.rate:
            sent_s = self.free_s = max(self.free_s, now_s) + size / self.way.rate
        delay_s = self.way.delay_s * (1 + self.way.jitter * self.random.uniform(-1, 1))
        self.due_s = max(self.due_s, sent_s + delay_s)
        return self.due_s


class Link:
    """A port on which a worker finds its master, some way off. Its methods may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, to: tuple[str, int], ways: tuple[Way, Way],
                 seed: int) -> None:  # fmt: skip
        self._loop = loop
        self._to = to
        self._ways = ways
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._host = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._light = (asyncio.Event(), asyncio.Event())
        for light in self._light:
            light.set()
        self.port = 0

    async def listen(self, host: str) -> None:
        self._host = host
        self._server = await asyncio.start_server(self._connected, host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Drop the connections and take no new ones."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cut(self) -> None:
        self._call(self.close)

    def heal(self) -> None:
        self._call(lambda: self.listen(self._host))

    def darken(self, *, up: bool = True) -> None:
        """Forward nothing; ``up``: also not from who connected."""
        for light in self._light if up else self._light[1:]:
            self._loop.call_soon_threadsafe(light.clear)

    def lighten(self) -> None:
        for light in self._light:
            self._loop.call_soon_threadsafe(light.set)

    def _call(self, make: Callable[[], object]) -> None:
        asyncio.run_coroutine_threadsafe(make(), self._loop).result(10)  # type: ignore[arg-type]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._to)
        except OSError:
            writer.transport.abort()
            self._tasks.discard(task)
            return
        up, down = (_Pipe(way, self._random) for way in self._ways)
        parts = [
            asyncio.create_task(part)
            for part in (
                self._take(reader, up), self._give(far_writer, up, self._light[0]),
                self._take(far_reader, down), self._give(writer, down, self._light[1]),
            )
        ]  # fmt: skip
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # The server's own callback would take a cancelled handler for an error.
            pass
        finally:
            for part in parts:
                part.cancel()
            for end in (writer, far_writer):
                end.transport.abort()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*parts, return_exceptions=True)
            self._tasks.discard(task)

    async def _take(self, reader: asyncio.StreamReader, pipe: _Pipe) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await pipe.queue.put((pipe.when_s(self._loop.time(), len(data)), data))
        # The end of the stream takes as long as its bytes.
        await pipe.queue.put((pipe.due_s, b""))
        await asyncio.Event().wait()

    async def _give(self, writer: asyncio.StreamWriter, pipe: _Pipe, light: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while True:
                due_s, data = await pipe.queue.get()
                await asyncio.sleep(max(0.0, due_s - self._loop.time()))
                await light.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()


class Links:
    """A thread that carries links, while in the block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._links: list[Link] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for link in self._links:
            asyncio.run_coroutine_threadsafe(link.close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def open(
        self, port: int, up: Way = STRAIGHT, down: Way | None = None, *, seed: int = 1,
        host: str = "127.0.0.1", to_host: str = "127.0.0.1",
    ) -> Link:  # fmt: skip
        """A link to ``to_host:port``. ``up``: from who connects, ``down``: back, as ``up`` unless given."""
        link = Link(self._loop, (to_host, port), (up, up if down is None else down), seed)
        asyncio.run_coroutine_threadsafe(link.listen(host), self._loop).result(10)
        self._links.append(link)
        return link


def round_trip(rtt_s: float, *, jitter: float = 0.0, rate: float = 0.0) -> Way:
    """Each direction of a link with this round trip."""
    return Way(rtt_s / 2, jitter, rate)
