"""A thread that goes before others for a moment: within this process always, and before others where the
system lets us."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# Enough to keep the core against whoever our own writes wake up; not so much as to starve the system.
HURRY: Final = -10
# How long one thread asks another for the interpreter's lock before that has to let it go: 5 ms else. No
# release takes so long. Whoever lets it go meanwhile asks for it as long: write with wire/raw_write alone.
LOCK_KEPT_S: Final = 0.5


@contextmanager
def first_in_line() -> Iterator[None]:
    """For the calling thread: it keeps the interpreter's lock as long as it waits for nothing, and it (on
    Linux; elsewhere the process) has a higher priority. That needs the right to raise one, as root has it."""
    lock_s = sys.getswitchinterval()
    sys.setswitchinterval(LOCK_KEPT_S)
    try:
        with _prior():
            yield
    finally:
        sys.setswitchinterval(lock_s)


@contextmanager
def _prior() -> Iterator[None]:
    """Without the right nothing changes."""
    try:
        before = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, HURRY)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)
