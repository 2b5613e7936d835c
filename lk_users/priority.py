"""A thread that goes before others for a moment, where the system lets us."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# Enough to keep the core against whoever our own writes wake up; not so much as to starve the system.
HURRY: Final = -10


@contextmanager
def first_in_line() -> Iterator[None]:
    """For the calling thread (on Linux; elsewhere the process). Needs the right to raise a priority, as root
    has it; without it nothing changes."""
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
