from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from builders import RUN_ID, burst_round, settings

from lk_users.barrier.master import DECISION_GRACE_NS, Announced, MasterBarrier, RunOver, Send, State
from lk_users.barrier.messages import Kind, refusal
from lk_users.barrier.worker import (
    Again,
    Build,
    Cancel,
    Collect,
    Finish,
    Look,
    Release,
    WorkerBarrier,
    WorkerStep,
)
from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.course import BurstCourse, Role, Round, RoundResult
from lk_users.plan import Share
from lk_users.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lk_users.barrier.master import Action

S = NS_PER_S
NOW = 1_000 * S
WALL_OFFSET = 5_000 * S


@dataclass
class Run:
    """A master, and what its workers would say."""

    barrier: MasterBarrier
    counts: Mapping[str, int]
    now_ns: int = NOW
    actions: list[Action] = field(default_factory=list)

    def do(self, *actions: Action) -> list[Action]:
        self.actions += actions
        return list(actions)

    def tell(self, kind: str, worker: str, **data: Any) -> list[Action]:
        """A worker's message about the current run and burst."""
        message = {"run": RUN_ID, "burst": self.barrier.burst, **data}
        return self.do(*getattr(self.barrier, kind)(worker, message, self.now_ns))

    def tick(self, after_s: float = 0.0) -> list[Action]:
        """What is new in it: a message said again, to whoever has not reacted, is not."""
        self.now_ns += round(after_s * S)
        said = [replace(action, worker="") for action in self.actions if isinstance(action, Send)]
        actions = self.barrier.tick(self.now_ns)
        return self.do(
            *(one for one in actions if not isinstance(one, Send) or replace(one, worker="") not in said)
        )

    def park(self, trip_ns: int = 0) -> list[Action]:
        """Everybody says hello and parks its users; Locust is done spawning. What the last of it asks for."""
        for worker in self.counts:
            self.barrier.hello(worker, "eu")
        self.do(*self.barrier.spawning_complete(sum(self.counts.values()), self.now_ns))
        last: list[Action] = []
        for worker, count in self.counts.items():
            last = self.tell("parked", worker, count=count, trip_ns=trip_ns)
        return last

    def build(self) -> list[Action]:
        last: list[Action] = []
        for worker in self.counts:
            last = self.tell("built", worker)
        return last

    def decide(self, *workers: str) -> list[Action]:
        last: list[Action] = []
        for worker in workers or self.counts:
            own = self.barrier.shares.get(worker)
            count = own.count if own is not None else 0
            last = self.tell("decided", worker, decided=count, welcomed=count - 1, answered=count, ended=0)
        return last

    def trail(self, *workers: str) -> list[Action]:
        last: list[Action] = []
        for worker in workers or self.counts:
            last = self.tell("trailer", worker)
        return last

    def to(self, state: State) -> Run:
        """Play until the master stands there."""
        steps: dict[State, Callable[[], object]] = {
            State.GATHERING: lambda: None, State.BUILDING: self.park, State.RUNNING: self.build,
            State.COLLECTING: self.decide, State.OVER: self.trail,
        }  # fmt: skip
        for reached, step in steps.items():
            step()
            assert self.barrier.state is reached
            if reached is state:
                return self
        raise AssertionError(state)


def run(counts: Sequence[int] = (600,), **options: str) -> Run:
    chosen = settings(max(1, sum(counts)), **options)
    names = {f"w{number}": count for number, count in enumerate(counts, 1)}
    return Run(MasterBarrier(RUN_ID, chosen, WALL_OFFSET), names)


def share(
    worker: str, first: int, count: int, burst: int = 1, total: int = 600, of: Round | None = None
) -> Send:
    data = {"run": RUN_ID, "burst": burst, "first": first, "count": count}
    return Send(Kind.SHARE, {**data, "round": (of or burst_round(total)).to_dict()}, worker)


COLLECT = Send(Kind.COLLECT, {"run": RUN_ID, "burst": 1})
FINISH = [Send(Kind.FINISH, {"run": RUN_ID}), RunOver()]


def collect(cause: str) -> Send:
    return Send(Kind.COLLECT, {**COLLECT.data, "cause": cause})


def cancel(cause: str) -> Send:
    return Send(Kind.CANCEL, {"run": RUN_ID, "cause": cause})


# The master: the good path.


