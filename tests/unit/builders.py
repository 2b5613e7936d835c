"""Builders for the unit tests: whole values by default, so that a test names only what it is about."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.course import BurstCourse
from lk_users.health import Lag, Trailer
from lk_users.plan import planned
from lk_users.record import Mark, Record
from lk_users.report.folder import BurstInfo, RunInfo, WorkerShare
from lk_users.settings.run import Settings
from lk_users.sinks.jsonl import Journal

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lk_users.course import Round

RUN_ID: Final = "20260301-120000-ab12"
T0_WALL_NS: Final = 1_772_366_400 * NS_PER_S  # 2026-03-01 12:00:00 UTC
DEADLINE_NS: Final = 120 * NS_PER_S
OPTIONS: Final[Mapping[str, str]] = {"agent-name": "front-desk"}


@functools.cache
def settings(users: int = 600, **options: str) -> Settings:
    """Settings as from the command line; option names with underscores. Frozen, so that one does for all."""
    return Settings.from_options({"agent_name": "front-desk", **options}, users)


def burst_round(users: int = 600, **options: str) -> Round:
    """The only round of a run of one burst."""
    (only,) = BurstCourse(settings(users, **options)).rounds
    return only


def record(ordinal: int = 0, **changes: Any) -> Record:
    """A record of one session; by default it never got anywhere, and nothing is held against anyone."""
    burst = changes.get("burst", 0)
    plan = planned(RUN_ID, burst, ordinal, settings(), "eu")
    base = Record(
        run_id=RUN_ID,
        session_id=plan.session_id,
        burst=burst,
        ordinal=ordinal,
        worker="w1",
        region="eu",
        engine="listen",
        agent_name="front-desk",
        dispatch="api",
        order="dispatch-first",
        room=plan.room,
        intended_wall_ns=T0_WALL_NS,
        deadline_ns=DEADLINE_NS,
    )
    return replace(base, **changes)


def welcomed(ordinal: int = 0, ms: float = 250.0, **changes: Any) -> Record:
    """A good session that was welcomed after ``ms``."""
    marks = {Mark.FIRED: 1.0, Mark.DISPATCHED: 4.0, Mark.CONNECTED: 7.0, Mark.WELCOMED: ms}
    values = {"marks_ns": marks_ns(marks), "decided_ns": round(ms * NS_PER_MS), "findings": {"ok": ""}}
    return record(ordinal, **{**values, **changes})


def marks_ns(marks_ms: Mapping[Mark, float]) -> dict[str, int]:
    return {mark.value: round(ms * NS_PER_MS) for mark, ms in marks_ms.items()}


def trailer(worker: str = "w1", region: str = "eu", **changes: Any) -> Trailer:
    values = {"burst": 0, "intended": 0, "recorded": 0, "clock_uncertainty_ms": 0.4, **changes}
    return Trailer(worker=worker, region=region, **values)


def queued_session(rng: random.Random, ordinal: int, **changes: Any) -> Record:
    """As measured for a burst of 600 by CreateDispatch: some 20 jobs a second, and a ghost in each room."""
    queue_ms = 1500 + ordinal * 50 + rng.uniform(0, 400)
    fired = rng.uniform(2, 9.9)
    dispatched = fired + rng.uniform(3, 30)
    connected = dispatched + rng.uniform(3, 12)
    joined = dispatched + queue_ms + rng.uniform(150, 280)
    track = joined + rng.uniform(20, 60)
    heard = track + rng.uniform(10, 200)
    created_ns = T0_WALL_NS + round(dispatched * NS_PER_MS)
    values: dict[str, Any] = {
        "decided_ns": round(heard * NS_PER_MS),
        "marks_ns": marks_ns(
            {
                Mark.FIRED: fired,
                Mark.DISPATCHED: dispatched,
                Mark.CONNECTED: connected,
                Mark.MEDIA_UP: connected + 30,
                Mark.AGENT_JOINED: joined,
                Mark.AGENT_SEEN: joined + 2,
                Mark.AGENT_TRACK: track,
                Mark.FIRST_AUDIO: heard,
                Mark.WELCOMED: heard,
            }
        ),
        "created_at_ns": created_ns,
        "started_at_ns": created_ns + round(queue_ms * NS_PER_MS),
        "joined_at_ns": T0_WALL_NS + round(joined * NS_PER_MS),
        "findings": {"ok": "", "ghost_dispatch": "a second dispatch without an agent name"},
        "lag_ms": 210.0,
        "room_sid": f"RM_{ordinal:04}",
        "dispatch_id": f"AD_{ordinal:04}",
        "job_id": f"AJ_{ordinal:04}",
        "worker_id": "AW_1",
        "agent_sid": f"PA_{ordinal:04}",
    }
    return record(ordinal, **{**values, **changes})


def never_assigned(ordinal: int, **changes: Any) -> Record:
    """Dispatch answered, user in the room, no agent until the deadline."""
    values: dict[str, Any] = {
        "marks_ns": marks_ns({Mark.FIRED: 5, Mark.DISPATCHED: 20, Mark.CONNECTED: 30, Mark.MEDIA_UP: 60}),
        "decided_ns": DEADLINE_NS,
        "findings": {"never_assigned": "no job reported by the API"},
    }
    return record(ordinal, **{**values, **changes})


def write_run(
    run_dir: Path,
    records: Sequence[Record],
    *,
    workers: Mapping[str, tuple[str, int, int]],
    trailers: bool = True,
    **options: str,
) -> None:
    """A run folder of one burst as a live run leaves it. ``workers``: name → (region, first, count)."""
    total = sum(count for _, _, count in workers.values())
    run_dir.mkdir(parents=True, exist_ok=True)
    info = RunInfo(
        run_id=RUN_ID,
        started="2026-03-01T11:59:50Z",
        settings={**OPTIONS, **options},
        users=total,
        target={"url": "ws://127.0.0.1:7880", "key": "devk…"},
        versions={"lk-users": "0.1.0", "livekit-server": "1.13.5"},
    )
    info.write(run_dir)
    shares = tuple(
        WorkerShare(worker=name, region=region, first=first, count=count)
        for name, (region, first, count) in workers.items()
    )
    (of,) = BurstCourse(info.run_settings()).rounds
    BurstInfo(burst=0, round=of, t0_wall_ns=T0_WALL_NS, intended=total, workers=shares).append(run_dir)
    lag = {"asyncio": Lag(2.1, 12.4, 210.0), "gevent": Lag(0.4, 8.0, 190.0)}
    for name, (region, _, _) in workers.items():
        journal = Journal(run_dir, name, region)
        mine = [item for item in records if item.worker == name]
        for item in mine:
            journal.record(item)
        if trailers:
            n = len(mine)
            journal.trailer(trailer(name, region, intended=n, recorded=n, lag=lag, start_lag=lag, cpu_s=2.1))
        journal.close()
