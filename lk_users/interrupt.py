"""Ctrl-C is for Locust's main greenlet, whichever greenlet it comes upon.

Python raises KeyboardInterrupt in whatever runs at that moment. In a greenlet, a user's or one of ours,
gevent shows it as a crash of that greenlet, which is gone then, although the run still has its end to make.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import gevent

if TYPE_CHECKING:
    from types import FrameType


def spare_greenlets() -> None:
    """From the main thread. Nothing where SIGINT means something else than Ctrl-C already."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)


def _interrupted(number: int, frame: FrameType | None) -> None:
    hub = gevent.get_hub()
    if gevent.getcurrent() is hub.parent:
        raise KeyboardInterrupt
    # As gevent does it for what a greenlet or its hub raises, but that nothing was raised.
    hub.loop.run_callback(hub.handle_system_error, KeyboardInterrupt, KeyboardInterrupt())