def test_one_worker_from_hello_to_the_end() -> None:
    one = run()
    assert one.park() == [share("w1", 0, 600)]
    t0_ns = NOW + S
    data = {"run": RUN_ID, "burst": 1, "t0_ns": t0_ns, "t0_wall_ns": t0_ns + WALL_OFFSET}
    announced = Announced(1, t0_ns + WALL_OFFSET, {"w1": Share(RUN_ID, 1, 0, 600, burst_round())})
    assert one.build() == [Send(Kind.T0, data), announced]
    assert one.decide() == [COLLECT]
    assert one.tell("records", "w1", sequence=1) == [Send(Kind.ACK, {"run": RUN_ID, "sequence": 1}, "w1")]
    assert one.trail() == FINISH
    assert one.barrier.reasons == []


def test_four_workers_get_shares_by_what_they_parked() -> None:
    four = run((100, 0, 350, 150))
    assert four.park() == [
        share("w1", 0, 100), share("w3", 100, 350), share("w4", 450, 150),
    ]  # fmt: skip
    assert [four.tell("built", worker) for worker in ("w1", "w3")] == [[], []]
    assert [type(action) for action in four.tell("built", "w4")] == [Send, Announced]
    # The one without users is told nothing, and not waited for.
    assert [four.decide(worker) for worker in ("w1", "w3", "w4")] == [[], [], [COLLECT]]
    assert [four.trail(worker) for worker in ("w3", "w1", "w4")] == [[], [], FINISH]
    assert four.barrier.reasons == []


def test_nothing_begins_before_locust_has_spawned_all() -> None:
    one = run((3,))
    one.barrier.hello("w1", "eu")
    for count in (1, 2, 3):
        assert one.tell("parked", "w1", count=count) == []
    assert one.do(*one.barrier.spawning_complete(3, NOW)) == [share("w1", 0, 3, total=3)]


def test_nothing_begins_before_all_are_parked() -> None:
    two = run((3, 3))
    two.park()
    assert two.barrier.state is State.BUILDING
    few = run((3, 3))
    few.barrier.hello("w1", "eu")
    few.do(*few.barrier.spawning_complete(6, NOW))
    few.tell("parked", "w1", count=3)
    assert few.barrier.state is State.GATHERING


@pytest.mark.parametrize(
    ("trip_ms", "ahead_ms"), [(0, 1000), (100, 1000), (250, 1000), (400, 1600), (2000, 8000)]
)
def test_t0_lies_far_enough_ahead(trip_ms: int, ahead_ms: int) -> None:
    two = run((300, 300))
    two.park(trip_ns=10 * NS_PER_MS)
    two.tell("parked", "w2", count=300, trip_ns=trip_ms * NS_PER_MS)
    (message, _) = two.build()
    assert isinstance(message, Send)
    assert message.worker == ""
    assert message.data["t0_ns"] == NOW + ahead_ms * NS_PER_MS


def test_whoever_has_not_reacted_is_told_again() -> None:
    two = run((3, 3))
    two.park()
    two.tell("built", "w1")
    assert two.barrier.tick(NOW + 2 * S - 1) == []
    assert two.barrier.tick(NOW + 2 * S) == [share("w2", 3, 3, total=6)]
    assert two.barrier.tick(NOW + 4 * S - 1) == []
    two.now_ns = NOW + 5 * S
    (t0, _) = two.tell("built", "w2")
    assert isinstance(t0, Send)
    two.tell("decided", "w1", decided=0, welcomed=0, answered=0, ended=0)
    for again_ms in (200, 400):
        again_ns = two.now_ns + again_ms * NS_PER_MS
        assert two.barrier.tick(again_ns - 1) == []
        assert two.barrier.tick(again_ns) == [replace(t0, worker="w2")]
    # Both heard it: what they decided may still be lost on its way.
    two.tell("decided", "w2", decided=0, welcomed=0, answered=0, ended=0)
    two.decide("w1")
    assert two.barrier.tick(two.now_ns + 600 * NS_PER_MS) == [replace(t0, worker="w2")]
    assert two.barrier.tick(two.now_ns + 2599 * NS_PER_MS) == []
    two.now_ns += 10 * S
    assert two.decide("w2") == [COLLECT]
    two.trail("w1")
    assert two.barrier.tick(two.now_ns + 2 * S) == [replace(COLLECT, worker="w2")]


def test_several_bursts_with_an_interval() -> None:
    one = run(bursts="3", burst_interval="20")
    one.to(State.COLLECTING)
    for burst in (2, 3):
        assert not one.barrier.is_last
        assert one.trail() == []
        assert one.barrier.state is State.RESTING
        assert one.tick(19.9) == []
        of = replace(burst_round(), rest_s=20.0, last=burst == 3)
        assert one.tick(0.1) == [share("w1", 0, 600, burst, of=of)]
        one.build()
        assert one.decide() == [Send(Kind.COLLECT, {"run": RUN_ID, "burst": burst})]
    assert one.barrier.is_last
    assert one.trail() == FINISH
    assert one.barrier.reasons == []


