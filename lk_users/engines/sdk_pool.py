"""The SDK's child processes: started, spoken with, and missed when they die. On the sessions' loop.

That loop has a thread that gevent knows nothing of, inside a process that gevent patched: asyncio's own
subprocesses need child watchers, ``subprocess`` is gevent's. So a child is spawned by ``posix_spawn``
(a fresh program, nothing of the SDK crosses a fork), its pipes are read when the loop says so, and its end
is told by the end of its output. ``posix``, not ``os``, wherever gevent replaces the latter: its ``close``
leaves the closing to a hub, and this thread's never runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import posix
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import lk_users
from lk_users.engines.sdk_lines import Lines, line, shown
from lk_users.errors import EngineCrashed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Watch = Callable[[int, Callable[[int], None]], None]

# Beyond it the SDK's one network thread grows faster than linearly, and a panic costs all of them.
SEATS: Final = 25
START_S: Final = 30.0
# A child that was told to end, or whose output ended, is gone within milliseconds.
END_S: Final = 3.0
_REAP_LOOK_S: Final = 0.01
_READ_BYTES: Final = 1 << 16
_LAST_WORDS_BYTES: Final = 2_000
_MODULE: Final = "lk_users.engines.sdk_child"
# A child gets tokens, not what makes them.
_WITHHELD: Final = ("LIVEKIT_API_", "LK_", "LOCUST_", "INFLUX_")


class Passenger(Protocol):
    """Who has a seat in a child."""

    def told(self, message: Mapping[str, Any]) -> None:
        """The child says something to this seat."""

    def crashed(self, cause: str) -> None:
        """The child is gone; nothing comes after it."""


class Child:
    """One process with up to ``SEATS`` users."""

    def __init__(self, watch: Watch) -> None:
        self.cpu_s = 0.0
        self.version = ""
        self.gone = ""
        """How it ended; empty while it lives."""
        self._loop = asyncio.get_running_loop()
        self._passengers: dict[int, Passenger] = {}
        self._numbers = itertools.count()
        self._lines = Lines()
        self._unsent = b""
        self._last_words = b""
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._exit_code: int | None = None
        self._pid, self._input, self._output, self._errors = _spawn()
        watch(self._pid, self._reaped)
        for handle in (self._input, self._output, self._errors):
            os.set_blocking(handle, False)
        self._loop.add_reader(self._output, self._read)
        self._loop.add_reader(self._errors, self._read_errors)

    @property
    def has_room(self) -> bool:
        return len(self._passengers) < SEATS and self._ended is None and self._input >= 0

    def seat(self, passenger: Passenger) -> int:
        """The number of a seat, taken from now on."""
        # Never one that was taken before: its last user's late words are not for the next.
        number = next(self._numbers)
        self._passengers[number] = passenger
        return number

    def free(self, number: int) -> None:
        self._passengers.pop(number, None)

    async def ready(self) -> None:
        """Until the SDK is loaded. Raises EngineCrashed."""
        try:
            async with asyncio.timeout(START_S):
                await asyncio.shield(self._ready)
        except TimeoutError as exc:
            raise EngineCrashed(f"an SDK child did not start within {START_S:g} s") from exc

    def write(self, data: bytes) -> None:
        """Now, as far as the pipe takes it; a child that is gone takes nothing."""
        if self._input < 0:
            return
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = os.write(self._input, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            # Its end is told by the end of its output.
            return
        if sent < len(data):
            self._unsent = data[sent:]
            self._loop.add_writer(self._input, self._write_on)

    async def close(self) -> None:
        """End it, whatever it does. Idempotent."""
        self._hang_up()
        for kill in (False, True):
            if kill:
                self._kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await self._over.wait()
                    return

    def _write_on(self) -> None:
        self._loop.remove_writer(self._input)
        data, self._unsent = self._unsent, b""
        self.write(data)

    def _hang_up(self) -> None:
        if self._input >= 0:
            self._loop.remove_writer(self._input)
            posix.close(self._input)
            self._input = -1

    def _read(self) -> None:
        data = _read(self._output)
        if data is None:
            return
        try:
            messages = self._lines.feed(data)
        except ValueError:
            # It cannot be understood any more: as good as gone.
            self._kill()
            messages = []
        for message in messages:
            self._hear(message)
        if not data:
            self._loop.remove_reader(self._output)
            self._ended = self._loop.create_task(self._end())

    def _read_errors(self) -> None:
        data = _read(self._errors)
        if data:
            self._last_words = (self._last_words + data)[-_LAST_WORDS_BYTES:]
        elif data is not None:
            self._loop.remove_reader(self._errors)

    def _hear(self, message: Mapping[str, Any]) -> None:
        if message["is"] == "ready":
            self.version = message["sdk"]
            self._ready.set_result(None)
            return
        self.cpu_s = max(self.cpu_s, message.get("cpu_s", 0.0))
        passenger = self._passengers.get(message["seat"])
        if passenger is not None:
            passenger.told(message)

    async def _end(self) -> None:
        """It is gone, or as good as: take its status, and tell its passengers."""
        status = await self._reap()
        self._read_errors()
        self._hang_up()
        self._loop.remove_reader(self._errors)
        posix.close(self._output)
        posix.close(self._errors)
        words = shown(self._last_words.decode("utf-8", "replace").strip().rpartition("\n")[2])
        self.gone = f"its SDK child ended: {status}" + (f"; its last words: {words}" if words else "")
        if not self._ready.done():
            self._ready.set_exception(EngineCrashed(self.gone))
            self._ready.exception()
        passengers, self._passengers = list(self._passengers.values()), {}
        for passenger in passengers:
            passenger.crashed(self.gone)
        self._over.set()

    def _reaped(self, exit_code: int) -> None:
        self._exit_code = exit_code

    async def _reap(self) -> str:
        """Its exit status in words, once it has one."""
        deadline_s = self._loop.time() + END_S
        while self._exit_code is None:
            try:
                pid, status = posix.waitpid(self._pid, os.WNOHANG)
            except ChildProcessError:
                # Somebody else took it, and will tell in a moment.
                if self._loop.time() > deadline_s:
                    return "its exit status is not known"
            else:
                if pid:
                    self._exit_code = os.waitstatus_to_exitcode(status)
                    break
                if self._loop.time() > deadline_s:
                    posix.kill(self._pid, signal.SIGKILL)
            await asyncio.sleep(_REAP_LOOK_S)
        if self._exit_code < 0:
            return f"killed by {signal.Signals(-self._exit_code).name}"
        return f"exit status {self._exit_code}"

    def _kill(self) -> None:
        # Not yet waited for, so its number can't be another's.
        if self._ended is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)


class SdkPool:
    """The children of one process, as many as its users need.

    ``watch``: tells the exit code of a process id (negative: a signal) on the loop, should somebody else take
    it. gevent's loop reaps whatever child ends.
    """

    def __init__(self, watch: Watch = lambda pid, ended: None) -> None:
        self._watch = watch
        self._children: list[Child] = []
        self._told_s = 0.0

    def spent_s(self) -> float:
        """CPU of all children since the last call, as far as they told it."""
        told_s, self._told_s = self._told_s, sum(child.cpu_s for child in self._children)
        return self._told_s - told_s

    async def board(self, passenger: Passenger) -> Seat:
        """A seat in a child that is ready. Raises EngineCrashed."""
        child = next((child for child in self._children if child.has_room), None)
        if child is None:
            try:
                child = Child(self._watch)
            except OSError as exc:
                raise EngineCrashed(f"no SDK child could be started: {exc.strerror or exc}") from exc
            self._children.append(child)
        seat = Seat(child, child.seat(passenger))
        await child.ready()
        return seat

    async def close(self) -> None:
        """End all children. Idempotent."""
        await asyncio.gather(*(child.close() for child in self._children))


class Seat:
    """One user's place in a child."""

    def __init__(self, child: Child, number: int) -> None:
        self._child = child
        self._number = number

    @property
    def version(self) -> str:
        """Of the SDK."""
        return self._child.version

    def order(self, do: str, **facts: str) -> bytes:
        """What ``give`` writes; made before, where the moment matters."""
        return line({"do": do, "seat": self._number, **facts})

    def give(self, order: bytes) -> None:
        self._child.write(order)

    def free(self) -> None:
        self._child.free(self._number)


def _spawn() -> tuple[int, int, int, int]:
    """A child's process id, and our ends of its input, output and errors. Raises OSError."""
    package = str(Path(lk_users.__file__).parent.parent)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_WITHHELD)}
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environ.get("PYTHONPATH"))))
    pipes = [os.pipe() for _ in range(3)]
    (their_input, our_input), (our_output, their_output), (our_errors, their_errors) = pipes
    ours, theirs = (our_input, our_output, our_errors), (their_input, their_output, their_errors)
    try:
        pid = posix.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", _MODULE],
            environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, handle, number) for number, handle in enumerate(theirs)],
            # Ctrl-C goes to all processes of a terminal: ours ends its children itself.
            setsigmask=[signal.SIGINT],
        )
    except OSError:
        for handle in ours:
            posix.close(handle)
        raise
    finally:
        for handle in theirs:
            posix.close(handle)
    return pid, *ours


def _read(handle: int) -> bytes | None:
    """What there is; empty at the end, None if there is nothing now."""
    try:
        return os.read(handle, _READ_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""
