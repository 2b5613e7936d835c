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
SLEW_PPM = 500
WALL_STEP_NS = 100 * NS_PER_MS
WALL_READS = 3


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
class OtherClock:
    """Another clock against our monotonic one, from many brackets.

    Each stamp was taken over there between two moments here, so the offset lies in an interval. Intervals of
    many exchanges are intersected, which keeps the quickest way in either direction; an older one is wider
    by what the two clocks may have drifted since. Where two do not meet, one of the clocks was moved.
    """

    newest_stands: bool = False
    """Of two that do not meet: the one whose exchange began later. For a clock that every new moment is
    converted by. Else the narrower one: for stamps that come out of order, from before a step and after."""
    brackets: int = 0
    apart: int = 0
    """Brackets that did not meet those before them."""
    moved_ns: int = 0
    """By how much they missed each other, added up: so far, at least, was a clock moved."""
    trip_ns: int = 0
    """The shortest bracket: of pings, the best round trip."""
    _low_ns: int = 0
    _high_ns: int = 0
    _at_ns: int = 0
    _began_ns: int = 0

    def add(self, after_ns: int, stamp_ns: int, before_ns: int, resolution_ns: int = 0) -> None:
        """``stamp_ns`` was taken after ``after_ns`` and before ``before_ns``, cut to ``resolution_ns``."""
        if before_ns < after_ns - resolution_ns:
            return
        trip_ns = max(0, before_ns - after_ns)
        # All that is known is kept as of the newest moment, whatever the order in which it came.
        at_ns = max(self._at_ns, before_ns) if self.brackets else before_ns
        late_ns = drift_ns(at_ns - before_ns)
        low_ns = stamp_ns - before_ns - late_ns
        high_ns = stamp_ns + resolution_ns - after_ns + drift_ns(trip_ns) + late_ns
        known = self.interval_ns(at_ns)
        self.trip_ns = min(self.trip_ns, trip_ns) if self.brackets else trip_ns
        self.brackets += 1
        if known is not None:
            low_ns, high_ns = self._merged(known, (low_ns, high_ns), began_ns=after_ns)
        self._low_ns, self._high_ns, self._at_ns = low_ns, high_ns, at_ns
        self._began_ns = max(self._began_ns, after_ns) if known is not None else after_ns

    def interval_ns(self, at_ns: int) -> tuple[int, int] | None:
        """Where the offset lies at ``at_ns`` on our clock; None before the first bracket."""
        if not self.brackets:
            return None
        aged_ns = drift_ns(at_ns - self._at_ns)
        return self._low_ns - aged_ns, self._high_ns + aged_ns

    def offset(self, at_ns: int) -> Offset | None:
        """As of ``at_ns`` on our clock; None before the first bracket."""
        known = self.interval_ns(at_ns)
        if known is None:
            return None
        return Offset((known[0] + known[1]) // 2, (known[1] - known[0] + 1) // 2)

    def _merged(self, known: tuple[int, int], new: tuple[int, int], began_ns: int) -> tuple[int, int]:
        """What both allow; where they do not meet, the one that stands."""
        both = max(known[0], new[0]), min(known[1], new[1])
        if both[0] <= both[1]:
            return both
        if self.newest_stands and began_ns < self._began_ns:
            # A late answer, from before the step that is counted already.
            return known
        self.apart += 1
        self.moved_ns += both[0] - both[1]
        return new if self.newest_stands else min(known, new, key=lambda span: span[1] - span[0])


def drift_ns(apart_ns: int) -> int:
    """What two clocks may have drifted in so long, rounded up."""
    return -(-abs(apart_ns) * DRIFT_PPM // 1_000_000)


class WallWatch:
    """Was the wall clock set since? It then no longer says when something was, only the monotonic one does.

    Slewing is no setting. NTP slews by at most 500 ppm (the kernel's own limit, adjtimex(2); RFC 5905 names
    it, too), and steps what is off by more than 128 ms. Linux slews the monotonic clock together with the
    wall clock, whatever the rate (clock_gettime(2)); elsewhere the difference may change by those 500 ppm.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_ns, self._ahead_ns = self._read()

    def step_ns(self) -> int:
        """By how much it was set, ahead or (negative) back; 0 where slewing and reading explain it."""
        now_ns, ahead_ns = self._read()
        change_ns = ahead_ns - self._ahead_ns
        slewed_ns = abs(now_ns - self._started_ns) * SLEW_PPM // 1_000_000
        return change_ns if abs(change_ns) > WALL_STEP_NS + slewed_ns else 0

    def _read(self) -> tuple[int, int]:
        """Our moment, and how far the wall clock is ahead; who is interrupted in between reads again."""
        reads = []
        for _ in range(WALL_READS):
            before_ns = self._clock.monotonic_ns()
            wall_ns = self._clock.wall_ns()
            reads.append((self._clock.monotonic_ns() - before_ns, before_ns, wall_ns - before_ns))
        _, now_ns, ahead_ns = min(reads)
        return now_ns, ahead_ns


class ServerClock:
    """The wall clocks of all server nodes that our sessions met. A room's stamps are those of its node."""

    def __init__(self) -> None:
        self._nodes: dict[str, OtherClock] = {}

    def add(
        self, node: str, after_ns: int, stamp_ns: int, before_ns: int, resolution_ns: int = 0
    ) -> None:  # fmt: skip
        """A bracket of this node, as in :meth:`OtherClock.add`."""
        self._nodes.setdefault(node, OtherClock()).add(after_ns, stamp_ns, before_ns, resolution_ns)

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
