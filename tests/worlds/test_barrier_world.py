"""Both sides of the barrier together, whatever the network does and whoever dies."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builders import RUN_ID, settings

from lk_users.barrier.master import Announced, MasterBarrier, RunOver, State
from lk_users.barrier.worker import (
    Build,
    Collect,
    Release,
    WorkerBarrier,
)
from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.course import BurstCourse, Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lk_users.barrier.master import Action
    from lk_users.plan import Share

S = NS_PER_S
NOW = 1_000 * S
# What a run may take at most with the default settings: park and build 120 s each, 1 s to T0, 120 s for
# the sessions with 15 s of grace, 30 s for the trailers.
LONGEST_NS = (120 + 120 + 1 + 135 + 30) * S
# Of a control beyond that.
SPREAD_NS = 60 * S


@dataclass
class World:
    """A master and its workers, a network that delays, repeats and reorders, and workers that die."""

    rng: random.Random
    master: MasterBarrier
    counts: dict[str, int]
    now_ns: int = NOW
    workers: dict[str, WorkerBarrier] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    over: int = 0
    given: dict[int, list[Share]] = field(default_factory=dict)
    mine: dict[str, Share] = field(default_factory=dict)
    _number: int = 0
    _mail: list[tuple[int, int, str, str, dict[str, Any]]] = field(default_factory=list)

    def post(self, worker: str, kind: str, data: Mapping[str, Any], after_s: float = 0.0) -> None:
        """``kind``: a message to the worker, or what the worker tells."""
        for _ in range(1 + (self.rng.random() < 0.2)):
            self._number += 1
            due_ns = self.now_ns + round((after_s + self.rng.expovariate(20)) * S)
            self._mail.append((due_ns, self._number, worker, kind, dict(data)))

    def tell(self, name: str, kind: str, after_s: float = 0.0, **data: Any) -> None:
        one = self.workers[name]
        self.post(name, kind, {"run": one.run_id, "burst": one.burst, **data}, after_s)

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, RunOver):
                self.over += 1
            elif isinstance(action, Announced):
                self.given[action.burst] = list(action.shares.values())
            else:
                for name in [action.worker] if action.worker else self.workers:
                    self.post(name, action.kind, action.data)

    def obey(self, name: str, kind: str, data: dict[str, Any]) -> None:
        one, rng = self.workers[name], self.rng
        command = one.receive(kind, data)
        if isinstance(command, Build):
            assert 0 < command.share.count <= self.counts[name]
            self.mine[name] = command.share
            self.post(name, "_built", {}, rng.expovariate(0.2))
        elif isinstance(command, Release):
            count = self.mine[name].count
            for decided in [*sorted(rng.sample(range(count + 1), min(count, 5))), count]:
                self.tell(
                    name,
                    "decided",
                    rng.uniform(0, 100),
                    decided=decided,
                    welcomed=decided,
                    answered=decided,
                    ended=0,
                )
        elif isinstance(command, Collect):
            self.tell(name, "records", 1, sequence=1)
            self.tell(name, "trailer", rng.uniform(2, 20))

    def deliver(self, name: str, kind: str, data: dict[str, Any]) -> None:
        if name in self.dead:
            return
        if kind == "_die":
            self.dead.add(name)
            self.post(name, "_noticed", {}, self.rng.uniform(0, 20))
        elif kind == "_built":
            self.workers[name].built()
            self.tell(name, "built")
        elif kind.startswith("lk_"):
            self.obey(name, kind, data)
        else:
            self.do(getattr(self.master, kind)(name, data, self.now_ns))

    def play(self) -> None:
        """Until it is over, in steps to the next message or tick."""
        tick_ns = self.now_ns
        while not self.over and self.now_ns < NOW + 4 * (LONGEST_NS + SPREAD_NS):
            self._mail.sort(reverse=True)
            if self._mail and self._mail[-1][0] <= tick_ns:
                due_ns, _, name, kind, data = self._mail.pop()
                self.now_ns = max(self.now_ns, due_ns)
                if kind == "_noticed":
                    self.do(self.master.lost(name, "no heartbeat", self.now_ns))
                elif kind == "_spawned":
                    self.do(self.master.spawning_complete(data["users"], self.now_ns))
                else:
                    self.deliver(name, kind, data)
            else:
                self.now_ns = tick_ns
                self.do(self.master.tick(self.now_ns))
                tick_ns += S // 2


def world(seed: int) -> World:
    rng = random.Random(seed)
    names = [f"w{number}" for number in range(rng.randrange(1, 9))]
    counts = dict.fromkeys(names, 0)
    for _ in range(600):
        counts[rng.choice(names)] += 1
    options = {
        "bursts": rng.choice(("1", "1", "2")),
        "baseline": rng.choice(("0", "1", "5", "599")),
        "control": rng.choice(("", f"spread={SPREAD_NS // S}s")),
    }
    made = World(rng, MasterBarrier(RUN_ID, settings(**options)), counts)
    made.workers = {name: WorkerBarrier() for name in names}
    for name in names:
        # A user parks at any time; the hello comes before, as the connection keeps its order.
        made.master.hello(name, rng.choice(("eu", "us")))
        made.post(
            name,
            "parked",
            {"count": counts[name], "trip_ns": rng.randrange(300) * NS_PER_MS},
            rng.uniform(0, 5),
        )
    made.post("", "_spawned", {"users": 600}, rng.uniform(0, 5))
    for name in rng.sample(names, rng.choice((0, 0, 0, 1, min(2, len(names))))):
        made.post(name, "_die", {}, rng.uniform(0, 150))
    return made


def test_whatever_happens_it_is_over_in_time_and_the_shares_are_exact() -> None:
    clean = 0
    for seed in range(120):
        one = world(seed)
        one.play()
        rounds = BurstCourse(one.master.settings).rounds
        first = int(rounds[0].role is Role.BURST)
        assert one.over == 1, f"seed {seed}: {one.master.state}"
        assert one.master.state is State.OVER, f"seed {seed}"
        assert one.now_ns <= NOW + len(rounds) * (LONGEST_NS + SPREAD_NS), f"seed {seed}"
        for number, given in one.given.items():
            ordinals = [n for part in given for n in range(part.first, part.first + part.count)]
            assert sorted(ordinals) == list(range(rounds[number - first].users)), f"seed {seed}"
            assert {part.round for part in given} == {rounds[number - first]}, f"seed {seed}"
        # The burst is what was asked for: whatever is lost, it is known who had which session of it.
        assert any(begun.role is Role.BURST for begun in one.master.rounds), f"seed {seed}"
        if not one.dead:
            assert one.master.reasons == [], f"seed {seed}"
            assert len(one.given) == len(rounds), f"seed {seed}"
            assert [done.round for done in one.master.done] == [*rounds], f"seed {seed}"
            clean += 1
    assert 40 < clean < 90