def test_free_users_have_but_one_round() -> None:
    assert run(release="free").barrier.is_last


def test_progress() -> None:
    two = run((400, 200))
    two.to(State.RUNNING)
    two.tell("decided", "w1", decided=30, welcomed=28, answered=30, ended=0)
    two.tell("decided", "w2", decided=10, welcomed=10, answered=10, ended=0)
    assert two.barrier.progress() == {"parked": 600, "total": 600, "decided": 40, "welcomed": 38, "failed": 2}


def test_with_watch_the_api_is_looked_at_once_nobody_waits_any_more() -> None:
    two = run((400, 200), watch="60")
    two.to(State.RUNNING)
    assert two.tell("decided", "w1", decided=1, welcomed=0, answered=400, ended=0) == []
    assert two.tell("decided", "w2", decided=0, welcomed=0, answered=199, ended=0) == []
    last = {"decided": 0, "welcomed": 0, "answered": 200, "ended": 0}
    look = [Send(Kind.LOOK, {"run": RUN_ID, "burst": 1})]
    assert two.tell("decided", "w2", **last) == look
    assert two.tell("decided", "w2", **last) == []
    assert two.decide() == [COLLECT]


def test_a_lost_worker_keeps_nobody_from_looking() -> None:
    two = run((400, 200), watch="60")
    two.to(State.RUNNING)
    two.tell("decided", "w2", decided=0, welcomed=0, answered=200, ended=0)
    assert two.barrier.lost("w1", "gone", NOW) == [Send(Kind.LOOK, {"run": RUN_ID, "burst": 1})]


def test_without_watch_nobody_looks() -> None:
    one = run().to(State.RUNNING)
    assert one.tell("decided", "w1", decided=599, welcomed=599, answered=600, ended=0) == []


def test_a_worker_looks_only_while_its_sessions_run() -> None:
    worker = WorkerBarrier()
    look = (Kind.LOOK, {"run": RUN_ID, "burst": 1})
    worker.receive(Kind.SHARE, share("w1", 0, 5, total=5).data)
    assert worker.receive(*look) is None
    worker.built()
    worker.receive(Kind.T0, {"run": RUN_ID, "burst": 1, "t0_ns": 5, "t0_wall_ns": 5})
    assert worker.receive(*look) == Look()
    worker.receive(Kind.COLLECT, {"run": RUN_ID, "burst": 1})
    assert worker.receive(*look) is None


# The master: messages that mean nothing.

EVERY_STATE = (State.GATHERING, State.BUILDING, State.RUNNING, State.COLLECTING, State.OVER)
MESSAGES: dict[str, dict[str, Any]] = {
    "built": {},
    "decided": {"decided": 600, "welcomed": 0, "answered": 600, "ended": 0},
    "trailer": {},
}


@pytest.mark.parametrize("state", EVERY_STATE)
@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("wrong", [{"run": "another"}, {"burst": 7}, {"worker": "w9"}])
def test_foreign_messages_change_nothing(state: State, kind: str, wrong: dict[str, Any]) -> None:
    one = run().to(state)
    before = repr(one.barrier)
    assert one.tell(kind, **{"worker": "w1", **MESSAGES[kind], **wrong}) == []
    assert repr(one.barrier) == before


@pytest.mark.parametrize("state", EVERY_STATE)
def test_foreign_records_are_acknowledged_and_change_nothing(state: State) -> None:
    one = run().to(state)
    before = repr(one.barrier)
    one.now_ns += 5 * S
    (ack,) = one.tell("records", "w1", sequence=3, run="another")
    assert isinstance(ack, Send)
    assert ack.kind is Kind.ACK
    assert repr(one.barrier) == before


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (State.RUNNING, "built"), (State.COLLECTING, "built"), (State.OVER, "built"),
        (State.COLLECTING, "decided"), (State.OVER, "decided"), (State.OVER, "trailer"),
    ],
)  # fmt: skip
def test_repeated_messages_change_nothing(state: State, kind: str) -> None:
    one = run().to(state)
    before = repr(one.barrier)
    one.now_ns += 5 * S
    data = {"decided": 600, "welcomed": 599, "answered": 600, "ended": 0} if kind == "decided" else {}
    assert one.tell(kind, "w1", **data) == []
    assert repr(one.barrier) == before


def test_a_count_that_was_overtaken_changes_nothing() -> None:
    two = run((400, 200)).to(State.RUNNING)
    two.decide("w1")
    assert two.tell("decided", "w1", decided=390, welcomed=1, answered=390, ended=0) == []
    assert two.decide("w2") == [COLLECT]


def test_a_trailer_before_its_time_does_not_shorten_the_others_time() -> None:
    two = run((400, 200)).to(State.RUNNING)
    two.trail("w2")
    assert two.tick(100) == []
    assert two.barrier.state is State.RUNNING


