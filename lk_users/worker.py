"""One process's users: parks them, builds and runs its share of each burst, keeps its journal.

It follows the barrier's commands and reports to the master by messages; whether those go over Locust's
network or stay in this process is the wiring's business.
"""

from __future__ import annotations

import gc
import logging
import resource
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from lk_users.barrier.messages import Kind
from lk_users.barrier.worker import (
    Again,
    Build,
    Cancel,
    Collect,
    Command,
    Finish,
    Look,
    Release,
    WorkerBarrier,
    WorkerStep,
)
from lk_users.books import NOTHING_YET, Books
from lk_users.burst import Burst, FreeUsers, Stage, Worker
from lk_users.carries import Carries
from lk_users.clock import NS_PER_MS, SystemClock
from lk_users.credentials import Tickets
from lk_users.engines.ground import Ground, break_ground
from lk_users.engines.idle import IdleEngine
from lk_users.engines.sdk_pool import SdkPool
from lk_users.errors import WireError
from lk_users.health import Trailer
from lk_users.master_link import MASTER_GONE_S, QUICK_PING_S, MasterLink, RecordsOut
from lk_users.plan import Share, planned, sessions
from lk_users.report.folder import append_reason
from lk_users.wire.backend import Backend
from lk_users.wire.datagrams import TickReader
from lk_users.wire.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lk_users.address import Address
    from lk_users.credentials import User
    from lk_users.engines.port import Engine, EngineListener
    from lk_users.engines.probe import Found
    from lk_users.plan import PlannedSession
    from lk_users.record import Mark, Record
    from lk_users.runtime import Runtime
    from lk_users.session import Session
    from lk_users.settings.process import ProcessSettings
    from lk_users.settings.run import Settings
    from lk_users.settings.target import Target
    from lk_users.sinks.locust_stats import LocustStats
    from lk_users.wire.api import Api
    from lk_users.wire.recording import Recording

logger = logging.getLogger(__name__)

PROGRESS_S = 0.5
# Ordinals of free users: worker by worker, so that none needs to ask.
FREE_STRIDE = 1024


