"""Time: this process's clocks, and where they lie against others.

All durations are measured on the monotonic clock; wall clocks are for display. Two other clocks matter:
the master's monotonic clock, on which T0 is announced, and the server's wall clock, which stamps dispatch,
job and join. Both are placed by brackets: an event stamped over there lies between two moments here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
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
class NodeClock:
    """One server node's wall clock against our monotonic one, from many brackets.

    Each stamp was taken over there between two moments here, so the offset lies in an interval. Intervals of
    many sessions are intersected; an older one is wider by what the two clocks may have drifted since. Where
    two do not meet (the node's clock was set in between) the narrower one stands.
    """

    brackets: int = 0
    apart: int = 0
    """Brackets that did not meet those before them."""
    _low_ns: int = 0
    _high_ns: int = 0
    _at_ns: int = 0

    def add(self, after_ns: int, stamp_ns: int, before_ns: int, resolution_ns: int = 0) -> None:
        """``stamp_ns`` was taken after ``after_ns`` and before ``before_ns``, cut to ``resolution_ns``."""
        low_ns, high_ns = stamp_ns - before_ns, stamp_ns + resolution_ns - after_ns
        if low_ns > high_ns:
            return
        known = self.interval_ns(before_ns)
        self.brackets += 1
        if known is not None:
            both = max(known[0], low_ns), min(known[1], high_ns)
            if both[0] > both[1]:
                self.apart += 1
                both = min(known, (low_ns, high_ns), key=lambda span: span[1] - span[0])
            low_ns, high_ns = both
        self._low_ns, self._high_ns, self._at_ns = low_ns, high_ns, max(self._at_ns, before_ns)

    def interval_ns(self, at_ns: int) -> tuple[int, int] | None:
        """Where the offset lies at ``at_ns`` on our clock; None before the first bracket."""
        if not self.brackets:
            return None
        drift_ns = abs(at_ns - self._at_ns) * DRIFT_PPM // 1_000_000
        return self._low_ns - drift_ns, self._high_ns + drift_ns

    def offset(self, at_ns: int) -> Offset | None:
        """As of ``at_ns`` on our clock; None before the first bracket."""
        known = self.interval_ns(at_ns)
        if known is None:
            return None
        return Offset((known[0] + known[1]) // 2, (known[1] - known[0] + 1) // 2)


class ServerClock:
    """The wall clocks of all server nodes that our sessions met. A room's stamps are those of its node."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeClock] = {}

    def add(
        self, node: str, after_ns: int, stamp_ns: int, before_ns: int, resolution_ns: int = 0
    ) -> None:  # fmt: skip
        """A bracket of this node, as in :meth:`NodeClock.add`."""
        self._nodes.setdefault(node, NodeClock()).add(after_ns, stamp_ns, before_ns, resolution_ns)

    def offset(self, node: str, at_ns: int) -> Offset | None:
        """None before the node's first bracket."""
        known = self._nodes.get(node)
        return known.offset(at_ns) if known is not None else None

    def summary(self, clock: Clock) -> dict[str, float]:
        """For the trailer; empty without a bracket. ``offset_ms``: how far the server's wall clock is ahead
        of ours, by the best known node, to within ``uncertainty_ms`` (of the least known); ``brackets``, and
        how many of them were ``apart`` from others of their node; ``nodes``, and ``nodes_apart_ms``, by
        which their clocks differ at least."""
        now_ns = clock.monotonic_ns()
        nodes = [node for node in self._nodes.values() if node.brackets]
        spans = [span for node in nodes if (span := node.interval_ns(now_ns)) is not None]
        if not spans:
            return {}
        narrowest = min(spans, key=lambda span: span[1] - span[0])
        ours_ns = clock.wall_ns() - now_ns
        return {
            "offset_ms": round(((narrowest[0] + narrowest[1]) / 2 - ours_ns) / NS_PER_MS, 3),
            "uncertainty_ms": round(max(high - low for low, high in spans) / 2 / NS_PER_MS, 3),
            "brackets": sum(node.brackets for node in nodes),
            "apart": sum(node.apart for node in nodes),
            "nodes": len(nodes),
            "nodes_apart_ms": round(
                max(0, max(s[0] for s in spans) - min(s[1] for s in spans)) / NS_PER_MS, 3
            ),
        }
