"""A thread that goes before others for a moment, where the system lets us."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# Enough to keep the core against whoever our own writes wake up; not so much as to starve the system.
HURRY: Final = -10


class Precedence:
    """The place before all that is not real-time (on Linux; elsewhere before what is less urgent), for the
    thread that takes it and gives it back. That needs the right to, as root has it; without it nothing
    changes.

    Whoever is to run at a given moment takes it before it waits for that: to take it then, it would have to
    get a core first.
    """

    def __init__(self) -> None:
        self._undo: Callable[[], None] | None = None

    def take(self) -> None:
        """Idempotent."""
        if self._undo is None:
            self._undo = _raised()

    def give_back(self) -> None:
        """As it was before. Idempotent."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()


def may_precede() -> bool:
    """May a thread of ours go before all that is not real-time?"""
    try:
        undo = _real_time()
    except OSError:
        return False
    undo()
    return True


def _raised() -> Callable[[], None]:
    """Take what the system lets us have; gives the way back."""
    for way in (_real_time, _hurry):
        try:
            return way()
        except OSError:
            continue
    return lambda: None


def _real_time() -> Callable[[], None]:
    """Where Linux shares the cores between sessions first (sched_autogroup, as most distributions have it), a
    nice value counts only among the processes of one: not before a server in another. Raises OSError without
    the right to it."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    policy, param = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO)))
    return lambda: os.sched_setscheduler(0, policy, param)


def _hurry() -> Callable[[], None]:
    """Raises OSError without the right to it."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, HURRY)
    return lambda: os.setpriority(os.PRIO_PROCESS, 0, before)
