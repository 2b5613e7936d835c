"""The course of a run: its rounds, one after another, and how each of them starts its sessions. Pure.

A *round* is the sessions of one T0, and rounds of a run need not be of one size. Its role says what it is
for: the ``burst`` is what was asked for, and all figures of a run are over rounds of that role; ``baseline``
(before it, one after another) and ``control`` (after it, spread out) are what it is compared with.

What comes next is up to the course, which sees what the rounds before came to.
"""

from __future__ import annotations

import enum
import functools
import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from lk_users.clock import NS_PER_S
from lk_users.errors import RecordError
from lk_users.record import build

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lk_users.record import Record
    from lk_users.settings.run import Settings

# Between the starts of a baseline's sessions: an agent that is asked for alone is there by then.
BASELINE_GAP_S: Final = 2.0
GOLDEN_RATIO: Final = (math.sqrt(5) - 1) / 2


class Role(enum.StrEnum):
    """What a round is for."""

    BASELINE = "baseline"
    BURST = "burst"
    CONTROL = "control"


@dataclass(frozen=True)
class Round:
    """So many sessions with one T0, and how they start: all at it, in batches, or spread out."""

    role: Role
    users: int
    batch_size: int = 0
    """0: all at T0."""
    batch_delay_s: float = 0.0
    spread_s: float = 0.0
    """Evenly over so long; 0: not."""
    rest_s: float = 0.0
    """From the end of the round before."""
    last: bool = False
    """Does none follow, as far as is known before it? A course that can't know leaves it False."""

    def offset_ns(self, ordinal: int) -> int:
        """The intended start of a session from T0.

        Spread out, ordinals do not start in their order: so those of each worker, which are in a row, are
        spread over the whole time, too.
        """
        if self.spread_s and self.users:
            return round(_turns(self.users)[ordinal % self.users] * self.spread_s * NS_PER_S / self.users)
        return round((self.batch(ordinal) - 1) * self.batch_delay_s * NS_PER_S)

    def batch(self, ordinal: int) -> int:
        """The number of a session's batch; 1 is the first."""
        return 1 + ordinal // self.batch_size if self.batch_size else 1

    @property
    def length_ns(self) -> int:
        """From T0 to the last start."""
        last = max(0, self.users - 1)
        if self.spread_s and self.users:
            return round(last * self.spread_s * NS_PER_S / self.users)
        return self.offset_ns(last)

    def of(self, users: int) -> Round:
        """The same round where only so many users are there."""
        return replace(self, users=min(self.users, users))

    def named(self, number: int) -> str:
        """As a line for people has it: bursts are many, the others one."""
        return f"burst {number}" if self.role is Role.BURST else f"the {self.role}"

    def to_dict(self) -> dict[str, Any]:
        """For messages and files."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> Round:
        """Raises RecordError on anything that is not a round."""
        if not isinstance(data, dict):
            raise RecordError(f"not a round: {str(data)[:60]!r}")
        try:
            return build(cls, {**data, "role": Role(data.get("role", ""))})
        except ValueError as exc:
            raise RecordError(f"not a round: {exc}") from exc


# Of users that start when Locust spawns them: no T0, and no number of them.
FREE: Final = Round(Role.BURST, 0)


@dataclass(frozen=True)
class RoundResult:
    """A round that is over. ``records``: of its sessions, as far as their workers sent any."""

    number: int
    """The ``burst`` of its records: 1 is the first, not counting a baseline, which is 0."""
    round: Round
    records: tuple[Record, ...] = ()
    void_reasons: tuple[str, ...] = ()
    """Why it says nothing reliable; empty if it does."""


class Course(Protocol):
    """What the rounds of a run are."""

    def next(self, done: Sequence[RoundResult]) -> Round | None:
        """The round that follows ``done``, which are all so far; None at the end. At least one comes.

        Asked once a round. Not asked any more once the run was stopped or has lost a worker.
        """

    def void_reasons(self, done: Sequence[RoundResult]) -> Sequence[str]:
        """Why the run as a whole is void, as only the course knows; asked once, at the end."""

    def news(self, done: Sequence[RoundResult]) -> str:
        """What the last round came to, for people who watch; empty where it is nothing to them."""


class BurstCourse:
    """Baseline, bursts, control: known from the start."""

    def __init__(self, settings: Settings) -> None:
        self.rounds: Final = tuple(_rounds(settings))

    def next(self, done: Sequence[RoundResult]) -> Round | None:
        return self.rounds[len(done)] if len(done) < len(self.rounds) else None

    def void_reasons(self, done: Sequence[RoundResult]) -> Sequence[str]:
        return ()

    def news(self, done: Sequence[RoundResult]) -> str:
        return ""


def _rounds(settings: Settings) -> list[Round]:
    baseline = Round(Role.BASELINE, settings.baseline, batch_size=1, batch_delay_s=BASELINE_GAP_S)
    burst = Round(
        Role.BURST, settings.users, batch_size=settings.batch_size, batch_delay_s=settings.batch_delay_s
    )
    control = Round(
        Role.CONTROL, settings.users, spread_s=settings.control_s, rest_s=settings.burst_interval_s
    )
    rounds = [
        *([baseline] if settings.baseline else []),
        burst,
        *[replace(burst, rest_s=settings.burst_interval_s)] * (settings.bursts - 1),
        *([control] if settings.control_s else []),
    ]
    return [*rounds[:-1], replace(rounds[-1], last=True)]


@functools.cache
def _turns(users: int) -> tuple[int, ...]:
    """The place of each ordinal in time. Multiples of the golden ratio, taken modulo 1, are spread evenly
    from wherever one begins."""
    order = sorted(range(users), key=lambda ordinal: ordinal * GOLDEN_RATIO % 1)
    turns = [0] * users
    for turn, ordinal in enumerate(order):
        turns[ordinal] = turn
    return tuple(turns)
