"""Clocks and the barrier over bad networks, in virtual time. A failure names its seed."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from builders import RUN_ID, settings
from network import Channel, DriftingClock, World

from lk_users.barrier.master import Announced, MasterBarrier, RunOver
from lk_users.barrier.messages import Kind
from lk_users.barrier.worker import Again, Build, Cancel, Collect, Finish, Release, WorkerBarrier, WorkerStep
from lk_users.clock import NS_PER_MS, NS_PER_S, OtherClock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lk_users.barrier.master import Action
    from lk_users.plan import Share

MS = NS_PER_MS
S = NS_PER_S
QUICK_PINGS, QUICK_PING_NS, PING_NS = 12, 100 * MS, 2 * S

# Clocks.


@dataclass
class Pinged:
    """What one simulated run of pings came to, sampled ten times a second: ns."""

    errors: list[int] = field(default_factory=list)
    uncertainties: list[int] = field(default_factory=list)
    clock: OtherClock = field(default_factory=lambda: OtherClock(newest_stands=True))


def pinged(
    seed: int, there_ms: float, back_ms: float, run_s: int = 30, step_ns: int = 0, **bad: float
) -> Pinged:
    """A worker pings its master as worker.py does; relative drift up to 100 ppm; a step in mid-run."""
    rng = random.Random(seed)
    world = World()
    ppm = rng.uniform(-50, 50)
    ours = DriftingClock(world, rng.randrange(10**15), ppm)
    # A relative drift of up to 100 ppm: each up to 50.
    theirs = DriftingClock(world, rng.randrange(10**15), rng.choice((-49.9, 49.9, rng.uniform(-49.9, 49.9))))
    there, back = Channel(world, rng, there_ms, **bad), Channel(world, rng, back_ms, **bad)  # type: ignore[arg-type]
    result = Pinged()
    pings = 0

    def ping() -> None:
        nonlocal pings
        sent_ns = ours.monotonic_ns()
        there.send(lambda: pong(sent_ns))
        pings += 1
        world.after(QUICK_PING_NS if pings < QUICK_PINGS else PING_NS, ping)

    def pong(sent_ns: int) -> None:
        stamp_ns = theirs.monotonic_ns()
        back.send(lambda: result.clock.add(sent_ns, stamp_ns, ours.monotonic_ns()))

    def sample() -> None:
        now_ns = ours.monotonic_ns()
        known = result.clock.offset(now_ns)
        if known is not None:
            result.errors.append(abs(known.to_theirs_ns(now_ns) - theirs.monotonic_ns()))
            result.uncertainties.append(known.uncertainty_ns)

    def step() -> None:
        ours.moved_ns += step_ns

    ping()
    world.every(100 * MS, sample)
    world.after(run_s * S // 2, step)
    world.play(lambda: False, run_s * S)
    return result


# There and back in ms, the rest as Channel has it; bounds on the medians of uncertainty and error in ms.
NETWORKS: dict[str, tuple[float, float, dict[str, Any], float, float]] = {
    "200 ms": (100, 100, {}, 101.5, 4.0),
    "80 ms": (40, 40, {}, 41.0, 1.6),
    "20 ms": (10, 10, {}, 10.5, 0.5),
    "spikes": (100, 100, {"spikes": 0.2}, 102.0, 5.0),
    "lossy": (100, 100, {"lost": 0.3, "doubled": 0.2, "jitter": 1.0, "spikes": 0.1}, 114.0, 15.0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_stated_uncertainty_is_never_smaller_than_the_true_error(name: str) -> None:
    """20 networks of each kind, 100 in all, at every moment of each run."""
    there_ms, back_ms, bad, uncertainty_ms, error_ms = NETWORKS[name]
    medians = []
    for number in range(20):
        seed = 1_000 + number
        one = pinged(seed, there_ms, back_ms, **bad)
        assert len(one.errors) > 200, f"seed {seed}"
        # Two readings are rounded to whole nanoseconds.
        short = [
            error - known for error, known in zip(one.errors, one.uncertainties, strict=True) if error > known
        ]
        assert max(short, default=0) <= 2, f"seed {seed}: too small by {max(short)} ns"
        assert one.clock.apart == 0, f"seed {seed}"
        medians.append((statistics.median(one.uncertainties), statistics.median(one.errors)))
    assert statistics.median(u for u, _ in medians) / MS <= uncertainty_ms
    assert statistics.median(e for _, e in medians) / MS <= error_ms


@pytest.mark.parametrize(("there_ms", "back_ms"), [(190, 10), (10, 190)])
def test_a_way_that_is_longer_in_one_direction_is_within_the_uncertainty(
    there_ms: float, back_ms: float
) -> None:
    """Nothing can tell it from an offset: the error is there, and stated."""
    one = pinged(7, there_ms, back_ms)
    assert all(e <= u + 2 for e, u in zip(one.errors, one.uncertainties, strict=True))
    assert 85 * MS < statistics.median(one.errors) < statistics.median(one.uncertainties) < 103 * MS


def test_intersecting_is_better_than_the_smallest_round_trip() -> None:
    """Where either way is quick at times, and seldom both."""
    one = pinged(3, 1, 1, jitter=100.0)
    assert statistics.median(one.uncertainties) < one.clock.trip_ns / 2


@pytest.mark.parametrize("step_s", [3.0, -3.0, 0.5])
def test_a_step_is_followed_by_the_next_ping_and_its_size_is_told(step_s: float) -> None:
    for seed in range(10):
        one = pinged(seed, 100, 100, step_ns=round(step_s * S))
        wrong = [at for at, (e, u) in enumerate(zip(one.errors, one.uncertainties, strict=True)) if e > u + 2]
        # A ping every 2 s and its way: 2.4 s, sampled ten times a second; one after another.
        assert 0 < len(wrong) <= 24, f"seed {seed}"
        assert wrong[-1] - wrong[0] == len(wrong) - 1, f"seed {seed}"
        assert one.clock.apart == 1, f"seed {seed}"
        assert abs(step_s) * S - 240 * MS <= one.clock.moved_ns <= abs(step_s) * S, f"seed {seed}"


# The barrier.

HEARTBEATS_MISSED_NS = 3 * S
TICK_NS = 200 * MS
SETTLED_NS = 300 * MS
PER_WORKER = 5
# Parking and building up to 120 s each, T0, sessions with their grace, trailers twice, and Locust's patience.
LONGEST_NS = (120 + 120 + 10 + 135 + 60 + 5) * S


@dataclass
class SimWorker:
    """A worker's barrier with the messages that worker.py sends for it."""

    name: str
    sim: Sim
    clock: DriftingClock
    there: Channel
    back: Channel
    barrier: WorkerBarrier = field(default_factory=WorkerBarrier)
    master_clock: OtherClock = field(default_factory=lambda: OtherClock(newest_stands=True))
    alive: bool = True
    count: int = 0
    decided: int = 0
    trailed: bool = False
    finished: bool = False
    shares: list[Share] = field(default_factory=list)
    release: Release | None = None
    due_ns: int = 0
    released_at_ns: list[int] = field(default_factory=list)
    """True time of each release."""
    errors: list[tuple[int, int]] = field(default_factory=list)
    """Of each release: how far from T0 on the master's clock, and what may be (1 ms: the timer's)."""
    late: bool = False

    def start(self) -> None:
        self.park()
        self.ping()
        self.sim.world.every(2 * S, self.park)

    def park(self) -> None:
        if self.barrier.step is WorkerStep.IDLE and not self.finished:
            self.send(Kind.PARKED, {"count": PER_WORKER, "trip_ns": self.master_clock.trip_ns})

    def ping(self) -> None:
        self.send(Kind.PING, {"sent_ns": self.clock.monotonic_ns()})
        quick = self.barrier.step is WorkerStep.ARMED or not self.master_clock.brackets
        self.sim.world.after(QUICK_PING_NS if quick else PING_NS, self.ping)

    def tell(self, kind: Kind) -> None:
        data = {"run": self.barrier.run_id, "burst": self.barrier.burst}
        if kind is Kind.DECIDED:
            data |= {
                "decided": self.decided,
                "welcomed": self.decided,
                "answered": self.decided,
                "ended": 0,
            }
        if kind is not Kind.TRAILER or self.trailed:
            self.send(kind, data)

    def send(self, kind: Kind, data: dict[str, Any]) -> None:
        if self.alive:
            self.there.send(lambda: self.sim.receive(self, kind, data))

    def receive(self, kind: Kind, data: Mapping[str, Any]) -> None:
        if not self.alive:
            return
        if kind is Kind.PONG:
            self.master_clock.add(data["sent_ns"], data["master_ns"], self.clock.monotonic_ns())
            if self.release is not None and self.clock.monotonic_ns() < self.due_ns - SETTLED_NS:
                self.set_timer(self.release)
            return
        after, rng = self.sim.world.after, self.sim.rng
        command = self.barrier.receive(kind, data)
        if isinstance(command, Build):
            self.shares.append(command.share)
            self.count, self.decided, self.trailed = command.share.count, 0, False
            self.release = None
            after(rng.randrange(3 * S), self.built)
        elif isinstance(command, Release):
            self.release = command
            self.set_timer(command)
            self.late |= self.clock.monotonic_ns() > self.due_ns
            self.tell(Kind.DECIDED)
        elif isinstance(command, Again):
            self.tell(command.kind)
        elif isinstance(command, Cancel):
            self.all_decided()
        elif isinstance(command, Collect):
            if command.cause:
                self.all_decided()
            after(rng.randrange(4 * S), self.trail)
        elif isinstance(command, Finish):
            self.finished = True

    def set_timer(self, release: Release) -> None:
        """The last one set counts."""
        known = self.master_clock.offset(self.clock.monotonic_ns())
        assert known is not None
        due_ns = self.due_ns = known.to_ours_ns(release.t0_ns)

        def go() -> None:
            if self.due_ns != due_ns:
                return
            # A clock that was set back has not come there yet.
            left_ns = self.clock.until_ns(due_ns)
            if left_ns > MS:
                self.sim.world.after(left_ns, go)
            elif self.release is release:
                self.go(release)

        self.sim.world.after(self.clock.until_ns(due_ns), go)

    def built(self) -> None:
        if not self.master_clock.brackets:
            self.sim.world.after(QUICK_PING_NS, self.built)
            return
        self.barrier.built()
        if self.barrier.step is WorkerStep.ARMED:
            self.tell(Kind.BUILT)

    def go(self, release: Release) -> None:
        self.release = None
        if self.alive and self.decided < self.count:
            self.released_at_ns.append(self.sim.world.now_ns)
            known = self.master_clock.offset(self.clock.monotonic_ns())
            assert known is not None
            error_ns = abs(self.sim.clock.monotonic_ns() - release.t0_ns)
            self.errors.append((error_ns, known.uncertainty_ns + MS))
            self.sim.world.after(self.sim.rng.randrange(20 * S), self.all_decided)

    def all_decided(self) -> None:
        self.decided = self.count
        self.tell(Kind.DECIDED)

    def trail(self) -> None:
        self.trailed = True
        self.tell(Kind.TRAILER)


