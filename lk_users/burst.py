"""The sessions of one burst in one process: built, released at T0, decided, read, left. On the loop.

Between T0 and the last welcome nothing happens here but the sessions' own callbacks: the API is not asked,
results go into a queue for the greenlets, and garbage collection is off (from the first session built), since
one over the objects of all sessions would be a stall of its own.
"""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lk_users.clock import NS_PER_MS, NS_PER_S, ServerClock, WallWatch
from lk_users.ending import Ending, bounded
from lk_users.health import Trailer
from lk_users.plan import planned, sessions
from lk_users.priority import Precedence
from lk_users.record import Mark
from lk_users.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lk_users.clock import Clock
    from lk_users.engines.port import Engine, EngineListener
    from lk_users.evidence import ServerView
    from lk_users.health import LagMeter
    from lk_users.plan import PlannedSession, Share
    from lk_users.record import Record
    from lk_users.session import SessionObserver
    from lk_users.settings.run import Settings
    from lk_users.wire.api import Api
    from lk_users.wire.recording import Recording

# Sessions built at once: each waits for one or two connections, so a few dozen fill the time.
BUILD_CONCURRENCY = 32
# The loop's timers tick in ms; the rest of the way to T0 is spun.
SPIN_NS = 3 * NS_PER_MS
# So long before T0 the loop's thread takes precedence: enough for each process on this machine to do so.
PRECEDENCE_NS = 20 * NS_PER_MS
# From so long before T0 on it stays where it is.
SETTLED_NS = 300 * NS_PER_MS


@dataclass(frozen=True)
class Worker:
    """Who this process is in the run."""

    name: str
    region: str


class Reporter(Protocol):
    """Where a burst's results go; called on the loop, must not block."""

    def marked(self, session: Session, mark: Mark, at_ns: int) -> None: ...

    def decided(self, session: Session, record: Record) -> None:
        """A session is decided; its provisional record."""

    def recorded(self, record: Record, recording: Recording | None) -> None:
        """A session's final record, and the sound that it received, where its engine kept any."""

    def all_decided(self) -> None:
        """The last session of this process is decided."""


@dataclass(frozen=True)
class Meters:
    """The lag of both loops of a process."""

    asyncio: LagMeter
    gevent: LagMeter

    def named(self) -> tuple[tuple[str, LagMeter], ...]:
        return (("asyncio", self.asyncio), ("gevent", self.gevent))


@dataclass(frozen=True)
class Stage:
    """What every session of a process has around it in one run."""

    run_id: str
    settings: Settings
    worker: Worker
    clock: Clock
    meters: Meters
    reporter: Reporter
    make_engine: Callable[[PlannedSession, EngineListener], Engine]

    def session(self, item: PlannedSession, server_clock: ServerClock, observer: SessionObserver) -> Session:
        return Session(item, self.settings, self.clock, server_clock, observer, self.make_engine)

    def record(self, session: Session, view: ServerView | None = None, lag_ns: int = 0) -> Record:
        """Provisional without ``view``: before the server was asked."""
        return session.record(self.run_id, self.worker.name, self.worker.region, view, lag_ns)


