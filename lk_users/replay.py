"""Sends a run to InfluxDB once more, from its folder. Its points are the same each time."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lk_users.report.make import draft
from lk_users.report.points import points_of
from lk_users.sinks.lines import line
from lk_users.sinks.outbox import CHUNK_POINTS, SPOOL_DIR, SPOOL_SUFFIX, Chunk, Parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from lk_users.sinks.influx import Answer, Database


@dataclass
class Replayed:
    """What became of a run's points. ``stopped``: why not all were sent; empty if they were."""

    run_id: str
    sessions: int = 0
    spooled: int = 0
    written: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Cause → points that the database does not take."""
    stopped: str = ""

    @property
    def is_whole(self) -> bool:
        """Has the database every point?"""
        return not self.stopped and not self.refused


def replay(run_dir: Path, database: Database) -> Replayed:
    """Send all points of the run, then those of its spool; that goes once the database has all of it. Raises
    Refused where there is no run, RecordError where it cannot be read, OSError."""
    run = draft(run_dir)
    points = points_of(run.info, run.merged, run.summary)
    spools = sorted((run_dir / SPOOL_DIR).glob(f"*{SPOOL_SUFFIX}"))
    spooled = [entry for path in spools for entry in _whole_lines(path)]
    done = Replayed(run.info.run_id, sessions=len(run.merged.records), spooled=len(spooled))
    for chunk in _chunks(itertools.chain(map(line, points), spooled)):
        _send(chunk, database, done)
        if done.stopped:
            break
    if done.is_whole and spools:
        for path in spools:
            path.unlink()
        with contextlib.suppress(OSError):
            (run_dir / SPOOL_DIR).rmdir()
    return done


def _chunks(lines: Iterable[bytes]) -> Iterator[Chunk]:
    rest = iter(lines)
    while some := tuple(itertools.islice(rest, CHUNK_POINTS)):
        yield Chunk(some)


def _send(chunk: Chunk, database: Database, done: Replayed) -> None:
    parts = Parts()
    parts.begin(chunk)
    while parts.now is not None and not done.stopped:
        _take(parts, database.write(parts.now.body), done)


def _take(parts: Parts, answer: Answer, done: Replayed) -> None:
    if answer.is_taken:
        done.written += len(parts.taken().lines)
    elif not answer.is_refusal:
        done.stopped = answer.cause
    elif parts.refused() is not None:
        done.refused[answer.cause] += 1


def _whole_lines(path: Path) -> list[bytes]:
    """Without a last one that a kill cut."""
    return [entry for entry in path.read_bytes().splitlines(keepends=True) if entry.endswith(b"\n")]
