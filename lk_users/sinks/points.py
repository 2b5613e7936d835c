"""A run as points of a time series: what each measurement holds. Pure, and the same each time it is made.

::

    lk_session   one a session: every mark and phase, ids as text
    lk_worker    one a worker and burst: how well the generator was
    lk_run       start, T0 of each round and end of a run: marks on a time axis
    lk_live      once a second and worker: where its users are now

Tags are few and their values known beforehand; ids are fields. Two points of one measurement with equal
tags and time are one to the database, and all sessions of a burst share T0: so the time of a session's point
is its intended start plus its ordinal in nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lk_users.clock import NS_PER_MS
from lk_users.course import Role
from lk_users.record import Mark
from lk_users.stats import limit_ns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lk_users.course import Round
    from lk_users.health import Trailer
    from lk_users.record import Record

    Value = str | int | float | bool

SESSION: Final = "lk_session"
WORKER: Final = "lk_worker"
RUN: Final = "lk_run"
LIVE: Final = "lk_live"
# A tag without a value would be no tag, and queries group by it.
UNNAMED: Final = "(unnamed)"
_ID_FIELDS: Final = (
    "session_id", "room", "room_sid", "dispatch_id", "job_id", "worker_id", "participant_sid", "agent_sid",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One point; ``time_ns``: Unix time."""

    measurement: str
    tags: Mapping[str, str]
    fields: Mapping[str, Value]
    time_ns: int


def session_point(record: Record) -> Point:
    """Of a final record. Fields, in ms: ``<mark>_ms`` where it happened, ``wait_<mark>_ms`` of every mark,
    with the session's deadline where it never did (over these the summary's percentiles are taken), and
    ``<phase>_ms``."""
    fields: dict[str, Value] = {}
    limit_ms = _ms(limit_ns(record))
    for mark in Mark:
        at_ns = record.marks_ns.get(mark)
        if at_ns is not None:
            fields[f"{mark}_ms"] = _ms(at_ns)
        fields[f"wait_{mark}_ms"] = limit_ms if at_ns is None else _ms(at_ns)
    fields |= {f"{phase}_ms": _ms(length_ns) for phase, length_ns in record.phases_ns.items()}
    if record.start_error_ns is not None:
        fields["start_error_ms"] = _ms(abs(record.start_error_ns))
    fields |= {
        "decided_ms": _ms(record.decided_ns),
        "lag_ms": record.lag_ms,
        "ordinal": record.ordinal,
        "welcomed": record.welcomed,
        "lost": record.lost,
        "findings": ",".join(record.findings),
        "cause": record.cause,
        "worker": record.worker,
    }
    fields |= {name: getattr(record, name) for name in _ID_FIELDS if getattr(record, name)}
    return Point(
        SESSION,
        {
            "run": record.run_id,
            "region": record.region,
            "agent": record.agent_name or UNNAMED,
            "engine": record.engine,
            "outcome": record.outcome.value,
            "burst": str(record.burst),
            "role": record.role,
        },
        fields,
        record.intended_wall_ns + record.ordinal,
    )


def worker_point(run_id: str, trailer: Trailer, t0_wall_ns: int) -> Point:
    """Of a worker's last word on a burst."""
    fields: dict[str, Value] = {
        "intended": trailer.intended,
        "recorded": trailer.recorded,
        "clock_offset_ms": trailer.clock_offset_ms,
        "clock_uncertainty_ms": trailer.clock_uncertainty_ms,
        "cpu_s": trailer.cpu_s,
        "read_cpu_s": trailer.read_cpu_s,
        "rss_mb": trailer.rss_mb,
    }
    for window, lags in (("lag", trailer.lag), ("start_lag", trailer.start_lag)):
        for loop, lag in lags.items():
            fields |= {f"{window}_{loop}_p95_ms": lag.p95, f"{window}_{loop}_max_ms": lag.max}
    tags = {"run": run_id, "region": trailer.region, "worker": trailer.worker, "burst": str(trailer.burst)}
    return Point(WORKER, tags, fields, t0_wall_ns)


def start_point(run_id: str, users: int, agent_name: str, started_wall_ns: int) -> Point:
    """A run began."""
    text = f"{users} users for agent {agent_name or UNNAMED}"
    return Point(RUN, {"run": run_id, "event": "start"}, {"text": text, "users": users}, started_wall_ns)


def t0_point(run_id: str, burst: int, of: Round, intended: int, t0_wall_ns: int) -> Point:
    """A round was released. Event ``t0`` is that of a burst; others are called by their role."""
    text = f"T0 of {of.named(burst)}: {intended} {'session' if intended == 1 else 'sessions'}"
    tags = {"run": run_id, "event": "t0" if of.role is Role.BURST else of.role.value}
    return Point(RUN, tags, {"text": text, "burst": burst, "sessions": intended}, t0_wall_ns)


def end_point(summary: Mapping[str, Any], ended_wall_ns: int) -> Point:
    """A run ended. ``summary``: its ``summary.json``."""
    missed = [f"missed: {slo['text']}" for slo in summary["slo"] if not slo["ok"]]
    why = summary["void_reasons"] or missed
    fields: dict[str, Value] = {
        "text": "; ".join((summary["verdict"], *why[:1])),
        "verdict": summary["verdict"],
        "exit_code": summary["exit_code"],
    }
    tags = {"run": summary["run_id"], "event": "end"}
    return Point(RUN, tags, fields | run_figures(summary), ended_wall_ns)


def run_figures(summary: Mapping[str, Any]) -> dict[str, Value]:
    """What runs are compared by, from ``summary.json``. What was not measured is left out. Times in ms."""
    welcomed, start_error = summary["marks"][Mark.WELCOMED], summary["start_error_ms"]
    bottleneck = summary["bottleneck"] or {}
    figures = {
        "version": summary["versions"].get("lk-users"),
        "dispatch": summary["resolved"]["dispatch"],
        "bottleneck": bottleneck.get("phase"),
        "bottleneck_share": bottleneck.get("share"),
        "intended": summary["sessions"]["intended"],
        "recorded": summary["sessions"]["recorded"],
        "lost": summary["groups"]["lost"],
        "duplicate": summary["groups"]["duplicate"],
        "ours": summary["groups"]["ours"],
        **{f"welcomed_{name}_ms": welcomed[name] for name in ("p50", "p90", "p99", "max")},
        **{f"start_error_{name}_ms": start_error[name] for name in ("p50", "p99", "max")},
    }
    return {name: value for name, value in figures.items() if value is not None}


def live_point(run_id: str, region: str, worker: str, figures: Mapping[str, Value], at_wall_ns: int) -> Point:
    """``figures``: ``parked``, ``in_flight``, ``joined``, ``welcomed``, ``failed``, ``lag_ms``,
    ``queued``."""
    return Point(LIVE, {"run": run_id, "region": region, "worker": worker}, figures, at_wall_ns)


def _ms(length_ns: int) -> float:
    return length_ns / NS_PER_MS