def test_a_late_trailer_does_not_lengthen_the_rest() -> None:
    one = run(bursts="2").to(State.COLLECTING)
    one.trail()
    one.trail()
    assert one.tick(0.01) == [share("w1", 0, 600, 2)]


# The master: workers that are lost, and deadlines.


@pytest.mark.parametrize("parked", [0, 7, 300])
def test_a_worker_lost_while_gathering_ends_the_run_with_every_session_accounted_for(parked: int) -> None:
    """Nobody gets its users, so there is nothing to wait for; what it was to have is missing, and the others
    record theirs as cancelled."""
    two = run((300, 300))
    for worker in two.counts:
        two.barrier.hello(worker, "eu")
        two.tell("parked", worker, count=parked)
    two.barrier.placed({"w1": 300, "w2": 300})
    actions = two.do(*two.barrier.lost("w2", "gone", NOW))
    assert actions == [
        share("w1", 0, 300),
        cancel("worker w2 was lost before T0"),
        collect("worker w2 was lost before T0"),
    ]
    assert two.barrier.shares == {
        "w1": Share(RUN_ID, 1, 0, 300, burst_round()), "w2": Share(RUN_ID, 1, 300, 300, burst_round()),
    }  # fmt: skip
    assert two.trail("w1") == FINISH
    assert two.barrier.reasons == ["worker w2 (eu) was lost: gone", "worker w2 was lost before T0"]


def test_a_worker_without_users_may_be_lost_while_gathering() -> None:
    two = run((600, 0))
    for worker in two.counts:
        two.barrier.hello(worker, "eu")
    two.barrier.placed({"w1": 600})
    assert two.do(*two.barrier.lost("w2", "gone", NOW)) == []
    assert two.do(*two.barrier.spawning_complete(600, NOW)) == []
    assert two.tell("parked", "w1", count=600) == [share("w1", 0, 600)]
    assert two.barrier.reasons == []


def test_a_worker_lost_while_building_cancels_the_run() -> None:
    two = run((300, 300)).to(State.BUILDING)
    actions = two.do(*two.barrier.lost("w2", "no heartbeat", NOW))
    assert actions == [cancel("worker w2 was lost before T0"), collect("worker w2 was lost before T0")]
    assert two.trail("w1") == FINISH
    assert two.barrier.reasons == ["worker w2 (eu) was lost: no heartbeat", "worker w2 was lost before T0"]


def test_a_worker_without_users_may_be_lost_while_building() -> None:
    two = run((600, 0)).to(State.BUILDING)
    assert two.do(*two.barrier.lost("w2", "no heartbeat", NOW)) == []
    assert two.barrier.reasons == []


def test_a_worker_lost_while_running_holds_nobody_up() -> None:
    two = run((300, 300)).to(State.RUNNING)
    two.decide("w1")
    assert two.do(*two.barrier.lost("w2", "no heartbeat", NOW)) == [COLLECT]
    assert two.trail("w1") == FINISH
    assert two.barrier.reasons == ["worker w2 (eu) was lost: no heartbeat"]


def test_a_worker_lost_while_collecting_holds_nobody_up() -> None:
    two = run((300, 300)).to(State.COLLECTING)
    two.trail("w1")
    assert two.do(*two.barrier.lost("w2", "no heartbeat", NOW)) == FINISH
    assert two.barrier.reasons == ["worker w2 (eu) was lost: no heartbeat"]


def test_a_worker_lost_after_its_trailer_has_said_all() -> None:
    two = run((300, 300)).to(State.COLLECTING)
    two.trail("w1")
    assert two.do(*two.barrier.lost("w1", "quit", NOW)) == []
    assert two.trail("w2") == FINISH
    assert two.barrier.reasons == []


def test_a_worker_lost_between_bursts_ends_the_run() -> None:
    two = run((300, 300), bursts="3").to(State.COLLECTING)
    two.trail()
    assert two.do(*two.barrier.lost("w2", "no heartbeat", two.now_ns)) == FINISH
    assert two.barrier.reasons == [
        "worker w2 (eu) was lost: no heartbeat",
        "a burst of 600 users was to follow, and was not begun",
    ]


def test_the_last_worker_lost_ends_the_run() -> None:
    one = run().to(State.RUNNING)
    assert one.do(*one.barrier.lost("w1", "no heartbeat", NOW)) == [COLLECT, *FINISH]
    assert one.do(*one.barrier.lost("w1", "no heartbeat", NOW)) == []


def test_losing_an_unknown_worker_changes_nothing() -> None:
    one = run().to(State.RUNNING)
    assert one.do(*one.barrier.lost("w9", "no heartbeat", NOW)) == []