class WorkerSide:
    """The users of one process in one run. Lives on greenlets; its sessions on the runtime's loop."""

    def __init__(
        self,
        name: str,
        index: int,
        settings: Settings,
        process: ProcessSettings,
        target: Target,
        runtime: Runtime,
        stats: LocustStats,
        send: Callable[[Kind, dict[str, Any]], None],
        master_gone: Callable[[], None],
    ) -> None:
        self.worker = Worker(name, process.region)
        self.settings = settings
        self._index = index
        self._process = process
        self._target = target
        self._runtime = runtime
        self._stats = stats
        self._send = send
        self._clock = SystemClock()
        self._barrier = WorkerBarrier()
        self._master = MasterLink(
            self._clock,
            ping=lambda sent_ns: send(Kind.PING, {"sent_ns": sent_ns}),
            near_t0=lambda: self._nears_t0,
            calm=self._park_again,
            silent=master_gone,
        )
        self._records_out = RecordsOut(lambda data: self._message(Kind.RECORDS, data), self._master)
        self._released: Release | None = None
        self._parked = 0
        self._tickets = Tickets(allow_cloud=process.allow_cloud)
        self._over = Event()
        self._decided_all = Event()
        self._started = Event()
        self._books: Books | None = None
        self._burst: Burst | None = None
        self._free: FreeUsers | None = None
        self._free_ordinal = index
        self._builder: gevent.Greenlet | None = None
        self._cancel_cause = ""
        self._late = ""
        self._excess = ""
        self._carries = Carries()
        self._trailer: Trailer | None = None
        self._ground: Ground | None = None
        self._witnesses = SdkPool(runtime.watch_child)
        self._freed = Event()
        self._freed.set()
        self._collected = Event()
        self._closing = False
        self._greenlets = [gevent.spawn(self._master.keep), gevent.spawn(self._progress)]

    # Users.

    def park(self, user: User) -> None:
        """A user's greenlet is ready; returns when the run is over."""
        self._parked += 1
        self._tickets.parked(user)
        self._tell_parked()
        self._over.wait()

    def one_free_session(self, user: User) -> None:
        """``--release free``: one session of the calling user, start to record."""
        if self._parked == 0:
            self._parked = 1
            self._tell_parked()
        self._started.wait()
        if self._closing or self._free is None or self._books is None:
            self._over.wait()
            return
        ordinal, self._free_ordinal = self._free_ordinal, self._free_ordinal + FREE_STRIDE
        self._books.share(Share(self._barrier.run_id, 0, ordinal, 1))
        item = planned(self._barrier.run_id, 0, ordinal, self.settings, self.worker.region)
        self._tickets.get(user, item)
        self._runtime.call(self._free.run(ordinal))

    # Messages.

    def receive(self, kind: str, data: Mapping[str, Any]) -> None:
        """A message of the master."""
        self._master.heard()
        if kind == Kind.PONG:
            self._master.pong(data)
            self._release_anew()
            return
        if kind == Kind.ACK:
            self._records_out.acknowledged(data)
            return
        command = self._barrier.receive(kind, data)
        if command is not None:
            self._obey(command)

    def stop(self, cause: str, patience_s: float) -> None:
        """This process is to end: its open sessions are cancelled, its records sent, as far as that goes."""
        if self._burst is not None and not self._collected.is_set():
            self._cancel(cause)
            if not self._closing:
                self._collect()
            self._collected.wait(patience_s)
        self.close()

    def finish_alone(self) -> None:
        """Without a master: the sessions that run come to their end, and all of it is in the journal. The
        run folder says why the run is void."""
        if self._books is None:
            return
        reason = (
            f"worker {self.worker.name} ({self.worker.region}): its master was gone for "
            f"{MASTER_GONE_S:.0f} s; it finished its sessions alone"
        )
        append_reason(self._process.run_dir / self._barrier.run_id, reason)
        if self._collected.is_set():
            return
        if self._burst is not None and self._burst.share.count:
            if not self._burst.announced:
                self._cancel("the master was gone before T0")
            self._decided_all.wait()
        if not self._closing:
            self._collect()
        self._collected.wait()

    def close(self) -> None:
        """Free what the run holds in this process. Idempotent."""
        self._over.set()
        gevent.killall(self._greenlets, block=False)
        if self._ground is not None:
            ground, self._ground = self._ground, None
            self._freed.clear()
            try:
                self._runtime.call(ground.close())
            finally:
                self._freed.set()
        # Whoever closes beside another stops the loop next: the other needs it to its end.
        self._freed.wait()
        if self._books is not None:
            self._books.close()

    # Reports of the burst, on the loop.

    def marked(self, session: Session, mark: Mark, at_ns: int) -> None:
        self._runtime.post(lambda: self._kept.marked(session, mark, at_ns))

    def decided(self, session: Session, record: Record) -> None:
        self._runtime.post(lambda: self._kept.decided(record))

    def recorded(self, record: Record, recording: Recording | None) -> None:
        self._runtime.post(lambda: self._kept.recorded(record, recording))

    def all_decided(self) -> None:
        self._runtime.post(self._all_are_decided)

    # Inside, on greenlets.

    def _obey(self, command: Command) -> None:
        if isinstance(command, Build):
            # Here, not in the greenlet: a message that comes before it runs is about this burst.
            self._begin()
            self._builder = gevent.spawn(self._build, command.share)
        elif isinstance(command, Release):
            self._release(command)
        elif isinstance(command, Look):
            self._look()
        elif isinstance(command, Cancel):
            self._cancel(command.cause)
        elif isinstance(command, Collect):
            if command.cause:
                self._cancel(command.cause)
            self._collect()
        elif isinstance(command, Again):
            self._say_again(command.kind)
        elif isinstance(command, Finish):
            gevent.spawn(self._finish)

    def _begin(self) -> None:
        """A burst of its own: nothing of the last one counts any more."""
        if self._books is not None:
            self._books.begin()
        self._collected.clear()
        self._decided_all.clear()
        self._closing = False
        self._cancel_cause = self._late = ""
        self._burst = None
        self._trailer = None
        self._released = None
        # Sessions are circles of references, and the collector itself may leave those of many bursts.
        gc.collect()

    def _finish(self) -> None:
        """A master that took this worker for lost does not wait for it, but its journal is to be whole."""
        if self._closing:
            self._collected.wait()
        self.close()

    def _build(self, share: Share) -> None:
        run_dir = self._process.run_dir / share.run_id
        if self._books is None:
            self._books = Books(
                run_dir, self.worker, self.settings, self._process.influx, self._stats, self._clock,
                self._runtime.meters, parked=lambda: self._parked,
            )  # fmt: skip
        self._books.series.building(share)
        if self._ground is None and self.settings.engine != "idle":
            room = f"lk-{share.run_id}-probe-{self.worker.name}"
            breaking = break_ground(
                self._target, self._endpoint(self._target), self.settings, self._witnesses, room,
                self._backend(), TickReader(self._runtime.selector()),
            )  # fmt: skip
            self._ground = self._runtime.call(breaking)
            _tell_way(self._ground.found)
        if self.settings.release == "free":
            self._begin_free(share)
            return
        if self._api is not None and share.total:
            # The budget is the run's: each worker has as much of it as of the sessions.
            budget = self.settings.api_budget_per_minute * share.count / share.total
            self._runtime.on_loop(self._api.limit, budget)
        self._excess = self._carries.excess(share.count)
        self._books.share(share)
        self._tickets.get_all(list(sessions(share, self.settings, self.worker.region)))
        burst = self._runtime.call(self._make_burst(share))
        self._burst = burst
        if self._cancel_cause:
            self._runtime.on_loop(burst.cancel, self._cancel_cause)
            return
        self._runtime.call(burst.build())
        while not (self._master.clock.brackets or self._cancel_cause):
            # T0 on the master's clock says nothing to who does not know that.
            gevent.sleep(QUICK_PING_S)
        self._barrier.built()
        self._message(Kind.BUILT, {})

    async def _make_burst(self, share: Share) -> Burst:
        """On the loop: peer connections belong to the loop that is running when they are made."""
        return Burst(share, self._stage(share.run_id))

    def _begin_free(self, share: Share) -> None:
        self._free = FreeUsers(self._stage(share.run_id), self._api)
        self._started.set()

    def _stage(self, run_id: str) -> Stage:
        return Stage(
            run_id, self.settings, self.worker, self._clock, self._runtime.meters, self, self._make_engine
        )

    @property
    def _kept(self) -> Books:
        """The books of a run that goes on."""
        assert self._books is not None
        return self._books

    @property
    def _api(self) -> Api | None:
        """None where nothing is asked: engine ``idle``, or no key to ask with."""
        return self._ground.api if self._ground is not None else None

    def _make_engine(self, item: PlannedSession, listener: EngineListener) -> Engine:
        if self.settings.engine == "idle":
            return IdleEngine(self._clock, listener)
        assert self._ground is not None
        return self._ground.engine(item, listener, self._tickets.take(item))

    def _backend(self) -> Backend | None:
        url = self.settings.session_url
        if url is None:
            return None
        process = self._process
        return Backend(self._endpoint(url), url.path or "/", process.session_headers, process.allow_cloud)

    def _endpoint(self, address: Address) -> Endpoint:
        if not address.host:
            return Endpoint.nowhere()
        try:
            return Endpoint.resolve(address.host, address.port, address.authority, tls=address.tls)
        except WireError as exc:
            # Every session will find so, and say so in its record.
            logger.warning("%s", exc.cause)
            return Endpoint((), address.port, address.authority)

    def _release(self, command: Release) -> None:
        assert self._burst is not None
        self._released = command
        t0_ns = self._t0_ns(command)
        late_ms = (self._clock.monotonic_ns() - t0_ns) / NS_PER_MS
        if late_ms > self.settings.max_start_error_ms:
            self._late = f"T0 came {late_ms:.0f} ms too late: its link to the master or it itself stood still"
        if self._api is not None and self.settings.dispatch in ("api", "room"):
            self._runtime.on_loop(self._api.spent, self._burst.share.count)
        self._kept.series.announced(t0_ns, command.t0_wall_ns)
        self._runtime.on_loop(self._burst.announce, t0_ns, command.t0_wall_ns)
        # The master hears that it came.
        self._tell_decided()

    def _release_anew(self) -> None:
        """The master's clock is known better, or was moved: until shortly before T0 that can count."""
        if self._burst is not None and self._released is not None and self._nears_t0:
            t0_ns = self._t0_ns(self._released)
            self._runtime.on_loop(self._burst.announce, t0_ns, self._released.t0_wall_ns)

    def _t0_ns(self, release: Release) -> int:
        """T0 on our monotonic clock."""
        offset = self._master.clock.offset(self._clock.monotonic_ns())
        assert offset is not None
        return offset.to_ours_ns(release.t0_ns)

    @property
    def _nears_t0(self) -> bool:
        """Is everything built, and T0 not past?"""
        if self._barrier.step is WorkerStep.ARMED:
            return True
        return self._released is not None and self._clock.monotonic_ns() < self._t0_ns(self._released)

    def _say_again(self, kind: Kind) -> None:
        if kind is Kind.DECIDED:
            self._tell_decided()
        elif kind is Kind.BUILT:
            self._message(Kind.BUILT, {})
        elif self._trailer is not None:
            self._message(Kind.TRAILER, {"trailer": self._trailer.to_dict()})

    def _look(self) -> None:
        if self._burst is not None and self._api is not None:
            self._runtime.on_loop(self._burst.look, self._api)

    def _cancel(self, cause: str) -> None:
        self._cancel_cause = cause
        if self._burst is not None:
            self._runtime.on_loop(self._burst.cancel, cause)
        if self._free is not None:
            self._closing = True
            self._runtime.on_loop(self._free.cancel, cause)

    def _collect(self) -> None:
        self._closing = True
        if self._books is not None:
            self._books.series.no_more_starts()
        gevent.spawn(self._collect_and_send)

    def _collect_and_send(self) -> None:
        if self._builder is not None:
            self._builder.join()
        if self._free is not None:
            while len(self._kept.records) < self._free_started:
                gevent.sleep(0.05)
            trailer = self._free_trailer()
        elif self._burst is not None:
            self._runtime.call(self._burst.collect(self._api))
            trailer = replace(
                self._burst.trailer(_peak_rss_mb()),
                **self._master.clock_figures(),
                witness_cpu_s=round(self._witnesses.spent_s(), 3),
                excess=self._excess,
                void=(self._late,) if self._late else (),
            )
        else:
            return
        # The records' own events came through the same queue, before the collect's end.
        self._kept.trailer(trailer)
        self._records_out.send(self._kept.records)
        self._trailer = self._kept.closed(trailer, last=self._is_last)
        if not self._master.gone:
            self._say_again(Kind.TRAILER)
        self._collected.set()

    @property
    def _is_last(self) -> bool:
        """Does nothing come after this round?"""
        last = self._burst is None or self._burst.share.round.last
        return last or bool(self._cancel_cause) or self._master.gone

    @property
    def _free_started(self) -> int:
        return (self._free_ordinal - self._index) // FREE_STRIDE

    def _free_trailer(self) -> Trailer:
        return Trailer(
            worker=self.worker.name,
            region=self.worker.region,
            burst=0,
            intended=self._free_started,
            recorded=len(self._kept.records),
            **self._master.clock_figures(),
            wall_step_ms=round(self._free.wall_step_ms(), 3) if self._free is not None else 0.0,
            lag={
                name: meter.summary(0, self._clock.monotonic_ns())
                for name, meter in self._runtime.meters.named()
            },
            cpu_s=round(time.process_time(), 3),
            rss_mb=_peak_rss_mb(),
            server_clock=self._free.server_clock() if self._free is not None else {},
        )

    def _tell_parked(self) -> None:
        self._send(Kind.PARKED, {"count": self._parked, "trip_ns": self._master.clock.trip_ns})

    def _tell_decided(self) -> None:
        self._message(Kind.DECIDED, self._progress_counts())

    def _all_are_decided(self) -> None:
        self._decided_all.set()
        self._tell_decided()

    def _message(self, kind: Kind, data: dict[str, Any]) -> None:
        self._send(kind, {"run": self._barrier.run_id, "burst": self._barrier.burst, **data})

    def _progress(self) -> None:
        told: dict[str, int] = {}
        while True:
            gevent.sleep(PROGRESS_S)
            counts = self._progress_counts()
            if self._barrier.run_id and counts != told and not self._collected.is_set():
                told = counts
                self._tell_decided()

    def _progress_counts(self) -> dict[str, int]:
        if self._books is None:
            return {**NOTHING_YET, "ended": 0}
        ended = len(self._books.records) if self._burst is None else self._burst.ended
        return {**self._books.counts, "ended": ended}

    def _park_again(self) -> None:
        """The master may have missed it."""
        if self._parked and self._barrier.step is WorkerStep.IDLE:
            self._tell_parked()


def _tell_way(found: Found) -> None:
    """Only where it is not the plain one."""
    if not found.tried:
        return
    failed = "; ".join(f"{way}: {cause}" for way, cause in found.tried.items())
    if found.way in found.tried:
        logger.warning("no way for media from here to the server: %s. Users will find no media.", failed)
    else:
        logger.info("media goes by %s (%s)", found.way, failed)


def _peak_rss_mb() -> float:
    """Peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024
