"""What is on its way to the database: every point that was accepted is accounted for. No network, no time.

::

    accepted = written + spooled + dropped{cause} + queued          queued is 0 once it is closed

One chunk of points is under way at a time. The database takes it (written), or refuses it: then it is sent
again in halves, until the point that it does not take is alone, and that one is dropped. Or it is not there,
and all that is in memory goes to the spool, a file that is sent when the database is back.

Memory: up to ``QUEUE_BYTES`` of points wait there for the database; more goes to the spool. Where neither
database nor disk takes them, of live points the last ``LIVE_KEPT`` are kept, and those of sessions all, which
are as many as the records that the process holds anyway; at the end what is left is dropped.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lk_users.sinks.points import LIVE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SINK: Final = "influx"
SPOOL_DIR: Final = "spool"
SPOOL_SUFFIX: Final = ".lp"
QUEUE_BYTES: Final = 8 << 20
# A session's point has 1 to 2 KB.
CHUNK_BYTES: Final = 1 << 20
CHUNK_POINTS: Final = 1_000
# Ten minutes of one worker.
LIVE_KEPT: Final = 600
_LIVE: Final = f"{LIVE},".encode()


@dataclass(frozen=True)
class Chunk:
    """Points that are sent together, a line each."""

    lines: tuple[bytes, ...]
    spooled: bool = False
    """They lie in the spool, and leave it when they are done with."""

    @property
    def body(self) -> bytes:
        return b"".join(self.lines)


class Spool:
    """Lines in a file, from the first that is not done with to its end. Made when it is first needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._done_bytes = 0
        self._size_bytes = 0

    def add(self, lines: Sequence[bytes]) -> tuple[int, str]:
        """How many of ``lines`` are in the file now, and why not all. Never a part of one."""
        taken, why = 0, ""
        if not lines:
            return taken, why
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            return 0, exc.strerror or str(exc)
        try:
            os.lseek(fd, self._size_bytes, os.SEEK_SET)
            body = memoryview(b"".join(lines))
            written_bytes = 0
            try:
                while written_bytes < len(body):
                    written_bytes += os.write(fd, body[written_bytes:])
            except OSError as exc:
                why = exc.strerror or str(exc)
            for line in lines:
                if written_bytes < len(line):
                    break
                written_bytes -= len(line)
                self._size_bytes += len(line)
                taken += 1
            if why:
                os.ftruncate(fd, self._size_bytes)
        finally:
            os.close(fd)
        self.count += taken
        return taken, why

    def head(self) -> tuple[bytes, ...]:
        """The first lines that are not done with, as many as go into a chunk. Raises OSError."""
        if not self.count:
            return ()
        with self.path.open("rb") as file:
            file.seek(self._done_bytes)
            lines = file.readlines(CHUNK_BYTES)
        return tuple(lines[: min(CHUNK_POINTS, self.count)])

    def done(self, lines: Sequence[bytes]) -> None:
        """The first lines, these, are done with. The file goes with its last."""
        self.count -= len(lines)
        self._done_bytes += sum(map(len, lines))
        if not self.count:
            self._done_bytes = self._size_bytes = 0
            self.path.unlink(missing_ok=True)

    def trim(self) -> None:
        """Leave in the file only what is not done with. Where the disk is full it stays as it is."""
        if not self._done_bytes:
            return
        draft = self.path.with_suffix(".draft")
        try:
            rest = self.path.read_bytes()[self._done_bytes : self._size_bytes]
            draft.write_bytes(rest)
            draft.replace(self.path)
        except OSError:
            draft.unlink(missing_ok=True)
        else:
            self._done_bytes, self._size_bytes = 0, len(rest)


class Parts:
    """A chunk as it is sent: whole, and in halves where it is refused, until the point that is at fault is
    alone."""

    def __init__(self) -> None:
        self._left: list[Chunk] = []

    @property
    def now(self) -> Chunk | None:
        """What to send; None: nothing is left."""
        return self._left[-1] if self._left else None

    @property
    def lines(self) -> list[bytes]:
        """All that is left."""
        return [line for chunk in reversed(self._left) for line in chunk.lines]

    def begin(self, chunk: Chunk) -> None:
        self._left = [chunk]

    def taken(self) -> Chunk:
        """The database has what was sent."""
        return self._left.pop()

    def refused(self) -> Chunk | None:
        """The database does not take what was sent: the one point that it was, None where it were more."""
        chunk = self._left.pop()
        half = len(chunk.lines) // 2
        if not half:
            return chunk
        # The first half on top: what lies in the spool is done with in its order.
        for lines in (chunk.lines[half:], chunk.lines[:half]):
            self._left.append(Chunk(lines, chunk.spooled))
        return None

    def clear(self) -> None:
        self._left.clear()


