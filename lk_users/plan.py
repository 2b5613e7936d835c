"""The plan: a round → each session's ordinal, names and offset from T0. Pure.

A worker works out its own sessions from its share, the first ordinal and a count, and from what round it is:
the master says no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lk_users.agent_name import ANY_AGENT
from lk_users.clock import NS_PER_S
from lk_users.course import FREE, Role, Round
from lk_users.errors import RecordError
from lk_users.record import Record, build

# The engine of the sessions that are compared with all others.
WITNESS = "sdk"

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lk_users.settings.run import Settings


@dataclass(frozen=True)
class Share:
    """A worker's sessions of one round: ordinals ``first`` to ``first + count - 1``. ``burst``: the round's
    number; 0 of a baseline before all bursts, and of users that start when they are spawned."""

    run_id: str
    burst: int
    first: int
    count: int
    round: Round = FREE

    @property
    def total(self) -> int:
        """Sessions of the round, over all workers."""
        return self.round.users

    @classmethod
    def from_dict(cls, data: object) -> Share:
        """Raises RecordError on anything that is not a share."""
        if not isinstance(data, dict):
            raise RecordError(f"not a share: {str(data)[:60]!r}")
        return build(cls, {**data, "round": Round.from_dict(data.get("round"))})


@dataclass(frozen=True)
class PlannedSession:
    """One session before it starts. ``offset_ns``: intended start, from T0."""

    session_id: str
    room: str
    identity: str
    burst: int
    role: Role
    ordinal: int
    offset_ns: int
    engine: str
    metadata: str
    attributes: str
    room_metadata: str
    batch: int = 1
    """1 is the first."""
    session_body: str = ""
    """What the user's own backend is sent; empty: the standard's."""


def shares(run_id: str, burst: int, counts: Sequence[int], of: Round) -> list[Share]:
    """One share for each worker, from how many sessions each has: exact, without gap or overlap."""
    result = []
    first = 0
    for count in counts:
        result.append(Share(run_id, burst, first, count, of))
        first += count
    return result


def apportion(users: int, parked: Mapping[str, int], regions: Mapping[str, str]) -> dict[str, int]:
    """How many of ``users`` each worker has, by how many it has parked: in proportion over regions, then in
    each region over its workers. None has more than it has parked; remainders go to the largest."""
    in_region: dict[str, dict[str, int]] = {}
    for worker, count in parked.items():
        in_region.setdefault(regions.get(worker, ""), {})[worker] = count
    by_region = _in_proportion(users, {region: sum(own.values()) for region, own in in_region.items()})
    found = {
        worker: count
        for region, own in in_region.items()
        for worker, count in _in_proportion(by_region[region], own).items()
    }
    return {worker: found[worker] for worker in parked}


def worker_of_each_user(
    workers: Sequence[str], regions: Mapping[str, str], region_users: Mapping[str, int], users: int
) -> list[str]:
    """The worker of each user, in the order in which users are made.

    Without ``region_users`` one after another; with it each region gets its number, spread evenly over its
    workers, and regions fill up at the same pace. Workers of regions that are not named get none.
    """
    if not region_users or not workers:
        return [workers[number % len(workers)] for number in range(users if workers else 0)]
    made = []
    for region, count in region_users.items():
        own = [worker for worker in workers if regions.get(worker) == region]
        made += [((number + 0.5) / count, own[number % len(own)]) for number in range(count) if own]
    return [worker for _, worker in sorted(made, key=lambda item: item[0])][:users]


def region_faults(regions: Mapping[str, str], region_users: Mapping[str, int]) -> list[str]:
    """Why users can't be placed as asked; ``regions``: of each worker that is there."""
    there = ", ".join(sorted(set(regions.values()))) or "none"
    faults = [
        f"--region-users {region}={users}: no worker has that region; there are: {there}"
        for region, users in region_users.items()
        if region not in regions.values()
    ]
    if not regions:
        faults.append("no worker is there that runs lk-users: see the workers' logs")
    return faults


def sessions(share: Share, settings: Settings, region: str) -> Iterator[PlannedSession]:
    """The sessions of a share, in the order of their start."""
    for ordinal in range(share.first, share.first + share.count):
        yield planned(share.run_id, share.burst, ordinal, settings, region, share.round)


def planned(
    run_id: str, burst: int, ordinal: int, settings: Settings, region: str, of: Round = FREE
) -> PlannedSession:
    """One session by its number."""
    session_id = f"{run_id}-b{burst}-{ordinal}"
    # Witnesses are compared with the others of their burst.
    witnesses = settings.witness if of.role is Role.BURST else 0
    engine = WITNESS if is_witness(ordinal, witnesses, of.users) else settings.engine
    values = {
        "session_id": session_id,
        "engine": engine,
        "burst": str(burst),
        "region": region,
    }
    room, identity = room_name(run_id, burst, ordinal), f"user-{ordinal}"
    agent_name = "" if settings.agent_name == ANY_AGENT else settings.agent_name
    return PlannedSession(
        session_id=session_id,
        room=room,
        identity=identity,
        burst=burst,
        role=of.role,
        ordinal=ordinal,
        offset_ns=of.offset_ns(ordinal),
        engine=engine,
        metadata=settings.metadata.render(ordinal, values),
        attributes=settings.attributes.render(ordinal, values),
        room_metadata=settings.room_metadata.render(ordinal, values),
        batch=of.batch(ordinal),
        session_body=settings.session_body.render(
            ordinal, {**values, "room": room, "identity": identity, "agent_name": agent_name}
        ),
    )


def is_witness(ordinal: int, witnesses: int, total: int) -> bool:
    """``witnesses`` of ``total``, spread evenly, so that every worker and batch has its part."""
    return total > 0 and (ordinal + 1) * witnesses // total > ordinal * witnesses // total


def unrecorded(
    item: PlannedSession, run_id: str, settings: Settings, worker: str, region: str, intended_wall_ns: int
) -> Record:
    """The session's record before anything is known of it. ``intended_wall_ns``: Unix time, 0 if unknown."""
    return Record(
        run_id=run_id,
        session_id=item.session_id,
        burst=item.burst,
        role=item.role.value,
        ordinal=item.ordinal,
        batch=item.batch,
        worker=worker,
        region=region,
        engine=item.engine,
        agent_name=settings.agent_name,
        dispatch=settings.dispatch,
        order=settings.order,
        room=item.room,
        intended_wall_ns=intended_wall_ns,
        deadline_ns=round(settings.session_timeout_s * NS_PER_S),
    )


def room_name(run_id: str, burst: int, ordinal: int) -> str:
    """Unique over runs: a room that existed before would keep its old dispatches."""
    return f"lk-{run_id}-b{burst}-{ordinal}"


def _in_proportion(users: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Largest remainders; of equal ones the first."""
    total = sum(weights.values())
    users = min(users, total)
    parts = {name: users * weight // total if total else 0 for name, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda name: -(users * weights[name] % total) if total else 0)
    for name in by_remainder[: users - sum(parts.values())]:
        parts[name] += 1
    return parts
