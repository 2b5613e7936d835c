"""A worker's journal: JSON lines that survive SIGKILL, since each leaves by one write to the kernel.

::

    {"kind": "share", "worker": …, "region": …, "share": {run_id, burst, first, count, round: {…}}}
    {"kind": "decided", "record": {…}}     provisional: before the server was asked what it knows
    {"kind": "record", "record": {…}}      final
    {"kind": "trailer", "trailer": {…}}

Read back by :mod:`lk_users.report.folder`.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from lk_users.health import Trailer
    from lk_users.plan import Share
    from lk_users.record import Record

WORKERS_DIR: Final = "workers"
SHARE: Final = "share"
DECIDED: Final = "decided"
RECORD: Final = "record"
TRAILER: Final = "trailer"


def journal_path(run_dir: Path, worker: str) -> Path:
    """Where the journal of ``worker`` lies; a name with other than plain characters is made plain."""
    return run_dir / WORKERS_DIR / (plain_name(worker) + ".jsonl")


def plain_name(worker: str) -> str:
    """The worker's name as a file may have it."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", worker)


class Journal:
    """The journal of one worker. Raises OSError where the disk does not take it."""

    def __init__(self, run_dir: Path, worker: str, region: str) -> None:
        self._worker = worker
        self._region = region
        self.path = journal_path(run_dir, worker)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def share(self, share: Share) -> None:
        self._write(SHARE, json.dumps(asdict(share)), worker=self._worker, region=self._region)

    def decided(self, record: Record) -> None:
        self._write(DECIDED, record.to_json(), key=RECORD)

    def record(self, record: Record) -> None:
        self._write(RECORD, record.to_json())

    def trailer(self, trailer: Trailer) -> None:
        self._write(TRAILER, json.dumps(trailer.to_dict()))

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, kind: str, body: str, *, key: str = "", **names: str) -> None:
        head = "".join(f',"{name}":{json.dumps(value)}' for name, value in names.items())
        line = memoryview(
            f'{{"kind":"{kind}"{head},"{key or kind}":{body}}}\n'.encode("utf-8", "backslashreplace")
        )
        # One write as a rule; a full pipe or disk may take a part, and half a line would be no line.
        while line:
            line = line[os.write(self._fd, line) :]
