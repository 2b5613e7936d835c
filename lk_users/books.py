"""What a worker keeps of its sessions: journal, sounds, points, Locust's statistics, and the counts that it
tells. On greenlets: what the sessions' loop has to say comes here by its queue.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import gevent

from lk_users.course import Role
from lk_users.record import Mark
from lk_users.series import WorkerSeries, open_stream
from lk_users.sinks.jsonl import Journal
from lk_users.sinks.wav import FailedSounds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lk_users.burst import Meters, Worker
    from lk_users.clock import Clock
    from lk_users.health import Trailer
    from lk_users.plan import Share
    from lk_users.record import Record
    from lk_users.session import Session
    from lk_users.settings.process import Influx
    from lk_users.settings.run import Settings
    from lk_users.sinks.locust_stats import LocustStats
    from lk_users.wire.recording import Recording

NOTHING_YET: Final[Mapping[str, int]] = MappingProxyType({"decided": 0, "welcomed": 0, "answered": 0})


class Books:
    """Of one worker in one run, burst after burst."""

    def __init__(
        self,
        run_dir: Path,
        worker: Worker,
        settings: Settings,
        influx: Influx | None,
        stats: LocustStats,
        clock: Clock,
        meters: Meters,
        parked: Callable[[], int],
    ) -> None:
        """``parked``: how many of its users there are."""
        stream = open_stream(influx, run_dir, worker.name, clock)
        self.series = WorkerSeries(stream, worker, settings, clock, meters, parked)
        self.counts: dict[str, int]
        """Of the burst: ``decided``, of these ``welcomed``; ``answered`` wait for nothing any more."""
        self.records: list[Record]
        """Of the burst, final."""
        self._journal = Journal(run_dir, worker.name, worker.region)
        self._run_dir = run_dir
        self._stats = stats
        self.begin()

    def begin(self) -> None:
        """A burst of its own: nothing of the last one counts any more."""
        self.counts = dict(NOTHING_YET)
        self.records = []
        self._sounds = FailedSounds(self._run_dir)

    def share(self, share: Share) -> None:
        """What this worker will answer for."""
        self._journal.share(share)

    def marked(self, session: Session, mark: Mark, at_ns: int) -> None:
        self.series.marked(session.planned.ordinal, mark)
        self.counts["answered"] += mark == Mark.WELCOMED
        if session.planned.role is Role.BURST:
            self._stats.marked(mark, at_ns, session.marks_ns)

    def decided(self, record: Record) -> None:
        """Provisional: what the API says is still to come."""
        self._journal.decided(record)
        self.series.decided(record)
        self.counts["decided"] += 1
        self.counts["welcomed"] += record.welcomed
        self.counts["answered"] += not record.welcomed

    def recorded(self, record: Record, recording: Recording | None) -> None:
        """Final, with what was heard."""
        kept = self._sounds.keep(record, recording)
        if kept is not record:
            # Decoding took up to 70 ms: let the heartbeat pass.
            gevent.sleep(0)
        self._journal.record(kept)
        self.records.append(kept)
        if kept.role == Role.BURST:
            self._stats.recorded(kept)
        self.series.recorded(kept)

    def trailer(self, trailer: Trailer) -> None:
        """The worker's last word on the burst, but for its points."""
        self._journal.trailer(trailer)

    def closed(self, trailer: Trailer, *, last: bool) -> Trailer:
        """The same with what became of the points, once the database had its time. ``last``: of the run."""
        whole = self.series.closed(trailer, last=last)
        if whole is not trailer:
            self._journal.trailer(whole)
        return whole

    def close(self) -> None:
        """Idempotent."""
        self.series.close()
        self._journal.close()
