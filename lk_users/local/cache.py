"""What is made once and kept: one maker at a time, and the long commands that make it."""

from __future__ import annotations

import contextlib
import fcntl
import time
from typing import TYPE_CHECKING, Final

from lk_users.local import process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lk_users.local.process import Pause

    Say = Callable[[str], None]

_PROGRESS_S: Final = 20.0


@contextlib.contextmanager
def locked(lock: Path, doing: str, say: Say, pause: Pause) -> Iterator[None]:
    """Hold the lock; the kernel releases it when we die, however we die. ``doing``: "building …"."""
    with lock.open("ab") as file:
        waited = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waited:
                    say(f"another process is {doing}: waiting for it …")
                waited = True
                pause(0.2)
            else:
                break
        yield


def run_logged(
    command: Sequence[str], env: Mapping[str, str], log: Path, say: Say, pause: Pause
) -> tuple[int, float]:
    """Run a long command beside its log with a line every 20 s; its return code and duration in seconds."""
    started = time.monotonic()
    next_line_s = _PROGRESS_S
    child = process.spawn(command, env=env, log=log, cwd=log.parent)
    try:
        while (code := process.ended(child)) is None:
            pause(process.POLL_S)
            elapsed_s = time.monotonic() - started
            if elapsed_s >= next_line_s:
                say(f"… still at it after {duration(elapsed_s)}")
                next_line_s += _PROGRESS_S
    finally:
        process.stop(child)
    return code, time.monotonic() - started


def duration(seconds: float) -> str:
    """In whole seconds: "12 s", "2 min 03 s"."""
    minutes, rest_s = divmod(round(seconds), 60)
    return f"{minutes} min {rest_s:02} s" if minutes else f"{rest_s} s"