class Sim:
    """A master and its workers over links of all kinds; at most one of them is killed."""

    def __init__(self, seed: int, *, kill: bool = False, step: bool = False, **bad: Any) -> None:
        self.rng = rng = random.Random(seed)
        self.world = World()
        self.clock = DriftingClock(self.world, rng.randrange(10**15), rng.uniform(-50, 50))
        self.bursts = rng.choice((1, 1, 2))
        count = rng.randint(1, 4)
        options = settings(count * PER_WORKER, bursts=str(self.bursts))
        self.barrier = MasterBarrier(RUN_ID, options, wall_offset_ns=0)
        self.over = 0
        self.announced: list[tuple[Announced, int]] = []
        self.workers: dict[str, SimWorker] = {}
        for number in range(count):
            name, delay_ms = f"w{number}", rng.choice((1, 10, 40, 100))
            clock = DriftingClock(self.world, rng.randrange(10**15), rng.uniform(-50, 50))
            there, back = (Channel(self.world, rng, delay_ms, **bad) for _ in range(2))
            self.workers[name] = SimWorker(name, self, clock, there, back)
            self.barrier.hello(name, f"region-{number}")
        self.killed = rng.choice(list(self.workers.values())) if kill else None
        if self.killed is not None:
            self.world.after(rng.randrange(30 * S), self._kill)
        self.moved_at_ns = 0
        self.moved = rng.choice(list(self.workers.values())) if step else None
        if self.moved is not None:
            self.world.after(rng.randrange(500 * MS, 15 * S), self._move)
        for worker in self.workers.values():
            worker.start()
        self.world.after(S, self._spawned)
        self.world.every(TICK_NS, lambda: self.do(self.barrier.tick(self.clock.monotonic_ns())))
        self.ended = self.world.play(lambda: self.over > 0, LONGEST_NS * self.bursts)

    def _spawned(self) -> None:
        total = PER_WORKER * len(self.workers)
        self.do(self.barrier.spawning_complete(total, self.clock.monotonic_ns()))

    def _kill(self) -> None:
        assert self.killed is not None
        killed = self.killed
        killed.alive = False

        def missed() -> None:
            self.do(self.barrier.lost(killed.name, "no heartbeat for 3 s", self.clock.monotonic_ns()))

        self.world.after(HEARTBEATS_MISSED_NS, missed)

    def _move(self) -> None:
        assert self.moved is not None
        self.moved_at_ns = self.world.now_ns
        self.moved.clock.moved_ns += self.rng.choice((-3 * S, 3 * S))

    def receive(self, worker: SimWorker, kind: Kind, data: Mapping[str, Any]) -> None:
        now_ns = self.clock.monotonic_ns()
        if kind is Kind.PING:
            self.send(worker, Kind.PONG, {"sent_ns": data["sent_ns"], "master_ns": now_ns})
            return
        self.do(getattr(self.barrier, kind.removeprefix("lk_"))(worker.name, data, now_ns))

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Announced):
                self.announced.append((action, self.world.now_ns))
            elif isinstance(action, RunOver):
                self.over += 1
            else:
                for worker in self.workers.values():
                    if action.worker in ("", worker.name):
                        self.send(worker, action.kind, action.data)

    @staticmethod
    def send(worker: SimWorker, kind: Kind, data: Mapping[str, Any]) -> None:
        worker.back.send(lambda: worker.receive(kind, data))