class Outbox:
    """The points of one process in one run."""

    def __init__(self, spool: Spool, queue_bytes: int = QUEUE_BYTES) -> None:
        self.accepted = 0
        self.written = 0
        self.dropped: Counter[str] = Counter()
        self.why = ""
        """Why points were spooled or dropped the last time; empty where none were."""
        self._spool = spool
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._queue_bytes = queue_bytes
        self._spill_at_bytes = queue_bytes
        self._parts = Parts()
        self._closed = False

    def accept(self, line: bytes) -> None:
        """Take a point."""
        self.accepted += 1
        self._queue.append(line)
        self._queued_bytes += len(line)
        if self._closed or self._queued_bytes > self._spill_at_bytes:
            self._to_disk([])

    @property
    def queued(self) -> int:
        """Points in memory, those under way included."""
        return len(self._queue) + len(self._in_memory())

    @property
    def spooled(self) -> int:
        """Points on disk."""
        return self._spool.count

    @property
    def is_empty(self) -> bool:
        return not self.queued and not self.spooled

    def counts(self) -> dict[str, Any]:
        """The account so far, as it is in ``summary.json``."""
        counts: dict[str, Any] = {"accepted": self.accepted, "written": self.written, "spooled": self.spooled}
        return {**counts, "dropped": dict(sorted((+self.dropped).items())), "why": self.why}

    def next(self) -> Chunk | None:
        """What to send now; then say what became of it. None: there is nothing."""
        if self._parts.now is None:
            lines = self._from_queue()
            spooled = not lines
            if spooled:
                try:
                    lines = self._spool.head()
                except OSError as exc:
                    self.why = exc.strerror or str(exc)
            if lines:
                self._parts.begin(Chunk(lines, spooled))
        return self._parts.now

    def taken(self) -> None:
        """The chunk under way is in the database."""
        chunk = self._parts.taken()
        self.written += len(chunk.lines)
        if chunk.spooled:
            self._spool.done(chunk.lines)

    def refused(self, cause: str) -> None:
        """The database does not take the chunk under way, and would not at another time."""
        bad = self._parts.refused()
        if bad is not None:
            self.why = cause
            self.dropped[cause] += 1
            if bad.spooled:
                self._spool.done(bad.lines)

    def unavailable(self, cause: str) -> None:
        """The database can't be asked now: what is in memory goes to disk."""
        self.why = cause
        self.park()

    def park(self) -> None:
        """What is in memory goes to disk, as far as that takes it."""
        under_way = self._in_memory()
        self._parts.clear()
        self._to_disk(under_way)

    def _to_disk(self, first: Sequence[bytes]) -> None:
        """These and what is queued. What is under way stays so."""
        waiting = [*first, *self._queue]
        taken, why = self._spool.add(waiting)
        left = waiting[taken:]
        if why:
            self.why = why
            left = self._kept(left, why)
        self._queue = deque(left)
        self._queued_bytes = sum(map(len, left))
        self._spill_at_bytes = self._queued_bytes + self._queue_bytes

    def close(self) -> None:
        """Nothing more is sent: what is in memory goes to disk, or is dropped."""
        self._closed = True
        self.park()
        self._spool.trim()

    def _from_queue(self) -> tuple[bytes, ...]:
        lines: list[bytes] = []
        size_bytes = 0
        while self._queue and len(lines) < CHUNK_POINTS and size_bytes < CHUNK_BYTES:
            lines.append(self._queue.popleft())
            size_bytes += len(lines[-1])
        self._queued_bytes -= size_bytes
        return tuple(lines)

    def _in_memory(self) -> list[bytes]:
        """Of what is under way: what came from the spool lies there still."""
        now = self._parts.now
        return [] if now is None or now.spooled else self._parts.lines

    def _kept(self, left: Sequence[bytes], why: str) -> list[bytes]:
        """What stays in memory of what the disk did not take."""
        live = sum(map(_is_live, left))
        too_many = len(left) if self._closed else max(0, live - LIVE_KEPT)
        self.dropped[why] += too_many
        if self._closed:
            return []
        kept = []
        for line in left:
            if too_many and _is_live(line):
                too_many -= 1
            else:
                kept.append(line)
        return kept


def _is_live(line: bytes) -> bool:
    """May it be dropped where nothing takes it?"""
    return line.startswith(_LIVE)


def total(accounts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The accounts of several processes as one; empty of none."""
    if not accounts:
        return {}
    dropped: Counter[str] = Counter()
    for account in accounts:
        dropped.update(account["dropped"])
    return {
        **{name: sum(account[name] for account in accounts) for name in ("accepted", "written", "spooled")},
        "dropped": dict(sorted(dropped.items())),
        "why": next((account["why"] for account in reversed(accounts) if account["why"]), ""),
    }