def test_a_run_after_a_lost_worker_has_no_more_bursts() -> None:
    two = run((300, 300), bursts="2").to(State.RUNNING)
    two.do(*two.barrier.lost("w2", "no heartbeat", NOW))
    two.decide("w1")
    assert two.trail("w1") == FINISH


def test_park_timeout_counts_from_spawning_complete() -> None:
    one = run((600,), park_timeout="10")
    one.barrier.hello("w1", "eu")
    assert one.tick(1000) == []
    one.do(*one.barrier.spawning_complete(600, one.now_ns))
    one.tell("parked", "w1", count=599)
    assert one.tick(9.9) == []
    one.do(*one.barrier.spawning_complete(600, one.now_ns))
    assert one.tick(0.1) == FINISH
    assert one.barrier.reasons == ["only 599 of 600 users were ready in time (--park-timeout 10)"]


def test_not_built_in_time() -> None:
    two = run((300, 300)).to(State.BUILDING)
    two.tell("built", "w1")
    assert two.tick(119.9) == []
    assert two.tick(0.1) == [cancel("not built in time: w2"), collect("not built in time: w2")]
    assert two.trail("w1") == []
    assert two.tick(30) == FINISH
    assert two.barrier.reasons == [
        "not built in time: w2", "worker w2 (eu) was lost: nothing more came from it in time",
    ]  # fmt: skip


@pytest.mark.parametrize("batches_s", [0, 5])
def test_the_decision_deadline_counts_from_the_last_batch(batches_s: int) -> None:
    options = {"batch_size": "100", "batch_delay": "1"} if batches_s else {}
    two = run((300, 300), **options).to(State.RUNNING)
    two.decide("w1")
    to_deadline_s = 1 + batches_s + 120 + DECISION_GRACE_NS / S
    assert two.tick(to_deadline_s - 0.001) == []
    assert two.tick(0.001) == [COLLECT]
    assert two.barrier.reasons == ["worker w2 (eu) was lost: nothing more came from it in time"]
    assert two.trail("w1") == FINISH


def test_records_extend_the_trailer_deadline() -> None:
    one = run().to(State.COLLECTING)
    for sequence in range(5):
        assert one.tick(29.9) == []
        one.tell("records", "w1", sequence=sequence)
    assert one.tick(29.9) == []
    assert one.tick(0.1) == FINISH
    assert one.barrier.reasons == ["worker w1 (eu) was lost: nothing more came from it in time"]


def test_who_gets_on_with_the_end_is_not_given_up() -> None:
    one = run().to(State.COLLECTING)
    for ended in range(1, 6):
        assert one.tick(29.9) == []
        one.tell("decided", "w1", decided=600, welcomed=600, answered=600, ended=ended)
    # To say the same once more is no progress.
    assert one.tick(29.9) == []
    one.tell("decided", "w1", decided=600, welcomed=600, answered=600, ended=5)
    assert one.tick(0.1) == FINISH
    assert one.barrier.reasons == ["worker w1 (eu) was lost: nothing more came from it in time"]


def test_another_version_is_refused() -> None:
    assert refusal("w1", {"version": VERSION, "region": "eu"}) == ""
    for version in ("0.0.1", None):
        assert refusal("w1", {"version": version}) == (
            f"worker w1 runs lk-users {version}, the master {VERSION}: use one version"
        )


def test_a_worker_that_never_said_hello_counts_for_nothing() -> None:
    one = run()
    assert one.tell("parked", "w1", count=600) == []
    assert one.barrier.workers == {}


# The master: cancelling.


def test_a_budget_of_requests_lengthens_the_wait_for_trailers() -> None:
    """600 sessions of 6 requests at 900 a minute: 240 s more than the 30 s of --trailer-timeout."""
    one = run(api_budget="900").to(State.COLLECTING)
    assert one.tick(269.9) == []
    assert one.tick(0.1) != []
    assert one.barrier.reasons


@pytest.mark.parametrize("state", [State.GATHERING, State.RESTING])
def test_cancelling_what_has_no_sessions_is_the_end(state: State) -> None:
    one = run(bursts="2")
    if state is State.RESTING:
        one.to(State.COLLECTING)
        one.trail()
    assert one.barrier.state is state
    assert one.do(*one.barrier.cancel("stopped", NOW)) == FINISH
    assert one.barrier.reasons == ["stopped"]


@pytest.mark.parametrize("state", [State.BUILDING, State.RUNNING])
def test_cancelling_collects_what_there_is(state: State) -> None:
    one = run(bursts="2").to(state)
    assert one.do(*one.barrier.cancel("stopped", NOW)) == [cancel("stopped"), collect("stopped")]
    assert one.do(*one.barrier.cancel("stopped again", NOW)) == []
    assert one.trail() == FINISH
    assert one.barrier.reasons == ["stopped"]