class Burst:
    """One worker's share of one burst."""

    def __init__(self, share: Share, stage: Stage) -> None:
        self.share = share
        self._stage = stage
        self._clock = stage.clock
        self._meters = stage.meters
        self._reporter = stage.reporter
        self._undecided = share.count
        self._t0_ns = 0
        self._begun = False
        self._last_decided_ns = 0
        self._wall = WallWatch(stage.clock)
        self._wall_step_ns = 0
        self._cpu_start_s = time.process_time()
        self._cpu_s = self._welcome_cpu_s = 0.0
        self._read_cpu_s = 0.0
        self._records = 0
        self._timers: list[asyncio.TimerHandle] = []
        self._precedence = Precedence()
        self._views: dict[Session, ServerView] = {}
        self._looking: asyncio.Task[None] | None = None
        self._ending: Ending | None = None
        self._gc_was_on = gc.isenabled()
        self._server_clock = ServerClock()
        self.sessions = [
            stage.session(item, self._server_clock, self)
            for item in sessions(share, stage.settings, stage.worker.region)
        ]

    async def build(self) -> None:
        """Everything that can be done before T0."""
        # What is built lives to the end of the burst: a collection would look at all of it for nothing.
        gc.disable()
        await bounded((session.build() for session in self.sessions), BUILD_CONCURRENCY)

    def announce(self, t0_ns: int, t0_wall_ns: int) -> None:
        """Release at ``t0_ns`` on our monotonic clock, batch by batch. Said again, the last one counts, until
        ``SETTLED_NS`` before the release."""
        again = self.announced
        if self._begun or (again and self._clock.monotonic_ns() > self._t0_ns - SETTLED_NS):
            return
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._t0_ns = t0_ns
        loop = asyncio.get_running_loop()
        batches: dict[int, list[Session]] = {}
        for session in self.sessions:
            session.announce(t0_ns, t0_wall_ns)
            batches.setdefault(session.planned.offset_ns, []).append(session)
        for offset_ns, batch in batches.items():
            self._after(loop, t0_ns + offset_ns - PRECEDENCE_NS, self._precedence.take)
            self._after(loop, t0_ns + offset_ns - SPIN_NS, self._release, t0_ns + offset_ns, batch)
        if not self.sessions and not again:
            loop.call_soon(self._reporter.all_decided)

    @property
    def announced(self) -> bool:
        """Has it its T0?"""
        return self._t0_ns > 0

    def look(self, api: Api) -> None:
        """Ask the API a first time of every session: nobody waits for a welcome any more, anywhere."""
        if self._looking is None:
            ending = Ending(self.sessions, self._stage.settings, api, self._views)
            self._looking = asyncio.get_running_loop().create_task(ending.read())

    def cancel(self, cause: str) -> None:
        """End every session that is not decided."""
        for timer in self._timers:
            timer.cancel()
        self._precedence.give_back()
        for session in self.sessions:
            session.cancel(cause)
        self._restore_gc()

    async def collect(self, api: Api | None) -> None:
        """After the burst is decided everywhere: end the sessions, and report the final records."""
        self._restore_gc()
        before_s = time.process_time()
        await _given_up(self._looking)
        self._ending = Ending(self.sessions, self._stage.settings, api, self._views)
        await self._ending.end()
        self._read_cpu_s = time.process_time() - before_s
        for session, lag_ns in zip(self.sessions, self._lags_ns(), strict=True):
            record = self._stage.record(session, self._views.get(session), lag_ns)
            self._records += 1
            self._reporter.recorded(record, session.engine.recording())

    @property
    def ended(self) -> int:
        """Steps of the end that are done; it grows for as long as :meth:`collect` gets on."""
        return self._ending.steps + self._records if self._ending is not None else 0

    def trailer(self, rss_mb: float) -> Trailer:
        """This process's last word on the burst, but for what the burst does not know: the master's clock."""
        start_ns, end_ns = self._t0_ns - NS_PER_S, self._last_decided_ns
        return Trailer(
            worker=self._stage.worker.name,
            region=self._stage.worker.region,
            burst=self.share.burst,
            intended=self.share.count,
            recorded=self._records,
            lag={name: meter.summary(start_ns, end_ns) for name, meter in self._meters.named()},
            start_lag={
                name: meter.summary(start_ns, min(end_ns, self._t0_ns + 5 * NS_PER_S))
                for name, meter in self._meters.named()
            },
            cpu_s=round(self._cpu_s, 3),
            welcome_cpu_s=round(self._welcome_cpu_s, 3),
            read_cpu_s=round(self._read_cpu_s, 3),
            rss_mb=round(rss_mb, 1),
            wall_step_ms=round(self._wall_step_ns / NS_PER_MS, 3),
            server_clock=self._server_clock.summary(self._clock),
        )

    def marked(self, session: Session, mark: Mark, at_ns: int) -> None:
        if mark is Mark.WELCOMED:
            self._welcome_cpu_s = time.process_time() - self._cpu_start_s
        self._reporter.marked(session, mark, at_ns)

    def decided(self, session: Session) -> None:
        self._reporter.decided(session, self._stage.record(session))
        self._undecided -= 1
        if self._undecided == 0:
            self._last_decided_ns = self._clock.monotonic_ns()
            self._wall_step_ns = self._wall.step_ns()
            self._cpu_s = time.process_time() - self._cpu_start_s
            self._restore_gc()
            self._reporter.all_decided()

    def _after(
        self, loop: asyncio.AbstractEventLoop, at_ns: int, call: Callable[..., object], *args: object
    ) -> None:
        delay_s = (at_ns - self._clock.monotonic_ns()) / NS_PER_S
        self._timers.append(loop.call_later(max(0.0, delay_s), call, *args))

    def _release(self, due_ns: int, batch: Sequence[Session]) -> None:
        """The hot path: at the due moment every session of the batch writes, and nothing else happens."""
        clock = self._clock
        self._begun = True
        # Who takes our core in mid-release delays every write after it.
        self._precedence.take()
        try:
            while clock.monotonic_ns() < due_ns:
                pass
            for session in batch:
                session.fire()
        finally:
            self._precedence.give_back()
        loop = asyncio.get_running_loop()
        for session in batch:
            session.fired(loop)

    def _restore_gc(self) -> None:
        if self._gc_was_on:
            gc.enable()

    def _lags_ns(self) -> list[int]:
        """The largest lag of either loop while each session ran."""
        ends_ns = [session.intended_ns + (session.decided_ns or 0) for session in self.sessions]
        per_loop = [meter.running_largest_ns(self._t0_ns, ends_ns) for _, meter in self._meters.named()]
        return [max(lags) for lags in zip(*per_loop, strict=True)]