def check(sim: Sim) -> None:
    """What holds whatever the network does."""
    assert sim.ended, "the master never ended"
    assert sim.over == 1
    bursts = [announced.burst for announced, _ in sim.announced]
    assert bursts == sorted(set(bursts)), "two T0s for a burst"
    owned: set[tuple[int, int]] = set()
    for worker in sim.workers.values():
        for share in worker.shares:
            mine = {(share.burst, share.first + number) for number in range(share.count)}
            assert not mine & owned, "an ordinal of two workers"
            owned |= mine
        assert len(worker.released_at_ns) <= len(bursts), "released twice, or without a T0"
        for error_ns, allowed_ns in worker.errors:
            told = worker.late or worker.master_clock.apart
            assert told or error_ns <= allowed_ns, f"untold: released {error_ns / MS} ms off T0"
        for released_ns, (_, announced_ns) in zip(worker.released_at_ns, sim.announced, strict=False):
            assert released_ns > announced_ns, "released before its T0 was announced"
    for announced, _ in sim.announced:
        spans = sorted((share.first, share.first + share.count) for share in announced.shares.values())
        assert [end for _, end in spans[:-1]] == [first for first, _ in spans[1:]]
        assert (spans[0][0], spans[-1][1]) == (0, PER_WORKER * len(sim.workers))


