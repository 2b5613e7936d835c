"""Points on their way to InfluxDB while a run goes on: a greenlet that sends, once a second and when told to.

Whoever has a point only puts it into memory. What the database does not take goes to ``spool/`` in the run
folder and is sent from there when it is back: it is asked again after 1 s, then after twice as long each
time, up to 10 s.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent.event import Event

from lk_users.clock import NS_PER_S
from lk_users.sinks.gate import Gate
from lk_users.sinks.influx import Database
from lk_users.sinks.jsonl import plain_name
from lk_users.sinks.lines import line
from lk_users.sinks.outbox import SPOOL_DIR, SPOOL_SUFFIX, Outbox, Spool

if TYPE_CHECKING:
    from pathlib import Path

    from lk_users.clock import Clock
    from lk_users.settings.process import Influx
    from lk_users.sinks.influx import Answer
    from lk_users.sinks.points import Point

logger = logging.getLogger(__name__)

PERIOD_S: Final = 1.0
LOOK_S: Final = 0.1
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 10.0
# At the end of a burst: one try, and one more for a database that is just coming back.
LAST_TRIES: Final = 2


class InfluxStream:
    """The stream of one process in one run."""

    def __init__(self, influx: Influx, run_dir: Path, name: str, clock: Clock) -> None:
        self.gate = Gate()
        self.outbox = Outbox(Spool(run_dir / SPOOL_DIR / (plain_name(name) + SPOOL_SUFFIX)))
        self._influx = influx
        self._name = name
        self._clock = clock
        self._database = Database(influx)
        self._pause_s = 0.0
        self._due_ns = 0
        self._tries_left = 0
        self._hurry = Event()
        self._settled = Event()
        self._greenlet = gevent.spawn(self._work)

    def add(self, point: Point) -> None:
        """Take a point. Sends nothing."""
        self.outbox.accept(line(point))

    def settle(self, limit_s: float, *, last: bool) -> dict[str, Any]:
        """Send what there is, for at most ``limit_s``; the rest is on disk then. The account. ``last``:
        nothing more comes."""
        self._tries_left = LAST_TRIES
        self._settled.clear()
        self._hurry.set()
        if not self._settled.wait(limit_s):
            # Whether it was written nobody knows: it is sent again from the spool, which changes nothing.
            self._greenlet.kill()
            cause = f"no answer in {limit_s:g} s"
            self._say_down(cause)
            self.outbox.unavailable(cause)
            if not last:
                self._greenlet = gevent.spawn(self._work)
        self._tries_left = 0
        if last:
            self.close()
        self.outbox.park()
        return self.outbox.counts()

    def close(self) -> None:
        """Send nothing more; what is in memory goes to disk. Idempotent."""
        self._greenlet.kill()
        self.outbox.close()
        self._database.close()

    def _work(self) -> None:
        while True:
            self._hurry.wait(PERIOD_S)
            if self._hurry.is_set():
                self._hurry.clear()
                self._due_ns = 0
            self._send()
            if self._tries_left and self.outbox.is_empty:
                self._settled.set()

    def _send(self) -> None:
        """Until nothing is left, or the database can't be asked."""
        while True:
            now_ns = self._clock.monotonic_ns()
            if now_ns < self._due_ns:
                return
            if not self.gate.is_open(now_ns):
                gevent.sleep(LOOK_S)
                continue
            chunk = self.outbox.next()
            if chunk is None:
                return
            self._take(self._database.write(chunk.body))

    def _take(self, answer: Answer) -> None:
        if not answer.is_taken and not answer.is_refusal:
            self.outbox.unavailable(answer.cause)
            self._say_down(answer.cause)
            self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s or FIRST_PAUSE_S)
            if self._tries_left:
                self._pause_s = FIRST_PAUSE_S
                self._tries_left -= 1
                if not self._tries_left:
                    self._settled.set()
            self._due_ns = self._clock.monotonic_ns() + round(self._pause_s * NS_PER_S)
            return
        if answer.is_refusal:
            self.outbox.refused(answer.cause)
        else:
            self.outbox.taken()
        if self._pause_s:
            self._pause_s = 0.0
            logger.info("InfluxDB %s takes points of %s again", self._influx.url, self._name)

    def _say_down(self, cause: str) -> None:
        """Once each time that it goes away. Of one that never was there the start has said so."""
        if not self._pause_s and self.outbox.written:
            logger.warning(
                "InfluxDB %s: %s; points of %s go to %s/ meanwhile",
                self._influx.url, cause, self._name, SPOOL_DIR,
            )  # fmt: skip
