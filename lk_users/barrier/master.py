"""The master's side: gathers users, announces T0, waits for every last word. Pure state machine."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lk_users.barrier.messages import Kind
from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.course import FREE, BurstCourse, Role, Round, RoundResult
from lk_users.plan import Share, apportion, shares

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lk_users.course import Course
    from lk_users.settings.run import Settings

# A Locust message can be late by a second where a greenlet holds the hub.
T0_AHEAD_NS = NS_PER_S
T0_AHEAD_TRIPS = 4
# The dispatch, two reads of dispatches and of participants, the room's deletion: what a budget is spent on.
REQUESTS_A_SESSION = 6
# How long past the last session's own deadline a worker may stay silent about it.
DECISION_GRACE_NS = 15 * NS_PER_S
# Whoever has not reacted is told again; of T0 quickly, until it is known to have come.
REPEAT_NS = 2 * NS_PER_S
REPEAT_T0_NS = NS_PER_S // 5


class State(enum.StrEnum):
    """Where the master stands."""

    GATHERING = "gathering"
    BUILDING = "building"
    RUNNING = "running"
    COLLECTING = "collecting"
    RESTING = "resting"
    OVER = "over"


@dataclass(frozen=True)
class Send:
    """To do: send a message. ``worker``: its id; empty for all."""

    kind: Kind
    data: Mapping[str, Any]
    worker: str = ""


@dataclass(frozen=True)
class Announced:
    """Done: a round has its T0."""

    burst: int
    t0_wall_ns: int
    shares: Mapping[str, Share]


@dataclass(frozen=True)
class RunOver:
    """Done: nothing more will come."""


Action = Send | Announced | RunOver


@dataclass
class _WorkerState:
    region: str = ""
    placed: int = 0
    """Users that are to park there."""
    parked: int = 0
    share: Share | None = None
    trip_ns: int = 0
    built: bool = False
    heard_t0: bool = False
    decided: int = 0
    welcomed: int = 0
    answered: int = 0
    """Welcomed, or decided without a welcome."""
    ended: int = 0
    trailed: bool = False
    lost: str = ""

    @property
    def waited_for(self) -> bool:
        return self.share is not None and self.share.count > 0 and not self.lost

    @property
    def undecided(self) -> bool:
        return self.share is not None and self.decided < self.share.count

    @property
    def unanswered(self) -> bool:
        return self.share is not None and self.answered < self.share.count


@dataclass
class MasterBarrier:
    """The master's side of one run."""

    run_id: str
    settings: Settings
    wall_offset_ns: int = 0
    """Wall clock minus monotonic clock, for display."""
    course: Course | None = None
    """None: that of the settings' bursts."""
    result_of: Callable[[int, Round], RoundResult] = RoundResult
    """What a round came to, once it is over."""
    workers: dict[str, _WorkerState] = field(default_factory=dict)
    state: State = State.GATHERING
    burst: int = 0
    """The number of the round that was begun last: 1 is the first, not counting a baseline, which is 0."""
    rounds: list[Round] = field(default_factory=list)
    """Those that were begun."""
    done: list[RoundResult] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    """Why the run is void, as far as the barrier knows."""
    _next: Round = FREE
    _target: int | None = None
    _deadline_ns: int | None = None
    _cancel_cause: str = ""
    _stopped: bool = False
    """Was the run to end, whatever was still to come?"""
    _looked: bool = False
    _t0: Send | None = None
    _repeat_ns: int = 0

    def __post_init__(self) -> None:
        if self._free:
            self.state = State.RUNNING
            return
        if self.course is None:
            self.course = BurstCourse(self.settings)
        first = self.course.next(())
        assert first is not None, "a course without a round"
        self._next = first

    @property
    def _free(self) -> bool:
        return self.settings.release == "free"

    @property
    def shares(self) -> dict[str, Share]:
        """Who has which sessions of the round."""
        return {name: worker.share for name, worker in self.workers.items() if worker.share is not None}

    @property
    def is_last(self) -> bool:
        """Is the round that was begun last the run's last one, as far as is known?"""
        return self._free or any(begun.last for begun in self.rounds[-1:])

    def hello(self, worker: str, region: str) -> None:
        """A worker that may take part."""
        self.workers.setdefault(worker, _WorkerState()).region = region

    def placed(self, counts: Mapping[str, int]) -> None:
        """How many users each worker is to have."""
        for name, worker in self.workers.items():
            worker.placed = counts.get(name, 0)

    def parked(self, worker: str, data: Mapping[str, Any], now_ns: int) -> list[Action]:
        """So many of the worker's users are parked now; ``trip_ns``: its best round trip to us."""
        if worker in self.workers:
            self.workers[worker].parked = int(data["count"])
            self.workers[worker].trip_ns = int(data.get("trip_ns", 0))
            if self._free:
                return self._let_free(worker)
        return self._gathered(now_ns)

    def spawning_complete(self, target: int, now_ns: int) -> list[Action]:
        """Locust has spawned all it was asked for."""
        self._target = target
        if self.state is State.GATHERING and self._deadline_ns is None:
            self._deadline_ns = now_ns + round(self.settings.park_timeout_s * NS_PER_S)
        return self._gathered(now_ns)

    def built(self, worker: str, data: Mapping[str, Any], now_ns: int) -> list[Action]:
        """The worker's share is ready for T0."""
        state = self._current(worker, data)
        if state is None or self.state is not State.BUILDING:
            return []
        state.built = True
        if all(other.built for other in self.workers.values() if other.waited_for):
            return self._announce(now_ns)
        return []

    def decided(self, worker: str, data: Mapping[str, Any], now_ns: int) -> list[Action]:
        """How many of the worker's sessions are decided, and how far it is with ending them: ``ended`` grows
        with each step of that, and who gets on is not given up."""
        state = self._current(worker, data)
        if state is None:
            return []
        state.heard_t0 = True
        if data["ended"] > state.ended:
            state.ended = data["ended"]
            self._extend(now_ns)
        if data["decided"] > state.decided:
            state.decided, state.welcomed = data["decided"], data["welcomed"]
        state.answered = max(state.answered, data["answered"])
        return [*self._all_answered(), *self._all_decided(now_ns)]

    def records(self, worker: str, data: Mapping[str, Any], now_ns: int) -> list[Action]:
        """Records came: they are acknowledged, and prove that the worker still works."""
        if self._current(worker, data) is not None:
            self._extend(now_ns)
        return [Send(Kind.ACK, {"run": self.run_id, "sequence": data["sequence"]}, worker)]

    def trailer(self, worker: str, data: Mapping[str, Any], now_ns: int) -> list[Action]:
        """The worker's last word on the burst."""
        state = self._current(worker, data)
        if state is None:
            return []
        state.trailed = True
        self._extend(now_ns)
        return self._all_trailed(now_ns)

    def lost(self, worker: str, why: str, now_ns: int) -> list[Action]:
        """The worker is gone: nothing is waited for that only it could say."""
        state = self.workers.get(worker)
        if state is None or state.lost or self.state is State.OVER:
            return []
        open_share = state.waited_for and not state.trailed
        state.lost = why
        if open_share:
            self._say_lost(worker)
        if open_share and self.state is State.BUILDING:
            return self._cancel(f"worker {worker} was lost before T0", now_ns)
        if self.state in (State.GATHERING, State.RESTING) and not self._free:
            return self._lost_between(worker, state, now_ns)
        return [*self._all_answered(), *self._all_decided(now_ns), *self._all_trailed(now_ns)]

    def cancel(self, cause: str, now_ns: int) -> list[Action]:
        """The run is to end now: open sessions become ``cancelled``."""
        self._stopped = True
        return self._cancel(cause, now_ns)

    def _cancel(self, cause: str, now_ns: int) -> list[Action]:
        if self.state is State.OVER or self._cancel_cause:
            return []
        self._cancel_cause = cause
        if not self._free:
            self.reasons.append(cause)
        if self.state in (State.GATHERING, State.RESTING):
            return self._over()
        actions: list[Action] = [Send(Kind.CANCEL, {"run": self.run_id, "cause": cause})]
        if self.state is not State.COLLECTING:
            actions += self._collect(now_ns)
        return actions

    def tick(self, now_ns: int) -> list[Action]:
        """Time passes: act on deadlines."""
        if self._deadline_ns is None:
            return []
        if now_ns < self._deadline_ns:
            return self._again(now_ns)
        if self.state is State.GATHERING:
            parked = sum(worker.parked for worker in self.workers.values() if not worker.lost)
            limit = f"--park-timeout {self.settings.park_timeout_s:g}"
            return self.cancel(f"only {parked} of {self._target} users were ready in time ({limit})", now_ns)
        if self.state is State.BUILDING:
            late = [name for name, worker in self.workers.items() if worker.waited_for and not worker.built]
            return self.cancel(f"not built in time: {', '.join(late)}", now_ns)
        if self.state is State.RUNNING:
            return self._give_up(lambda worker: worker.undecided, now_ns)
        if self.state is State.COLLECTING:
            return self._give_up(lambda worker: not worker.trailed, now_ns)
        if self.state is State.RESTING:
            self.state = State.GATHERING
            self._deadline_ns = now_ns + round(self.settings.park_timeout_s * NS_PER_S)
            return self._gathered(now_ns)
        return []

    def _again(self, now_ns: int) -> list[Action]:
        """Once more to whoever has not reacted: the message may be lost, or its answer."""
        if now_ns < self._repeat_ns:
            return []
        self._repeat_ns = now_ns + REPEAT_NS
        waited_for = {name: worker for name, worker in self.workers.items() if worker.waited_for}
        if self.state is State.BUILDING:
            return [self._share_of(name) for name, worker in waited_for.items() if not worker.built]
        if self.state is State.COLLECTING:
            return [
                replace(self._collect_message(), worker=name)
                for name, worker in waited_for.items()
                if not worker.trailed
            ]
        if self.state is not State.RUNNING or self._t0 is None:
            return []
        if not all(worker.heard_t0 for worker in waited_for.values()):
            self._repeat_ns = now_ns + REPEAT_T0_NS
            return [
                replace(self._t0, worker=name) for name, worker in waited_for.items() if not worker.heard_t0
            ]
        again = [self._t0, self._look_message()] if self._looked else [self._t0]
        return [
            replace(message, worker=name)
            for name, worker in waited_for.items()
            if worker.undecided
            for message in again
        ]

    def progress(self) -> dict[str, int]:
        """Counts over all workers, for the line that people watch."""
        workers = self.workers.values()
        decided = sum(worker.decided for worker in workers)
        welcomed = sum(worker.welcomed for worker in workers)
        return {
            "parked": sum(worker.parked for worker in workers),
            "total": sum(worker.share.count for worker in workers if worker.share is not None),
            "decided": decided,
            "welcomed": welcomed,
            "failed": decided - welcomed,
        }

    def _current(self, worker: str, data: Mapping[str, Any]) -> _WorkerState | None:
        """The worker's state, if the message is about this run's current burst."""
        if data.get("run") != self.run_id or data.get("burst") != self.burst or worker not in self.workers:
            return None
        return self.workers[worker]

    def _let_free(self, worker: str) -> list[Action]:
        """The worker's users may start; its share counts as one, to be waited for at the end."""
        state = self.workers[worker]
        if self.state is not State.RUNNING:
            return []
        state.share = Share(self.run_id, 0, 0, 1)
        return [_share_message(worker, Share(self.run_id, 0, 0, 0))]

    def _gathered(self, now_ns: int) -> list[Action]:
        present = {name: worker for name, worker in self.workers.items() if not worker.lost}
        total = sum(worker.parked for worker in present.values())
        if self.state is not State.GATHERING or self._target is None or total != self._target or total == 0:
            return []
        return self._share({name: worker.parked for name, worker in present.items()}, now_ns)

    def _share(self, parked: Mapping[str, int], now_ns: int) -> list[Action]:
        """Begin the next round: each worker has its part of it, by how many users it has parked."""
        self.state = State.BUILDING
        self._looked = False
        self._deadline_ns = now_ns + round(self.settings.park_timeout_s * NS_PER_S)
        self._repeat_ns = now_ns + REPEAT_NS
        begun = self._next.of(sum(parked.values()))
        self.rounds.append(begun)
        # Bursts are counted as if there were no baseline before them.
        self.burst = len(self.rounds) - (self.rounds[0].role is Role.BASELINE)
        counts = apportion(begun.users, parked, {name: one.region for name, one in self.workers.items()})
        given = dict(zip(counts, shares(self.run_id, self.burst, list(counts.values()), begun), strict=True))
        for name, worker in self.workers.items():
            worker.share, worker.built, worker.decided, worker.trailed = given.get(name), False, 0, False
            worker.welcomed = worker.answered = worker.ended = 0
            worker.heard_t0 = False
        return [
            _share_message(name, share)
            for name, share in given.items()
            if share.count and not self.workers[name].lost
        ]

    def _share_of(self, name: str) -> Send:
        share = self.workers[name].share
        assert share is not None
        return _share_message(name, share)

    def _lost_between(self, worker: str, state: _WorkerState, now_ns: int) -> list[Action]:
        """Lost before its share of a round: nobody gets its users."""
        if not state.placed and not state.parked:
            return []
        return self._cut_short(worker, now_ns)

    def _cut_short(self, worker: str, now_ns: int) -> list[Action]:
        """The worker is gone with its users: what was to come can't be what was asked for."""
        self._say_lost(worker)
        if any(begun.role is Role.BURST for begun in self.rounds):
            self.reasons.append(f"{_a_round(self._next)} was to follow, and was not begun")
            return self._over()
        # What the run is about was intended: who has which session of it is settled, so that each has its
        # record.
        skipped = list(self.done)
        while self._next.role is not Role.BURST:
            skipped.append(RoundResult(self.burst, self._next))
            following = self._ask_course(skipped)
            if following is None:
                return self._over()
            self._next = following
        counts = {name: one.placed or one.parked for name, one in self.workers.items()}
        shared = self._share(counts, now_ns)
        self._cancel_cause = ""
        return [*shared, *self._cancel(f"worker {worker} was lost before T0", now_ns)]

    def _say_lost(self, worker: str) -> None:
        """Once."""
        reason = f"worker {worker} ({self.workers[worker].region}) was lost: {self.workers[worker].lost}"
        if reason not in self.reasons:
            self.reasons.append(reason)

    def _ask_course(self, done: Sequence[RoundResult]) -> Round | None:
        assert self.course is not None
        return self.course.next(done)

    def _announce(self, now_ns: int) -> list[Action]:
        self.state = State.RUNNING
        worst_ns = max((worker.trip_ns for worker in self.workers.values()), default=0)
        ahead_ns = max(T0_AHEAD_NS, T0_AHEAD_TRIPS * worst_ns)
        t0_ns = now_ns + ahead_ns
        timeout_ns = round(self.settings.session_timeout_s * NS_PER_S)
        self._deadline_ns = t0_ns + self.rounds[-1].length_ns + timeout_ns + DECISION_GRACE_NS
        t0_wall_ns = t0_ns + self.wall_offset_ns
        data = {"run": self.run_id, "burst": self.burst, "t0_ns": t0_ns, "t0_wall_ns": t0_wall_ns}
        self._t0 = Send(Kind.T0, data)
        self._repeat_ns = now_ns + REPEAT_T0_NS
        return [self._t0, Announced(self.burst, t0_wall_ns, self.shares)]

    def _all_answered(self) -> list[Action]:
        """Nobody waits any more, and yet there is time to watch on."""
        if self.state is not State.RUNNING or self._free or self._looked or not self.settings.watch_s:
            return []
        if any(worker.waited_for and worker.unanswered for worker in self.workers.values()):
            return []
        self._looked = True
        return [self._look_message()]

    def _look_message(self) -> Send:
        return Send(Kind.LOOK, {"run": self.run_id, "burst": self.burst})

    def _all_decided(self, now_ns: int) -> list[Action]:
        if self.state is not State.RUNNING or self._free:
            return []
        if any(worker.waited_for and worker.undecided for worker in self.workers.values()):
            return []
        return self._collect(now_ns)

    def _collect(self, now_ns: int) -> list[Action]:
        self.state = State.COLLECTING
        self._extend(now_ns)
        self._repeat_ns = now_ns + REPEAT_NS
        return [self._collect_message(), *self._all_trailed(now_ns)]

    def _collect_message(self) -> Send:
        """With the cause of a cancelled run: the message that said so may be lost."""
        cause = {"cause": self._cancel_cause} if self._cancel_cause else {}
        return Send(Kind.COLLECT, {"run": self.run_id, "burst": self.burst, **cause})

    def _extend(self, now_ns: int) -> None:
        """Whoever still sends gets the whole time again, and what --api-budget makes its requests take."""
        if self.state is State.COLLECTING:
            budget = self.settings.api_budget_per_minute
            requests = REQUESTS_A_SESSION * self.progress()["total"]
            paced_s = requests * 60 / budget if budget else 0.0
            self._deadline_ns = now_ns + round((self.settings.trailer_timeout_s + paced_s) * NS_PER_S)

    def _all_trailed(self, now_ns: int) -> list[Action]:
        if self.state is not State.COLLECTING:
            return []
        if any(worker.waited_for and not worker.trailed for worker in self.workers.values()):
            return []
        if self._free:
            return self._over()
        self.done.append(self.result_of(self.burst, self.rounds[-1]))
        begun_burst = any(begun.role is Role.BURST for begun in self.rounds)
        if self._stopped or (self._cancel_cause and begun_burst):
            return self._over()
        following = self._ask_course(self.done)
        if following is None:
            return self._over()
        self._next = following
        gone = [name for name, one in self.workers.items() if one.lost and (one.placed or one.parked)]
        if gone:
            return self._cut_short(gone[0], now_ns)
        self.state = State.RESTING
        self._deadline_ns = now_ns + max(round(following.rest_s * NS_PER_S), NS_PER_MS)
        return []

    def _give_up(self, late: Callable[[_WorkerState], bool], now_ns: int) -> list[Action]:
        actions: list[Action] = []
        for name, worker in list(self.workers.items()):
            if worker.waited_for and late(worker):
                actions += self.lost(name, "nothing more came from it in time", now_ns)
        return actions

    def _over(self) -> list[Action]:
        self.state = State.OVER
        self._deadline_ns = None
        return [Send(Kind.FINISH, {"run": self.run_id}), RunOver()]


def _share_message(worker: str, share: Share) -> Send:
    data = {"run": share.run_id, "burst": share.burst, "first": share.first, "count": share.count}
    return Send(Kind.SHARE, {**data, "round": share.round.to_dict()}, worker)


def _a_round(of: Round) -> str:
    return f"a {of.role} of {'1 user' if of.users == 1 else f'{of.users} users'}"