def test_cancelling_while_collecting_ends_with_this_burst() -> None:
    one = run(bursts="2").to(State.COLLECTING)
    assert one.do(*one.barrier.cancel("stopped", NOW)) == [cancel("stopped")]
    assert one.trail() == FINISH


def test_cancelling_what_is_over_changes_nothing() -> None:
    one = run().to(State.OVER)
    assert one.do(*one.barrier.cancel("stopped", NOW)) == []
    assert one.barrier.reasons == []
    assert one.tick(1000) == []


# Rounds of different sizes.


def beside(counts: Sequence[int], **options: str) -> Run:
    """Baseline, burst and control of 20."""
    return run(counts, **{"baseline": "1", "control": "spread=5s", **options})


def finish_round(one: Run) -> list[Action]:
    """All that have a part of the round go through it."""
    mine = [worker for worker, own in one.barrier.shares.items() if own.count]
    for worker in mine:
        one.tell("built", worker)
    one.decide(*mine)
    return one.trail(*mine)


def test_a_round_takes_its_part_of_the_parked_users() -> None:
    two = beside((10, 10))
    baseline, burst, control = BurstCourse(two.barrier.settings).rounds
    assert two.park() == [share("w1", 0, 1, 0, of=baseline)]
    assert finish_round(two) == []
    assert two.tick(0.001) == [share("w1", 0, 10, 1, of=burst), share("w2", 10, 10, 1, of=burst)]
    assert finish_round(two) == []
    assert two.tick(0.001) == [share("w1", 0, 10, 2, of=control), share("w2", 10, 10, 2, of=control)]
    assert finish_round(two) == FINISH
    assert two.barrier.reasons == []
    assert two.barrier.done == [
        RoundResult(0, baseline), RoundResult(1, burst), RoundResult(2, control),
    ]  # fmt: skip


def test_who_has_nothing_of_a_round_is_told_nothing_and_holds_nobody_up() -> None:
    two = beside((10, 10), baseline="1")
    two.park()
    (t0, announced) = two.tell("built", "w1")
    assert isinstance(announced, Announced)
    assert {name: own.count for name, own in announced.shares.items()} == {"w1": 1, "w2": 0}
    # The T0 of all goes to it, too, and means nothing to a worker that has no share.
    assert isinstance(t0, Send)
    assert WorkerBarrier().receive(Kind.T0, t0.data) is None
    assert two.tell("decided", "w1", decided=1, welcomed=1, answered=1, ended=0) == [
        Send(Kind.COLLECT, {"run": RUN_ID, "burst": 0})
    ]
    assert two.trail("w1") == []
    assert two.barrier.state is State.RESTING


def test_a_control_gets_the_time_that_it_takes() -> None:
    one = beside((20,), session_timeout="10")
    one.park()
    for _ in range(2):
        finish_round(one)
        one.tick(0.001)
    one.build()
    last_s = 5 * 19 / 20
    assert one.tick(1 + last_s + 10 + DECISION_GRACE_NS / S - 0.01) == []
    assert one.tick(0.02) == [Send(Kind.COLLECT, {"run": RUN_ID, "burst": 2}), *FINISH]
    assert one.barrier.reasons == ["worker w1 (eu) was lost: nothing more came from it in time"]


def test_a_share_is_said_again_with_what_round_it_is() -> None:
    two = beside((10, 10))
    two.park()
    finish_round(two)
    two.tick(0.001)
    two.tell("built", "w1")
    burst = BurstCourse(two.barrier.settings).rounds[1]
    two.now_ns += 3 * S
    assert two.barrier.tick(two.now_ns) == [share("w2", 10, 10, 1, of=burst)]


def test_a_worker_lost_in_a_later_round_ends_the_run_with_it() -> None:
    two = beside((10, 10))
    two.park()
    finish_round(two)
    two.tick(0.001)
    two.build()
    two.do(*two.barrier.lost("w2", "no heartbeat", two.now_ns))
    assert two.decide("w1") == [COLLECT]
    assert two.trail("w1") == FINISH
    assert two.barrier.reasons == [
        "worker w2 (eu) was lost: no heartbeat", "a control of 20 users was to follow, and was not begun",
    ]  # fmt: skip


