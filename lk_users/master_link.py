"""A worker's link to its master: its clock by ping-pong, whether it is still there, records sent until it has
them. On greenlets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from lk_users.clock import NS_PER_MS, OtherClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lk_users.clock import Clock
    from lk_users.record import Record

# The first pings come fast, and those shortly before T0; else they only keep the estimate fresh.
QUICK_PINGS = 12
QUICK_PING_S = 0.1
PING_S = 2.0
# A master that answers no ping for so long is gone; Locust itself would wait 60 s.
MASTER_GONE_S = 10.0
# One message of records; Locust's own queue carries heartbeats too.
RECORDS_BYTES = 64 * 1024
ACK_WAIT_S = 10.0
ACK_TRIES = 3


class MasterLink:
    """What one process knows of its master."""

    def __init__(
        self,
        clock: Clock,
        ping: Callable[[int], None],
        near_t0: Callable[[], bool],
        calm: Callable[[], None],
        silent: Callable[[], None],
    ) -> None:
        """``ping``: sends our moment. ``near_t0``: must the master's clock be known as well as can be?
        ``calm``: called after each ping where not. ``silent``: called once, when it is gone."""
        self.clock = OtherClock(newest_stands=True)
        self.gone = False
        self._ours = clock
        self._ping = ping
        self._near_t0 = near_t0
        self._calm = calm
        self._silent = silent
        self._unheard_s = 0.0

    def keep(self) -> None:
        """Ping until the master is gone; a greenlet's own."""
        pings = 0
        while not self.gone:
            self._ping(self._ours.monotonic_ns())
            pings += 1
            quick = pings < QUICK_PINGS or self._near_t0()
            if not quick:
                self._calm()
            pause_s = QUICK_PING_S if quick else PING_S
            # Counted, not timed: a process that was stopped for a while has heard nobody either.
            self._unheard_s += pause_s
            gevent.sleep(pause_s)
            if self._unheard_s >= MASTER_GONE_S:
                self.gone = True
                self._silent()

    def heard(self) -> None:
        """Any message of the master."""
        self._unheard_s = 0.0

    def pong(self, data: Mapping[str, Any]) -> None:
        """Its answer to a ping: our moment, and its own."""
        self.clock.add(data["sent_ns"], data["master_ns"], self._ours.monotonic_ns())

    def clock_figures(self) -> dict[str, Any]:
        """For the trailer: the master's clock against ours, and whether it always was so. What it moved by
        is uncertain, too."""
        known = self.clock
        offset = known.offset(self._ours.monotonic_ns())
        if offset is None:
            return {}
        return {
            "clock_offset_ms": round(offset.offset_ns / NS_PER_MS, 3),
            "clock_uncertainty_ms": round((offset.uncertainty_ns + known.moved_ns) / NS_PER_MS, 3),
            "clock_steps": known.apart,
            "clock_moved_ms": round(known.moved_ns / NS_PER_MS, 3),
        }


class RecordsOut:
    """Records on their way to the master: in pieces, one unacknowledged at a time."""

    def __init__(self, send: Callable[[dict[str, Any]], None], link: MasterLink) -> None:
        self._send = send
        self._link = link
        self._acks: dict[int, Event] = {}
        self._sequence = 0

    def send(self, records: Sequence[Record]) -> None:
        """Returns when the master has them, or will not have them."""
        lines: list[str] = []
        size = 0
        for record in records:
            line = record.to_json()
            if lines and size + len(line) > RECORDS_BYTES:
                self._send_piece(lines)
                lines, size = [], 0
            lines.append(line)
            size += len(line)
        if lines:
            self._send_piece(lines)

    def acknowledged(self, data: Mapping[str, Any]) -> None:
        """The master's own word that it has a piece."""
        self._acks.setdefault(int(data["sequence"]), Event()).set()

    def _send_piece(self, lines: list[str]) -> None:
        self._sequence += 1
        acked = self._acks.setdefault(self._sequence, Event())
        # Again until it is there: a connection that was cut takes along what was under way.
        for _ in range(ACK_TRIES):
            if self._link.gone or acked.is_set():
                return
            self._send({"sequence": self._sequence, "records": lines})
            acked.wait(ACK_WAIT_S)
