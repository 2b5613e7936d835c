"""Asks the agent's workers for their load while a run goes on. On greenlets of the process that leads it.

Once as the run begins, then every second from one second after each T0 until the burst's rooms are gone:
never around the release, whose moment is nobody else's.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import gevent

from lk_users.clock import NS_PER_S
from lk_users.report.folder import append_sample
from lk_users.wire.agent_http import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lk_users.clock import Clock

logger = logging.getLogger(__name__)

PERIOD_S: Final = 1.0
# Off the release by this much: nothing is asked from its announcement, at least as long before it, on.
CLEAR_NS: Final = NS_PER_S


class AgentWatch:
    """One greenlet a worker, from now to ``stop``."""

    def __init__(
        self, urls: Sequence[str], run_dir: Path, clock: Clock, under_way: Callable[[], bool]
    ) -> None:
        """``under_way``: is a burst announced, and not yet cleaned up?"""
        self._run_dir = run_dir
        self._clock = clock
        self._under_way = under_way
        self._clear_ns = 0
        self._greenlets = [gevent.spawn(self._watch, url) for url in urls]

    def announced(self, t0_ns: int) -> None:
        """The next release, on our monotonic clock."""
        self._clear_ns = t0_ns + CLEAR_NS

    def stop(self) -> None:
        """Ask no more. Idempotent."""
        gevent.killall(self._greenlets, block=False)

    def _watch(self, url: str) -> None:
        first = ask(url, self._clock)
        append_sample(self._run_dir, first)
        if first.error:
            logger.warning("--agent-worker-url %s: %s; its load will be missing", url, first.error)
        while True:
            gevent.sleep(PERIOD_S)
            if self._under_way() and self._clock.monotonic_ns() >= self._clear_ns:
                append_sample(self._run_dir, ask(url, self._clock))