@pytest.mark.parametrize("state", [State.GATHERING, State.BUILDING, State.RUNNING, State.RESTING])
@pytest.mark.parametrize("lost", ["w1", "w2"])
def test_a_worker_lost_before_the_burst_leaves_a_record_for_each_of_its_sessions(
    state: State, lost: str
) -> None:
    """Whether or not it had a part of the baseline."""
    two = beside((10, 10))
    for worker in two.counts:
        two.barrier.hello(worker, "eu")
        two.tell("parked", worker, count=10)
    two.barrier.placed({"w1": 10, "w2": 10})
    if state is not State.GATHERING:
        two.park()
        if state is State.RUNNING:
            two.tell("built", "w1")
        elif state is State.RESTING:
            finish_round(two)
        assert two.barrier.state is state
    two.do(*two.barrier.lost(lost, "gone", two.now_ns))
    other = "w1" if lost == "w2" else "w2"
    if two.barrier.rounds[-1].role is Role.BASELINE:
        if state is State.BUILDING and lost == "w2":
            two.tell("built", "w1")
        if lost == "w2":
            two.decide("w1")
            two.trail("w1")
    assert two.barrier.rounds[-1].role is Role.BURST
    assert {name: own.count for name, own in two.barrier.shares.items()} == {"w1": 10, "w2": 10}
    number = two.barrier.burst
    cause = f"worker {lost} was lost before T0"
    assert cancel(cause) in two.actions
    assert Send(Kind.COLLECT, {"run": RUN_ID, "burst": number, "cause": cause}) in two.actions
    assert two.trail(other) == FINISH
    assert two.barrier.reasons[0] == f"worker {lost} (eu) was lost: gone"
    assert two.barrier.reasons.count(two.barrier.reasons[0]) == 1


@pytest.mark.parametrize("state", [State.BUILDING, State.RUNNING, State.RESTING])
def test_a_run_that_is_stopped_in_its_baseline_begins_nothing_more(state: State) -> None:
    one = beside((20,))
    one.park()
    if state is State.RUNNING:
        one.build()
    elif state is State.RESTING:
        finish_round(one)
    assert one.barrier.state is state
    actions = one.do(*one.barrier.cancel("stopped", one.now_ns))
    if state is not State.RESTING:
        actions = one.trail()
    assert actions == FINISH
    assert [begun.role for begun in one.barrier.rounds] == [Role.BASELINE]
    assert one.barrier.reasons == ["stopped"]


def test_a_course_sees_what_its_rounds_came_to_and_says_what_follows() -> None:
    """As one that searches would: twice as many until a round went wrong."""

    class Doubling:
        def next(self, done: Sequence[RoundResult]) -> Round | None:
            if done and done[-1].void_reasons:
                return None
            return Round(Role.BURST, 5 * 2 ** len(done), rest_s=1.0)

        def void_reasons(self, done: Sequence[RoundResult]) -> Sequence[str]:
            return done[-1].void_reasons

        def news(self, done: Sequence[RoundResult]) -> str:
            return ""

    one = run((40,))
    one.barrier = MasterBarrier(
        RUN_ID, one.barrier.settings, WALL_OFFSET, course=Doubling(),
        result_of=lambda number, of: RoundResult(number, of, void_reasons=("late",) if number == 3 else ()),
    )  # fmt: skip
    one.park()
    for users in (5, 10):
        assert one.barrier.shares["w1"].count == users
        assert finish_round(one) == []
        assert one.tick(0.99) == []
        one.tick(0.01)
    assert one.barrier.shares["w1"].count == 20
    assert finish_round(one) == FINISH
    assert [done.round.users for done in one.barrier.done] == [5, 10, 20]


# The worker.

SHARE = share("w1", 5, 3, total=10).data
T0 = {"run": RUN_ID, "burst": 1, "t0_ns": 77, "t0_wall_ns": 99}
COLLECT_DATA = {"run": RUN_ID, "burst": 1}
CANCEL_DATA = {"run": RUN_ID, "cause": "stopped"}
FINISH_DATA = {"run": RUN_ID}


def worker(step: WorkerStep = WorkerStep.IDLE) -> WorkerBarrier:
    """A worker that came so far."""
    one = WorkerBarrier()
    steps: tuple[tuple[WorkerStep, Callable[[], object]], ...] = (
        (WorkerStep.BUILDING, lambda: one.receive(Kind.SHARE, SHARE)),
        (WorkerStep.ARMED, one.built),
        (WorkerStep.RUNNING, lambda: one.receive(Kind.T0, T0)),
        (WorkerStep.COLLECTING, lambda: one.receive(Kind.COLLECT, COLLECT_DATA)),
    )
    for reached, take in steps:
        if step is WorkerStep.IDLE or one.step is step:
            break
        take()
        assert one.step is reached
    return one


