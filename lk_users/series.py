"""What the processes of a run tell InfluxDB, and when. Where there is none, nothing.

Each worker writes its own points: a session's with its final record, its own with its last word on a burst,
and once a second where its users are. The leading process writes the run's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import gevent

from lk_users.clock import NS_PER_MS
from lk_users.record import Mark
from lk_users.report.folder import append_account
from lk_users.report.points import end_of, start_of, t0_of
from lk_users.sinks.outbox import SINK
from lk_users.sinks.points import live_point, session_point, worker_point

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lk_users.burst import Meters, Worker
    from lk_users.clock import Clock
    from lk_users.health import Trailer
    from lk_users.influx_stream import InfluxStream
    from lk_users.plan import Share
    from lk_users.record import Record
    from lk_users.report.folder import BurstInfo, RunInfo
    from lk_users.report.make import Draft
    from lk_users.settings.process import Influx
    from lk_users.settings.run import Settings
    from lk_users.sinks.points import Value

LIVE_S: Final = 1.0
# The master waits --trailer-timeout for a worker's last word.
SETTLE_S: Final = 15.0
SETTLE_SHARE: Final = 0.5
MASTER: Final = "master"


def settle_s(settings: Settings) -> float:
    """How long the end of a burst waits for the database at most."""
    return min(SETTLE_S, SETTLE_SHARE * settings.trailer_timeout_s)


def open_stream(influx: Influx | None, run_dir: Path, name: str, clock: Clock) -> InfluxStream | None:
    """The stream of a process; None where it has no database."""
    if influx is None:
        return None
    # With the client library, for those who need it.
    from lk_users.influx_stream import InfluxStream

    return InfluxStream(influx, run_dir, name, clock)


class WorkerSeries:
    """A worker's points in one run. Called on greenlets."""

    def __init__(
        self,
        stream: InfluxStream | None,
        worker: Worker,
        settings: Settings,
        clock: Clock,
        meters: Meters,
        parked: Callable[[], int],
    ) -> None:
        """``parked``: how many of its users there are."""
        self._stream = stream
        self._worker = worker
        self._settings = settings
        self._free = settings.release == "free"
        self._clock = clock
        self._meters = meters
        self._parked = parked
        self._share: Share | None = None
        self._zero_wall_ns = 0
        self._counts: Counter[str] = Counter()
        self._live: gevent.Greenlet | None = None

    def building(self, share: Share) -> None:
        """A share came. Free users start when they are spawned."""
        if self._stream is None:
            return
        self._share = share
        self._zero_wall_ns = 0
        self._counts.clear()
        if not self._free:
            self._stream.gate.shut(range(share.first, share.first + share.count))
        self._silence()
        self._live = gevent.spawn(self._tell, self._stream, share.run_id)

    def announced(self, t0_ns: int, t0_wall_ns: int) -> None:
        """``t0_ns`` on our monotonic clock."""
        if self._stream is not None and self._share is not None:
            self._zero_wall_ns = t0_wall_ns
            self._stream.gate.announce(t0_ns + self._share.round.length_ns)

    def marked(self, ordinal: int, mark: Mark) -> None:
        """A session passed a mark."""
        if self._stream is None:
            return
        self._counts[mark] += 1
        if mark == Mark.FIRED:
            self._stream.gate.fired(ordinal)

    def decided(self, record: Record) -> None:
        """A session's outcome stands."""
        if self._stream is None:
            return
        self._counts["over"] += Mark.FIRED in record.marks_ns
        self._counts["failed"] += not record.welcomed
        self._stream.gate.fired(record.ordinal)

    def recorded(self, record: Record) -> None:
        """A session's final record."""
        if self._stream is not None:
            if self._free:
                self._zero_wall_ns = min(
                    self._zero_wall_ns or record.intended_wall_ns, record.intended_wall_ns
                )
            self._stream.add(session_point(record))

    def no_more_starts(self) -> None:
        """No request of the burst will leave any more."""
        if self._stream is not None:
            self._stream.gate.open()

    def closed(self, trailer: Trailer, *, last: bool) -> Trailer:
        """The burst is over: the worker's last word, with what became of its points. ``last``: of the run."""
        if self._stream is None or self._share is None:
            return trailer
        self._silence()
        if self._zero_wall_ns:
            self._stream.add(worker_point(self._share.run_id, trailer, self._zero_wall_ns))
        account = self._stream.settle(settle_s(self._settings), last=last)
        return replace(trailer, sinks={SINK: account})

    def close(self) -> None:
        """Idempotent."""
        if self._stream is not None:
            self._silence()
            self._stream.close()

    def _silence(self) -> None:
        if self._live is not None:
            self._live.kill(block=False)

    def _tell(self, stream: InfluxStream, run_id: str) -> None:
        while True:
            figures: dict[str, Value] = {
                "parked": self._parked(),
                "in_flight": self._counts[Mark.FIRED] - self._counts["over"],
                "joined": self._counts[Mark.CONNECTED],
                "agents": self._counts[Mark.AGENT_SEEN],
                "welcomed": self._counts[Mark.WELCOMED],
                "failed": self._counts["failed"],
                "lag_ms": max(meter.peak_ns() for _, meter in self._meters.named()) / NS_PER_MS,
                "queued": stream.outbox.queued,
                "spooled": stream.outbox.spooled,
            }
            now_ns = self._clock.wall_ns()
            stream.add(live_point(run_id, self._worker.region, self._worker.name, figures, now_ns))
            gevent.sleep(LIVE_S)


class RunSeries:
    """The run's own points, from the process that leads it."""

    def __init__(self, stream: InfluxStream | None, info: RunInfo, settings: Settings) -> None:
        self._stream = stream
        self._info = info
        self._settings = settings
        if stream is not None:
            stream.add(start_of(info))

    def building(self) -> None:
        """A burst's shares are given out."""
        if self._stream is not None:
            self._stream.gate.shut()

    def announced(self, burst: BurstInfo, t0_ns: int) -> None:
        """``t0_ns`` on our monotonic clock."""
        if self._stream is not None:
            self._stream.add(t0_of(self._info, burst))
            self._stream.gate.announce(t0_ns + burst.round.length_ns)

    def no_more_starts(self) -> None:
        """No request of the burst will leave any more."""
        if self._stream is not None:
            self._stream.gate.open()

    def over(self, draft: Draft) -> None:
        """Its end, and the sessions whose workers did not come to say their last word."""
        if self._stream is None:
            return
        closed = {(trailer.worker, trailer.burst) for trailer in draft.merged.trailers}
        for record in draft.merged.records:
            if (record.worker, record.burst) not in closed:
                self._stream.add(session_point(record))
        self._stream.add(end_of(draft.info, draft.merged.records, draft.summary))
        append_account(draft.run_dir, MASTER, self._stream.settle(settle_s(self._settings), last=True))