class FreeUsers:
    """``--release free``: each user starts when it is told to, and cleans up for itself."""

    def __init__(self, stage: Stage, api: Api | None) -> None:
        self._stage = stage
        self._api = api
        self._server_clock = ServerClock()
        self._wall = WallWatch(stage.clock)
        self._waiting: dict[Session, asyncio.Event] = {}
        self._views: dict[Session, ServerView] = {}
        self._looking: dict[Session, asyncio.Task[None]] = {}

    async def run(self, ordinal: int) -> Record:
        """One session, start to clean-up."""
        stage = self._stage
        item = planned(stage.run_id, 0, ordinal, stage.settings, stage.worker.region)
        session = stage.session(item, self._server_clock, self)
        done = self._waiting[session] = asyncio.Event()
        try:
            await session.build()
            session.announce(stage.clock.monotonic_ns(), stage.clock.wall_ns())
            session.fire()
            session.fired(asyncio.get_running_loop())
            await done.wait()
        finally:
            del self._waiting[session]
        await _given_up(self._looking.pop(session, None))
        await Ending([session], stage.settings, self._api, self._views).end()
        end_ns = session.intended_ns + (session.decided_ns or 0)
        lag_ns = max(meter.largest_ns(session.intended_ns, end_ns) for _, meter in stage.meters.named())
        record = stage.record(session, self._views.pop(session, None), lag_ns)
        stage.reporter.recorded(record, session.engine.recording())
        return record

    def wall_step_ms(self) -> float:
        """For the trailer."""
        return self._wall.step_ns() / NS_PER_MS

    def server_clock(self) -> dict[str, float]:
        """For the trailer."""
        return self._server_clock.summary(self._stage.clock)

    def cancel(self, cause: str) -> None:
        """End every session that is not decided."""
        for session in list(self._waiting):
            session.cancel(cause)

    def marked(self, session: Session, mark: Mark, at_ns: int) -> None:
        self._stage.reporter.marked(session, mark, at_ns)
        if mark == Mark.WELCOMED and self._stage.settings.watch_s and self._api is not None:
            ending = Ending([session], self._stage.settings, self._api, self._views)
            self._looking[session] = asyncio.get_running_loop().create_task(ending.read())

    def decided(self, session: Session) -> None:
        self._stage.reporter.decided(session, self._stage.record(session))
        if session in self._waiting:
            self._waiting[session].set()


async def _given_up(looking: asyncio.Task[None] | None) -> None:
    """A first look that is not done: what it has not read yet, the reads that follow do."""
    if looking is not None:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
