"""A simulated target in virtual time: it starts so many jobs a second, one after another."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from builders import RUN_ID, never_assigned, welcomed

from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.course import RoundResult
from lk_users.record import Mark, Record

if TYPE_CHECKING:
    from lk_users.course import Course, Round

ALONE_MS = 250.0
WELCOME_MS = 50.0
NO_CAPACITY_MS = 1000.0


@dataclass
class Target:
    """``jobs_per_s``: what it starts; ``noise_ms``: each burst is slower by up to that, all of it.

    ``void_at``, ``dead_at``: numbers, from 0, of rounds that are void, or in which no agent comes.
    ``busy_rounds``: so many rounds after a burst of more than one it takes another second. ``spare``: by so
    much slower it is where users come in batches. ``relieved_jobs_per_s``: what it starts then.
    """

    jobs_per_s: float
    noise_ms: float = 0.0
    seed: int = 1
    void_at: tuple[int, ...] = ()
    dead_at: tuple[int, ...] = ()
    busy_rounds: int = 0
    spare: float = 0.0
    relieved_jobs_per_s: float = 0.0
    done: list[RoundResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._busy = 0

    def play(self, course: Course, most: int = 500) -> list[RoundResult]:
        """All rounds that the course asks for."""
        while (wanted := course.next(self.done)) is not None:
            assert len(self.done) < most, "it never ends"
            self.done.append(self._run(wanted))
        return self.done

    @property
    def sizes(self) -> list[int]:
        """Of the bursts, without the probes."""
        return [result.round.users for result in self.done if result.round.role == "burst"]

    @property
    def plans(self) -> list[tuple[int, float]]:
        """Batch size and delay of the bursts."""
        return [
            (result.round.batch_size, result.round.batch_delay_s)
            for result in self.done
            if result.round.role == "burst"
        ]

    def _run(self, wanted: Round) -> RoundResult:
        # Each search begins with a probe, and a baseline at the start is round 0.
        number = len(self.done)
        late_ms = self._rng.uniform(0, self.noise_ms)
        if wanted.users == 1:
            late_ms += NO_CAPACITY_MS if self._busy > 0 else 0.0
            self._busy -= 1
        else:
            self._busy = self.busy_rounds
        free_ns, records = 0, []
        for ordinal in range(wanted.users):
            starts_ns = wanted.offset_ns(ordinal)
            free_ns = max(free_ns, starts_ns)
            joined_ms = ALONE_MS + late_ms + (free_ns - starts_ns) / NS_PER_MS
            free_ns += round(NS_PER_S / self._rate(wanted))
            records.append(self._record(wanted, number, ordinal, joined_ms))
        reasons = ("the generator stalled",) if number in self.void_at else ()
        return RoundResult(number, wanted, tuple(records), reasons)

    def _rate(self, wanted: Round) -> float:
        if wanted.batch_size:
            return self.relieved_jobs_per_s or self.jobs_per_s * (1 - self.spare)
        return self.jobs_per_s

    def _record(self, wanted: Round, number: int, ordinal: int, joined_ms: float) -> Record:
        of_round: dict[str, Any] = {
            "burst": number, "role": wanted.role.value, "session_id": f"{RUN_ID}-b{number}-{ordinal}",
        }  # fmt: skip
        if number in self.dead_at:
            return replace(_unassigned(ordinal), **of_round)
        alone = _alone(ordinal)
        marks = {Mark.AGENT_JOINED.value: round(joined_ms * NS_PER_MS)}
        marks[Mark.WELCOMED.value] = welcomed_ns = round((joined_ms + WELCOME_MS) * NS_PER_MS)
        return replace(alone, marks_ns={**alone.marks_ns, **marks}, decided_ns=welcomed_ns, **of_round)


# What all sessions of an ordinal have in common is made once: tests run tens of thousands of them.
@functools.cache
def _alone(ordinal: int) -> Record:
    return welcomed(ordinal)


@functools.cache
def _unassigned(ordinal: int) -> Record:
    return never_assigned(ordinal)
