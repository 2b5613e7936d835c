"""The one native thread with its uvloop loop, and the way between it and the greenlets.

Locust patches the process: ``threading``, locks, sockets are gevent's. An asyncio loop run as a greenlet
would stall with every other greenlet, so the loop has a thread that gevent knows nothing of. Nothing waits
across the two: greenlets submit coroutines and are woken by a libev watcher; results come back through one
queue that one greenlet empties. Starts late, after Locust has forked.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import gevent
import gevent.hub
import gevent.monkey
from gevent.event import AsyncResult, Event

from lk_users.burst import Meters
from lk_users.clock import NS_PER_S, SystemClock
from lk_users.health import LAG_INTERVAL_NS, LagMeter
from lk_users.wire.aiortc_seam import quiet_logs

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from selectors import BaseSelector

T = TypeVar("T")
logger = logging.getLogger(__name__)
# Each wake costs both threads a switch: many events share one.
WAKE_S = 0.02
# The first ones tell what is wrong; hundreds of the same would only bury it.
SURPRISES_LOGGED = 10
LAG_INTERVAL_S = LAG_INTERVAL_NS / NS_PER_S


class Runtime:
    """The loop's thread. Made and used from greenlets of one process."""

    def __init__(self) -> None:
        self.meters = Meters(LagMeter(), LagMeter())
        self._clock = SystemClock()
        self._events: deque[Callable[[], None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: Any = None
        self._waking = False
        self._surprises = 0
        self._pending = Event()
        self._greenlets: list[gevent.Greenlet] = []

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None, "Runtime.start() comes first"
        return self._loop

    def start(self) -> None:
        """Start the thread. Idempotent."""
        if self._loop is not None:
            return
        # Real primitives: patched ones would yield to a hub that the new thread does not have.
        start_thread = gevent.monkey.get_original("_thread", "start_new_thread")
        started = gevent.monkey.get_original("_thread", "allocate_lock")()
        started.acquire()
        quiet_logs()
        start_thread(self._run, (started,))
        started.acquire()
        hub = gevent.get_hub()
        self._wake = hub.loop.async_()
        self._wake.start(self._pending.set)
        self._greenlets = [gevent.spawn(self._pump), gevent.spawn(self._meter_gevent)]

    def stop(self) -> None:
        """End the thread and its greenlets. Idempotent."""
        if self._loop is None:
            return
        loop, self._loop = self._loop, None
        loop.call_soon_threadsafe(loop.stop)
        gevent.killall(self._greenlets)
        self._wake.close()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop; the calling greenlet waits for its result."""
        done: AsyncResult = AsyncResult()

        def finish(task: asyncio.Task[T]) -> None:
            self.post(lambda: _hand_over(task, done))

        def begin() -> None:
            self.loop.create_task(coroutine).add_done_callback(finish)

        self.loop.call_soon_threadsafe(begin)
        return done.get()  # type: ignore[no-any-return]

    def on_loop(self, function: Callable[..., object], *args: object) -> None:
        """Call a function on the loop, soon."""
        self.loop.call_soon_threadsafe(function, *args)

    def post(self, event: Callable[[], None]) -> None:
        """From the loop: have a greenlet call ``event``, in order, within ``WAKE_S``."""
        self._events.append(event)
        if not self._waking:
            self._waking = True
            self.loop.call_later(WAKE_S, self._wake_greenlets)

    @staticmethod
    def selector() -> BaseSelector:
        """A new one for the loop's thread: gevent's would wait in a hub, and that thread has none."""
        made: BaseSelector = gevent.monkey.get_original("selectors", "DefaultSelector")()
        return made

    def watch_child(self, pid: int, ended: Callable[[int], None]) -> None:
        """From the loop: call ``ended`` there with the exit code of a child process, negative for a signal.

        gevent's loop reaps every child of the process, so it alone can tell.
        """

        def start() -> None:
            watcher = gevent.get_hub().loop.child(pid, ref=False)

            def tell() -> None:
                code = os.waitstatus_to_exitcode(watcher.rstatus)
                watcher.stop()
                watcher.close()
                if self._loop is not None:
                    self.on_loop(ended, code)

            watcher.start(tell)

        self.post(start)

    def _wake_greenlets(self) -> None:
        self._waking = False
        self._wake.send()

    def _run(self, started: Any) -> None:
        import uvloop

        self._loop = loop = uvloop.new_event_loop()
        loop.set_exception_handler(self._unexpected)
        asyncio.set_event_loop(loop)
        meter = loop.create_task(self._meter_asyncio())
        loop.call_soon(started.release)
        loop.run_forever()
        meter.cancel()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody caught on the loop. Logging takes locks that gevent patched, so a
        greenlet does it; a session that it cost still ends as a record, at its deadline."""
        self._surprises += 1
        if self._surprises <= SURPRISES_LOGGED:
            text = f"{context.get('message')}: {context.get('exception')!r}"
            self.post(lambda: logger.warning("on the sessions' loop: %s", text))

    def _pump(self) -> None:
        while True:
            self._pending.wait()
            self._pending.clear()
            while self._events:
                self._events.popleft()()

    async def _meter_asyncio(self) -> None:
        meter = self.meters.asyncio
        while True:
            before_ns = self._clock.monotonic_ns()
            await asyncio.sleep(LAG_INTERVAL_S)
            now_ns = self._clock.monotonic_ns()
            meter.add(now_ns, now_ns - before_ns - LAG_INTERVAL_NS)

    def _meter_gevent(self) -> None:
        meter = self.meters.gevent
        while True:
            before_ns = self._clock.monotonic_ns()
            gevent.sleep(LAG_INTERVAL_S)
            now_ns = self._clock.monotonic_ns()
            meter.add(now_ns, now_ns - before_ns - LAG_INTERVAL_NS)


def _hand_over(task: asyncio.Task[Any], done: AsyncResult) -> None:
    if task.cancelled():
        done.set_exception(asyncio.CancelledError())
    elif task.exception() is not None:
        done.set_exception(task.exception())
    else:
        done.set(task.result())
