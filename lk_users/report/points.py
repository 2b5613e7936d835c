"""A run folder as points of a time series: the same that the run itself sends while it goes on."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from lk_users.clock import NS_PER_MS
from lk_users.sinks.points import end_point, session_point, start_point, t0_point, worker_point

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from lk_users.record import Record
    from lk_users.report.folder import BurstInfo, Merged, RunInfo
    from lk_users.sinks.points import Point


def start_of(info: RunInfo) -> Point:
    """The run began."""
    return start_point(info.run_id, info.users, info.settings.get("agent-name", ""), _started_ns(info))


def t0_of(info: RunInfo, burst: BurstInfo) -> Point:
    """A round was released."""
    return t0_point(info.run_id, burst.burst, burst.round, burst.intended, burst.t0_wall_ns)


def end_of(info: RunInfo, records: Iterable[Record], summary: Mapping[str, Any]) -> Point:
    """The run ended: when its last outcome stood."""
    ended_ns = max((record.intended_wall_ns + record.decided_ns for record in records), default=0)
    return end_point(summary, ended_ns or _started_ns(info))


def points_of(info: RunInfo, merged: Merged, summary: Mapping[str, Any]) -> Iterator[Point]:
    """Every point of the run, but for what was only to be seen while it went on."""
    yield start_of(info)
    for burst in merged.bursts:
        # One whose users were lost before its T0 has none.
        if burst.t0_wall_ns:
            yield t0_of(info, burst)
    zeros_ns = {burst.burst: burst.t0_wall_ns for burst in merged.bursts}
    for trailer in merged.trailers:
        # Users that start when they are spawned have no T0: the first start of the worker's stands for it.
        starts_ns = (
            record.intended_wall_ns
            for record in merged.records
            if not (record.burst or trailer.burst)
            and record.worker == trailer.worker
            and record.intended_wall_ns
        )
        zero_ns = zeros_ns.get(trailer.burst) or min(starts_ns, default=0)
        if zero_ns:
            yield worker_point(info.run_id, trailer, zero_ns)
    for record in merged.records:
        yield session_point(record)
    yield end_of(info, merged.records, summary)


def _started_ns(info: RunInfo) -> int:
    """As its folder has it: to the millisecond."""
    return round(dt.datetime.fromisoformat(info.started).timestamp() * 1000) * NS_PER_MS
