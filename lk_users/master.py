"""The run as a whole: drives the barrier, keeps the run folder, and comes to the verdict."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import logging
import secrets
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from lk_users.agent_watch import AgentWatch
from lk_users.barrier.master import Action, Announced, MasterBarrier, RunOver, Send, State
from lk_users.barrier.messages import Kind
from lk_users.clock import NS_PER_MS, NS_PER_S, SystemClock, WallWatch
from lk_users.course import Role
from lk_users.courses import course_of
from lk_users.health import Trailer, wall_step_words
from lk_users.outcome import OURS, Finding
from lk_users.plan import Share
from lk_users.record import Record
from lk_users.report.aside import PageMaker
from lk_users.report.folder import PAGE_FILE, BurstInfo, RunInfo, WorkerShare, append_reason
from lk_users.report.make import draft, ending, write_report
from lk_users.report.words import plural
from lk_users.returns import Returns
from lk_users.series import MASTER, RunSeries, open_stream
from lk_users.sinks.jsonl import Journal, journal_path
from lk_users.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lk_users.course import Round, RoundResult
    from lk_users.settings.process import ProcessSettings
    from lk_users.settings.run import Settings
    from lk_users.settings.target import Target
    from lk_users.verdict import Judgement

logger = logging.getLogger(__name__)

TICK_S = 0.05
PROGRESS_S = 2.0
SHOWN_PACKAGES = ("locust", "gevent", "livekit", "livekit-api", "livekit-protocol", "aiortc", "uvloop")


class RunMaster:
    """One run, seen from the process that leads it."""

    def __init__(
        self,
        settings: Settings,
        process: ProcessSettings,
        target: Target,
        send: Callable[[Kind, dict[str, Any], str], None],
        gone: Callable[[], Mapping[str, str]],
        over: Callable[[], None],
        regions: Mapping[str, str],
        places: Callable[[], Mapping[str, int]],
    ) -> None:
        """``send``: a message to a worker, to all where its id is empty. ``gone``: workers that left, and
        why. ``over``: called once when nothing more will come. ``regions``: of each worker that is there.
        ``places``: how many users each worker is to have, as far as that is settled.
        Raises OSError where the folder can't be made."""
        self.settings = settings
        self._clock = SystemClock()
        self._wall = WallWatch(self._clock)
        self._region = process.region
        now_ns, wall_ns = self._clock.monotonic_ns(), self._clock.wall_ns()
        started = dt.datetime.fromtimestamp(wall_ns / NS_PER_S, tz=dt.UTC)
        self.run_id = f"{started:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
        self.run_dir: Path = process.run_dir / self.run_id
        self.run_dir.mkdir(parents=True)
        self._send = send
        self._gone = gone
        self._over = over
        self._places = places
        self._returns = Returns(settings)
        self._course = course_of(settings)
        self._barrier = MasterBarrier(
            self.run_id,
            settings,
            wall_offset_ns=wall_ns - now_ns,
            course=self._course,
            result_of=self._result,
        )
        for worker, region in regions.items():
            self._barrier.hello(worker, region)
        self._copies: dict[str, Journal | None] = {}
        self._page = PageMaker(self.run_dir)
        self._beginning = gevent.Greenlet(self._page.begin)
        self._ended = Event()
        self._shown = ""
        self._shared = 0
        self._told = 0
        info = RunInfo(
            run_id=self.run_id,
            started=started.isoformat(timespec="milliseconds"),
            settings=settings.options,
            users=settings.users,
            cloud=target.cloud,
            target={"url": target.shown_url, "key": target.shown_key},
            versions=_versions(),
            process={"region": process.region},
        )
        info.write(self.run_dir)
        stream = open_stream(process.influx, self.run_dir, MASTER, self._clock)
        self._series = RunSeries(stream, info, settings)
        self._watch = AgentWatch(settings.agent_worker_urls, self.run_dir, self._clock, self._under_way)
        self._greenlet = gevent.spawn(self._drive)

    def receive(self, worker: str, kind: str, data: Mapping[str, Any]) -> None:
        """A message of a worker."""
        now_ns = self._clock.monotonic_ns()
        if kind == Kind.PING:
            self._send(Kind.PONG, {"sent_ns": data["sent_ns"], "master_ns": now_ns}, worker)
            return
        if kind == Kind.RECORDS:
            self._keep(worker, data["records"])
        handler = {
            Kind.PARKED: self._barrier.parked,
            Kind.BUILT: self._barrier.built,
            Kind.DECIDED: self._barrier.decided,
            Kind.RECORDS: self._barrier.records,
            Kind.TRAILER: self._barrier.trailer,
        }[Kind(kind)]
        if kind == Kind.TRAILER:
            self._keep_trailer(worker, data["trailer"])
        self._do(handler(worker, data, now_ns))

    def spawning_complete(self, users: int) -> None:
        self._do(self._barrier.spawning_complete(users, self._clock.monotonic_ns()))

    def cancel(self, cause: str) -> None:
        """End the run now; waits for nobody."""
        # Locust stops by itself when its last worker is gone: that is the cause, then.
        self._note_gone()
        self._do(self._barrier.cancel(cause, self._clock.monotonic_ns()))

    @property
    def workers(self) -> tuple[str, ...]:
        """The workers that were there at its start."""
        return tuple(self._barrier.workers)

    @property
    def is_over(self) -> bool:
        return bool(self._ended.is_set())

    def wait(self, patience_s: float) -> bool:
        """Until nothing more will come; False if that took longer."""
        return bool(self._ended.wait(patience_s))

    def judge(self) -> tuple[Judgement, str]:
        """Make the report. The verdict, and the text that ends the run."""
        self._greenlet.kill(block=False)
        self._watch.stop()
        wall_step_ns = self._wall.step_ns()
        if wall_step_ns:
            append_reason(
                self.run_dir, f"master ({self._region}): {wall_step_words(wall_step_ns / NS_PER_MS)}"
            )
        for reason in (*self._barrier.reasons, *self._course.void_reasons(self._barrier.done)):
            append_reason(self.run_dir, reason)
        for journal in self._copies.values():
            if journal is not None:
                journal.close()
        found = draft(self.run_dir)
        self._series.over(found)
        write_report(found)
        if self._beginning.started:
            self._beginning.join()
        if fault := self._page.make():
            logger.warning("%s was not made: %s", self.run_dir / PAGE_FILE, fault)
        return found.judgement, ending(self.run_dir)

    def _drive(self) -> None:
        due_s = 0.0
        while not self._ended.is_set():
            gevent.sleep(TICK_S)
            self._note_gone()
            self._do(self._barrier.tick(self._clock.monotonic_ns()))
            due_s += TICK_S
            if due_s >= PROGRESS_S:
                due_s = 0.0
                self._show()

    def _note_gone(self) -> None:
        now_ns = self._clock.monotonic_ns()
        for worker, why in self._gone().items():
            self._barrier.placed(self._places())
            self._do(self._barrier.lost(worker, why, now_ns))

    def _do(self, actions: list[Action]) -> None:
        if len(self._barrier.rounds) > self._shared:
            # Whatever is lost from now on is known to be missing.
            self._shared = len(self._barrier.rounds)
            self._returns.begin()
            self._burst_info(self._barrier.burst, self._barrier.shares).append(self.run_dir)
        if len(self._barrier.done) > self._told:
            self._told = len(self._barrier.done)
            if news := self._course.news(self._barrier.done):
                logger.info("%s", news)
        for action in actions:
            if isinstance(action, Send):
                self._tell_series(action)
                if action.kind is Kind.COLLECT and self._barrier.is_last:
                    # Not here: to start a process gives way to other greenlets, which may act as well.
                    self._beginning.start()
                self._send(action.kind, dict(action.data), action.worker)
            elif isinstance(action, Announced):
                self._announced(action)
            elif isinstance(action, RunOver):
                self._ended.set()
                self._over()

    def _tell_series(self, action: Send) -> None:
        if action.kind is Kind.SHARE and self.settings.release != "free":
            self._series.building()
        elif action.kind in (Kind.COLLECT, Kind.FINISH):
            self._series.no_more_starts()

    def _under_way(self) -> bool:
        return self._barrier.state in (State.RUNNING, State.COLLECTING)

    def _announced(self, action: Announced) -> None:
        t0_ns = action.t0_wall_ns - self._barrier.wall_offset_ns
        self._watch.announced(t0_ns)
        info = self._burst_info(action.burst, action.shares, action.t0_wall_ns)
        info.append(self.run_dir)
        self._series.announced(info, t0_ns)
        ready = "1 user is" if info.intended == 1 else f"{info.intended} users are"
        logger.info("%s ready: T0 of %s in 1 s", ready, info.round.named(action.burst))

    def _burst_info(self, burst: int, shares: Mapping[str, Share], t0_wall_ns: int = 0) -> BurstInfo:
        workers = self._barrier.workers
        parts = tuple(
            WorkerShare(worker=name, region=workers[name].region, first=share.first, count=share.count)
            for name, share in shares.items()
            if share.count
        )
        intended = sum(share.count for share in parts)
        of = self._barrier.rounds[-1]
        return BurstInfo(burst=burst, round=of, t0_wall_ns=t0_wall_ns, intended=intended, workers=parts)

    def _keep(self, worker: str, lines: list[str]) -> None:
        """A worker on another machine keeps its journal there; the run folder gets a copy."""
        records = [Record.from_json(line) for line in lines]
        self._returns.records(records)
        journal = self._copy(worker)
        if journal is not None:
            for record in records:
                if self.settings.release == "free":
                    # Free users have no share but what they started.
                    journal.share(Share(self.run_id, 0, record.ordinal, 1))
                journal.record(record)

    def _keep_trailer(self, worker: str, data: Mapping[str, Any]) -> None:
        trailer = Trailer.from_dict(dict(data))
        self._returns.trailer(trailer)
        journal = self._copy(worker)
        if journal is not None:
            journal.trailer(trailer)

    def _result(self, number: int, of: Round) -> RoundResult:
        """What a round came to. A baseline that failed is said at once: the rest may be worth no time."""
        result = self._returns.result(number, of)
        failed = [one for one in result.records if one.outcome not in (*OURS, Finding.OK)]
        if of.role is Role.BASELINE and failed and not self._barrier.done:
            first = failed[0]
            logger.warning("already alone, a session failed: %s (%s)", first.outcome, first.cause)
        return result

    def _copy(self, worker: str) -> Journal | None:
        if worker not in self._copies:
            exists = journal_path(self.run_dir, worker).exists()
            region = self._barrier.workers[worker].region if worker in self._barrier.workers else ""
            self._copies[worker] = None if exists else Journal(self.run_dir, worker, region)
        return self._copies[worker]

    def _show(self) -> None:
        """One line that people watch; only when it changed."""
        counts = self._barrier.progress()
        state = self._barrier.state
        role = self._barrier.rounds[-1].role if self._barrier.rounds else Role.BURST
        if state in (State.GATHERING, State.RESTING):
            text = f"{counts['parked']} of {self.settings.users} users parked"
        elif state is State.BUILDING:
            text = f"building {plural(counts['total'], 'session')} of the {role}: tokens, connections, offers"
        elif state is State.RUNNING:
            waiting = counts["total"] - counts["decided"]
            text = (
                f"{role}: {counts['welcomed']} heard the welcome, {counts['failed']} failed, {waiting} wait"
            )
        else:
            text = (
                f"{role}: all decided; asking the server about dispatches and jobs, leaving, deleting rooms"
            )
        if text != self._shown:
            self._shown = text
            logger.info("%s", text)


def _versions() -> dict[str, str]:
    found = {"lk-users": VERSION}
    for name in SHOWN_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
