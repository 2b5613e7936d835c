"""Time: this process's clocks, and where they lie against others.

All durations are measured on the monotonic clock; wall clocks are for display. Two other clocks matter:
the master's monotonic clock, on which T0 is announced, and the server's wall clock, which stamps dispatch,
job and join. Both are placed by brackets: an event stamped over there lies between two moments here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
# Crystal oscillators of computers stay within 100 ppm (RFC 5905 assumes 15 ppm of a disciplined one).
DRIFT_PPM = 100


class Clock(Protocol):
    """The clocks of one process."""

    def monotonic_ns(self) -> int: ...

    def wall_ns(self) -> int: ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()


@dataclass(frozen=True)
class Offset:
    """Another clock's reading is ours plus ``offset_ns``, to within ``uncertainty_ns`` either way."""

    offset_ns: int
    uncertainty_ns: int

    def to_theirs_ns(self, ours_ns: int) -> int:
        return ours_ns + self.offset_ns

    def to_ours_ns(self, theirs_ns: int) -> int:
        return theirs_ns - self.offset_ns


@dataclass
class PingEstimator:
    """Offset to the master's monotonic clock by ping-pong: the smallest round trip wins.

    The reply's stamp lies somewhere between send and receipt, so the uncertainty is half the round trip,
    and grows with the estimate's age by the drift bound.
    """

    _best: tuple[int, int, int] | None = None  # (round trip, offset, taken at)

    def add(self, sent_ns: int, theirs_ns: int, received_ns: int) -> None:
        """One exchange: sent and received on our monotonic clock, stamped on theirs."""
        trip_ns = received_ns - sent_ns
        offset_ns = theirs_ns - (sent_ns + received_ns) // 2
        if self._best is None or trip_ns / 2 <= self._uncertainty_ns(received_ns):
            self._best = (trip_ns, offset_ns, received_ns)

    def at(self, now_ns: int) -> Offset | None:
        """The estimate as of now; None before the first exchange."""
        if self._best is None:
            return None
        return Offset(self._best[1], self._uncertainty_ns(now_ns))

    def _uncertainty_ns(self, now_ns: int) -> int:
        assert self._best is not None
        trip_ns, _, taken_ns = self._best
        return trip_ns // 2 + abs(now_ns - taken_ns) * DRIFT_PPM // 1_000_000


@dataclass
class ServerClock:
    """The server's wall clock against our monotonic one, from many brackets.

    Each stamp was taken over there between two moments here, so the offset lies in an interval; intervals
    of many sessions are intersected. Servers of a cluster differ: where intervals do not meet, the
    narrowest one stands alone.
    """

    _low_ns: int | None = None
    _high_ns: int | None = None
    _narrowest: tuple[int, int] | None = field(default=None)
    agree: bool = True

    def add(self, after_ns: int, stamp_ns: int, before_ns: int, resolution_ns: int = 0) -> None:
        """``stamp_ns`` was taken after ``after_ns`` and before ``before_ns``, cut to ``resolution_ns``."""
        low_ns, high_ns = stamp_ns - before_ns, stamp_ns + resolution_ns - after_ns
        if low_ns > high_ns:
            return
        if self._narrowest is None or high_ns - low_ns < self._narrowest[1] - self._narrowest[0]:
            self._narrowest = (low_ns, high_ns)
        if self._low_ns is None or self._high_ns is None:
            self._low_ns, self._high_ns = low_ns, high_ns
        elif max(self._low_ns, low_ns) > min(self._high_ns, high_ns):
            self.agree = False
        else:
            self._low_ns, self._high_ns = max(self._low_ns, low_ns), min(self._high_ns, high_ns)

    def offset(self) -> Offset | None:
        """None before the first bracket."""
        if self._narrowest is None or self._low_ns is None or self._high_ns is None:
            return None
        low_ns, high_ns = (self._low_ns, self._high_ns) if self.agree else self._narrowest
        return Offset((low_ns + high_ns) // 2, (high_ns - low_ns + 1) // 2)