BAD: dict[str, Any] = {"lost": 0.15, "doubled": 0.15, "jitter": 2.0, "spikes": 0.05}
SEEDS = 100


def test_lost_late_and_doubled_messages_cost_a_run_nothing() -> None:
    """Every worker takes part in every burst, and is known to the end; who heard T0 late knows it."""
    late = 0
    for seed in range(SEEDS):
        sim = Sim(seed, **BAD)
        try:
            check(sim)
            assert sim.barrier.reasons == []
            assert len(sim.announced) == sim.bursts
            for worker in sim.workers.values():
                assert len(worker.released_at_ns) == sim.bursts
                assert worker.trailed
                late += worker.late
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}: {exc}") from exc
    # T0 is said five times in its second.
    assert late <= SEEDS // 20


def test_a_killed_worker_ends_the_run_in_time_and_is_named() -> None:
    named = 0
    for seed in range(SEEDS):
        sim = Sim(seed, kill=True, **BAD)
        killed = sim.killed
        assert killed is not None
        try:
            check(sim)
            reasons = "; ".join(sim.barrier.reasons)
            missing = [worker for worker in sim.workers.values() if len(worker.released_at_ns) < sim.bursts]
            trailed = sim.barrier.workers[killed.name].trailed
            region = f"region-{killed.name.removeprefix('w')}"
            if not killed.alive and killed.shares and not trailed:
                assert f"worker {killed.name} ({region}) was lost: no heartbeat for 3 s" in reasons
                named += 1
            assert bool(reasons) >= bool(missing), "a worker took no part, and nobody says so"
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}: {exc}") from exc
    assert named > SEEDS // 4


def test_a_clock_that_moves_before_or_after_t0_is_told() -> None:
    """A burst that was announced before its worker's clock moved is true, or known not to be."""
    off = kept = 0
    for seed in range(SEEDS):
        sim = Sim(seed, step=True, in_order=True)
        moved = sim.moved
        assert moved is not None
        try:
            check(sim)
            for worker in sim.workers.values():
                assert worker is moved or worker.master_clock.apart == 0
            # The next ping but one is enough to see it.
            if sim.moved_at_ns and sim.world.now_ns - sim.moved_at_ns > 2 * PING_NS:
                assert moved.master_clock.apart == 1
            wrong = any(error_ns > allowed_ns for error_ns, allowed_ns in moved.errors)
            off, kept = off + wrong, kept + (not wrong)
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}: {exc}") from exc
    assert off > 0
    assert kept > SEEDS // 2


def test_a_link_that_loses_almost_everything_still_ends() -> None:
    for seed in range(20):
        try:
            check(Sim(seed, kill=seed % 2 == 0, lost=0.9, jitter=1.0))
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}: {exc}") from exc