def test_a_worker_from_share_to_finish() -> None:
    one = worker()
    assert one.receive(Kind.SHARE, SHARE) == Build(Share(RUN_ID, 1, 5, 3, burst_round(10)))
    one.built()
    assert one.receive(Kind.T0, T0) == Release(77, 99)
    assert one.receive(Kind.COLLECT, COLLECT_DATA) == Collect()
    assert one.receive(Kind.SHARE, {**SHARE, "burst": 2}) == Build(Share(RUN_ID, 2, 5, 3, burst_round(10)))
    one.built()
    assert one.receive(Kind.T0, {**T0, "burst": 2}) == Release(77, 99)
    assert one.receive(Kind.COLLECT, {**COLLECT_DATA, "burst": 2}) == Collect()
    assert one.receive(Kind.FINISH, FINISH_DATA) == Finish()
    assert one.step is WorkerStep.IDLE


def test_a_worker_takes_the_next_run() -> None:
    one = worker(WorkerStep.COLLECTING)
    one.receive(Kind.FINISH, FINISH_DATA)
    assert one.receive(Kind.SHARE, {**SHARE, "run": "next"}) == Build(Share("next", 1, 5, 3, burst_round(10)))


ACTIVE = (WorkerStep.BUILDING, WorkerStep.ARMED, WorkerStep.RUNNING, WorkerStep.COLLECTING)
MEANT_IN = {
    Kind.T0: (WorkerStep.ARMED,),
    Kind.COLLECT: (WorkerStep.BUILDING, WorkerStep.ARMED, WorkerStep.RUNNING),
    Kind.CANCEL: (WorkerStep.BUILDING, WorkerStep.ARMED, WorkerStep.RUNNING),
    Kind.SHARE: (),
}
DATA: dict[Kind, Mapping[str, Any]] = {
    Kind.T0: T0, Kind.COLLECT: COLLECT_DATA, Kind.CANCEL: CANCEL_DATA, Kind.SHARE: SHARE,
}  # fmt: skip


@pytest.mark.parametrize("step", [WorkerStep.IDLE, *ACTIVE])
@pytest.mark.parametrize("kind", MEANT_IN)
def test_late_and_repeated_messages_change_nothing(step: WorkerStep, kind: Kind) -> None:
    if step is WorkerStep.IDLE and kind is Kind.SHARE:
        return
    one = worker(step)
    meant = step in MEANT_IN[kind]
    command = one.receive(kind, DATA[kind])
    assert (command is not None and not isinstance(command, Again)) == meant
    if not meant:
        assert one.step is step


@pytest.mark.parametrize(
    ("kind", "step", "said"),
    [
        (Kind.SHARE, WorkerStep.ARMED, Kind.BUILT),
        (Kind.T0, WorkerStep.RUNNING, Kind.DECIDED),
        (Kind.COLLECT, WorkerStep.COLLECTING, Kind.TRAILER),
    ],
)
def test_what_is_asked_again_is_answered_again(kind: Kind, step: WorkerStep, said: Kind) -> None:
    assert worker(step).receive(kind, DATA[kind]) == Again(said)


def test_a_collect_names_why_the_run_was_cancelled() -> None:
    one = worker(WorkerStep.RUNNING)
    assert one.receive(Kind.COLLECT, {**COLLECT_DATA, "cause": "stopped"}) == Collect("stopped")


@pytest.mark.parametrize("step", ACTIVE)
@pytest.mark.parametrize("kind", [Kind.T0, Kind.COLLECT, Kind.CANCEL, Kind.FINISH, Kind.SHARE])
def test_messages_of_another_run_change_nothing(step: WorkerStep, kind: Kind) -> None:
    one = worker(step)
    before = repr(one)
    assert one.receive(kind, {**DATA.get(kind, {}), "run": "another"}) is None
    assert repr(one) == before


@pytest.mark.parametrize("step", ACTIVE)
@pytest.mark.parametrize("kind", [Kind.T0, Kind.COLLECT])
def test_messages_of_another_burst_change_nothing(step: WorkerStep, kind: Kind) -> None:
    one = worker(step)
    assert one.receive(kind, {**DATA[kind], "burst": 2}) is None
    assert one.step is step


@pytest.mark.parametrize("step", [WorkerStep.BUILDING, WorkerStep.ARMED, WorkerStep.RUNNING])
def test_a_cancelled_worker_still_collects(step: WorkerStep) -> None:
    one = worker(step)
    assert one.receive(Kind.CANCEL, CANCEL_DATA) == Cancel("stopped")
    assert one.receive(Kind.COLLECT, COLLECT_DATA) == Collect()


def test_built_after_the_cancel_arms_nothing() -> None:
    one = worker(WorkerStep.BUILDING)
    one.receive(Kind.CANCEL, CANCEL_DATA)
    one.receive(Kind.COLLECT, COLLECT_DATA)
    one.built()
    assert one.step is WorkerStep.COLLECTING
    assert one.receive(Kind.T0, T0) is None
