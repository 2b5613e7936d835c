"""``summary.json``, schema 1: a fold over the records. Times in ms, to the microsecond.

Nothing here depends on when or where it is made, so a report made again has the same bytes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from lk_users import agent_worker
from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.course import Role
from lk_users.outcome import ORDER, OURS, Finding
from lk_users.record import Mark
from lk_users.report import backend
from lk_users.report.clocks import contradictions
from lk_users.report.figures import (
    bottleneck,
    bottleneck_slowest,
    in_ms,
    mark_figures,
    phase_figures,
    spread,
    wait_ns,
)
from lk_users.report.regions import compared, concentrated, regions
from lk_users.report.users import users
from lk_users.report.witness import section
from lk_users.sinks.wav import EVIDENCE as AUDIO
from lk_users.slo import belongs
from lk_users.slo_grammar import GROUPS
from lk_users.stats import limit_ns, start_errors_ns, tally
from lk_users.verdict import counted, of_role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lk_users.agent_worker import AgentWorkerSample
    from lk_users.health import Lag, Trailer
    from lk_users.record import Record
    from lk_users.report.folder import BurstInfo, Merged, RunInfo
    from lk_users.settings.run import Settings
    from lk_users.verdict import Judgement

SCHEMA: Final = 1
SLOWEST: Final = 10
_ID_FIELDS: Final = (
    "room",
    "room_sid",
    "dispatch_id",
    "job_id",
    "worker_id",
    "participant_sid",
    "agent_sid",
    "agent_identity",
)
_AGENT_FIELDS: Final = (
    "sid", "identity", "job_id", "worker_id", "joined_ms", "seen_ms", "gone_ms", "gone_reason",
)  # fmt: skip
# An agent entered more than once, the gravest first; by the first two an entrypoint ran more than once.
TWICE: Final = (Finding.JOB_RETRIED, Finding.DUPLICATE_AGENT, Finding.AGENT_REJOINED)


def summarize(
    info: RunInfo,
    settings: Settings,
    merged: Merged,
    judgement: Judgement,
    samples: Sequence[AgentWorkerSample] = (),
    *,
    anew: bool = False,
    figures: Sequence[Record] | None = None,
) -> dict[str, Any]:
    """The summary of one run, ready for JSON. ``samples``: what the agent's workers said of themselves;
    ``anew``: judged by other SLOs than the run's own; ``figures``: the sessions that times are taken over,
    None for those of all bursts.

    All of it is over the sessions of bursts, but for ``rounds``, which has each by itself, and ``workers``,
    whose health is that of the whole run.
    """
    records = of_role(merged.records, Role.BURST)
    of_all = counted(records, settings)
    figures = of_all if figures is None else figures
    workers = _workers(merged.records, merged.trailers)
    beside = [burst for burst in merged.bursts if burst.round.role is not Role.BURST]
    missing = set(merged.missing)
    by_region = regions(records, figures, workers)
    return {
        "schema": SCHEMA,
        "run_id": info.run_id,
        "verdict": judgement.verdict.value,
        "exit_code": int(judgement.exit_code),
        "void_reasons": list(judgement.void_reasons),
        "slo": [asdict(slo) for slo in judgement.slo],
        "judged_anew": anew,
        "settings": {**info.settings, "users": str(info.users)},
        "resolved": {
            "dispatch": settings.dispatch,
            "order": settings.order,
            "release": settings.release,
            "engine": settings.engine,
            "batches": any(burst.round.length_ns for burst in merged.bursts if burst not in beside),
            "slo": settings.slo,
        },
        "target": dict(info.target),
        "versions": dict(info.versions),
        "wall": {"started": info.started, "ended": iso(max(map(_ended_ns, merged.records), default=0))},
        "sessions": {
            "intended": merged.intended - sum(burst.intended for burst in beside),
            "recorded": len(records),
            "unrecorded": sum(record.session_id in missing for record in records),
            "uncounted": len(records) - len(of_all),
        },
        "outcomes": tally(record.outcome for record in records),
        "causes": _causes(records),
        "groups": {name: sum(belongs(record, name) for record in records) for name in GROUPS},
        "findings": tally(Finding(name) for record in records for name in record.findings),
        "start_error_ms": spread(start_errors_ns(records), (50, 99), n=True),
        "marks": {mark.value: mark_figures(figures, mark) for mark in Mark},
        "phases": phase_figures(figures),
        "bottleneck": bottleneck(figures),
        "bottleneck_slowest_tenth": bottleneck_slowest(figures),
        "server_clock": _server_clock(records, merged.trailers),
        "entered_twice": _entered_twice(records),
        "bursts": [
            _burst(number, merged.bursts, of_all) for number in _burst_numbers(records, merged.bursts)
        ],
        "rounds": [_round(burst, merged.records) for burst in merged.bursts],
        "workers": workers,
        "regions": by_region,
        "regions_compared": {
            "wait": compared(by_region, figures),
            "failures": concentrated(by_region),
        },
        "backend": backend.section(figures, settings, info.target),
        "users": users(figures, settings.mic),
        "agent_workers": agent_worker.fold(settings.agent_worker_urls, samples),
        "witness": section(figures, merged.trailers),
        "sinks": {},
        "audio": [_audio(record) for record in merged.records if AUDIO in record.evidence],
        "slowest": [_session(record) for record in _slowest(figures)],
    }


def _causes(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Outcome → cause → sessions, the most frequent first; of sessions that are not ok."""
    counts: dict[Finding, Counter[str]] = defaultdict(Counter)
    for record in records:
        if record.outcome is not Finding.OK:
            counts[record.outcome][record.cause or "no cause given"] += 1
    return {
        outcome.value: dict(sorted(counts[outcome].items(), key=lambda item: (-item[1], item[0])))
        for outcome in ORDER
        if outcome in counts
    }


def _server_clock(records: Sequence[Record], trailers: Sequence[Trailer]) -> dict[str, Any] | None:
    """How well the server's clock is known, over all workers: the offset of the best known, the uncertainty
    of the least. ``agree``: all brackets of a node met, and those of different nodes too;
    ``contradicted``: sessions whose own marks contradict the server's stamps, of ``compared``."""
    known = [trailer.server_clock for trailer in trailers if trailer.server_clock]
    if not known:
        return None
    compared = [found for record in records if (found := contradictions(record)) is not None]
    return {
        "offset_ms": min(known, key=lambda clock: clock["uncertainty_ms"])["offset_ms"],
        "uncertainty_ms": max(clock["uncertainty_ms"] for clock in known),
        "brackets": sum(clock["brackets"] for clock in known),
        "apart": sum(clock["apart"] for clock in known),
        "nodes": max(clock["nodes"] for clock in known),
        "nodes_apart_ms": max(clock["nodes_apart_ms"] for clock in known),
        "agree": not any(clock["apart"] or clock["nodes_apart_ms"] for clock in known),
        "compared": len(compared),
        "contradicted": sum(bool(found) for found in compared),
    }


def _entered_twice(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Every session in which an agent entered twice, or two of it did: who, when, on which worker."""
    return [
        {
            "session_id": record.session_id,
            "outcome": record.outcome.value,
            "room": record.room,
            "room_sid": record.room_sid,
            "job_id": record.job_id,
            "finding": (finding := next(name for name in TWICE if name in record.findings)).value,
            "cause": record.findings[finding],
            "agents": [
                {name: agent.get(name) for name in _AGENT_FIELDS}
                for agent in record.evidence.get("agents", ())
                if agent.get("named")
            ],
        }
        for record in records
        if any(name in record.findings for name in TWICE)
    ]


def _burst_numbers(records: Sequence[Record], rounds: Sequence[BurstInfo]) -> list[int]:
    begun = {of.burst for of in rounds if of.round.role is Role.BURST}
    return sorted({record.burst for record in records} | begun)


def _burst(number: int, announced: Sequence[BurstInfo], records: Sequence[Record]) -> dict[str, Any]:
    """One burst; its T0 as announced, else the earliest intended start."""
    mine = [record for record in records if record.burst == number]
    starts_ns = [record.intended_wall_ns for record in mine if record.intended_wall_ns]
    t0_ns = next((b.t0_wall_ns for b in announced if b.burst == number and b.t0_wall_ns), 0)
    return {
        "burst": number,
        "t0": iso(t0_ns or min(starts_ns, default=0)),
        "sessions": len(mine),
        "outcomes": tally(record.outcome for record in mine),
        "start_error_ms": spread(start_errors_ns(mine), (50, 99)),
        "first_audio": mark_figures(mine, Mark.FIRST_AUDIO),
        "welcomed": mark_figures(mine, Mark.WELCOMED),
    }


def _round(announced: BurstInfo, records: Sequence[Record]) -> dict[str, Any]:
    """One round of any role, by its number."""
    mine = [record for record in records if record.burst == announced.burst]
    of = announced.round
    return {
        "round": announced.burst,
        "role": of.role.value,
        "users": of.users,
        "batch_size": of.batch_size,
        "batch_delay_s": of.batch_delay_s,
        "spread_s": of.spread_s,
        "t0": iso(announced.t0_wall_ns),
        "intended": announced.intended,
        "recorded": len(mine),
        "outcomes": tally(record.outcome for record in mine),
        "causes": _causes(mine),
        "start_error_ms": spread(start_errors_ns(mine), (50, 99), n=True),
        "marks": {mark.value: mark_figures(mine, mark) for mark in Mark},
    }


def _workers(records: Sequence[Record], trailers: Sequence[Trailer]) -> list[dict[str, Any]]:
    """Each worker over all bursts: sums of CPU, the worst of the rest; None where it left no last word."""
    sessions = Counter((record.worker, record.region) for record in records)
    words: dict[tuple[str, str], list[Trailer]] = defaultdict(list)
    for trailer in trailers:
        words[trailer.worker, trailer.region].append(trailer)
    return [
        {
            "id": worker,
            "region": region,
            "sessions": sessions[worker, region],
            **_health(words[worker, region]),
        }
        for worker, region in sorted({*sessions, *words})
    ]


def _health(trailers: Sequence[Trailer]) -> dict[str, Any]:
    if not trailers:
        names = ("clock_offset_ms", "clock_uncertainty_ms", "clock_steps", "clock_moved_ms", "wall_step_ms")
        spent = ("cpu_s", "welcome_cpu_s", "read_cpu_s", "rss_mb")
        return dict.fromkeys((*names, "lag_ms", "start_lag_ms", *spent))
    return {
        "clock_offset_ms": trailers[-1].clock_offset_ms,
        "clock_uncertainty_ms": max(trailer.clock_uncertainty_ms for trailer in trailers),
        "clock_steps": max(trailer.clock_steps for trailer in trailers),
        "clock_moved_ms": max(trailer.clock_moved_ms for trailer in trailers),
        "wall_step_ms": max((trailer.wall_step_ms for trailer in trailers), key=abs),
        "lag_ms": _worst([lag for trailer in trailers for lag in trailer.lag.values()]),
        "start_lag_ms": _worst([lag for trailer in trailers for lag in trailer.start_lag.values()]),
        "cpu_s": round(sum(trailer.cpu_s for trailer in trailers), 3),
        "welcome_cpu_s": round(sum(trailer.welcome_cpu_s for trailer in trailers), 3),
        "read_cpu_s": round(sum(trailer.read_cpu_s for trailer in trailers), 3),
        "rss_mb": max(trailer.rss_mb for trailer in trailers),
    }


def _worst(lags: Sequence[Lag]) -> dict[str, float] | None:
    """Of all loops and bursts the worst figure each."""
    if not lags:
        return None
    return {
        "p50": max(lag.p50 for lag in lags),
        "p95": max(lag.p95 for lag in lags),
        "max": max(lag.max for lag in lags),
    }


def _slowest(records: Sequence[Record]) -> list[Record]:
    """Failed sessions first, then the longest waits."""

    def rank(record: Record) -> tuple[bool, int, tuple[int, int, str]]:
        reached_ns = record.marks_ns.get(Mark.WELCOMED, limit_ns(record))
        return (record.outcome is Finding.OK, -reached_ns, record.sort_key())

    return sorted(records, key=rank)[:SLOWEST]


def _session(record: Record) -> dict[str, Any]:
    return {
        "session_id": record.session_id,
        "burst": record.burst,
        "outcome": record.outcome.value,
        "cause": record.cause,
        "welcomed_ms": in_ms(record.marks_ns.get(Mark.WELCOMED)),
        "waited_ms": None if record.outcome in OURS else in_ms(wait_ns(record)),
        "lag_ms": record.lag_ms,
        "phases_ms": {phase.value: in_ms(length_ns) for phase, length_ns in record.phases_ns.items()},
        **{name: getattr(record, name) for name in _ID_FIELDS},
        "worker": record.worker,
        "region": record.region,
    }


def _audio(record: Record) -> dict[str, str]:
    return {
        "session_id": record.session_id,
        "outcome": record.outcome.value,
        "worker": record.worker,
        "file": str(record.evidence[AUDIO]),
    }


def _ended_ns(record: Record) -> int:
    """When its outcome stood, Unix time; 0: not known."""
    return record.intended_wall_ns + record.decided_ns if record.decided_ns else 0


def iso(wall_ns: int) -> str | None:
    """ISO 8601 in UTC, to the millisecond; None of 0, which is not known."""
    if not wall_ns:
        return None
    moment = datetime.fromtimestamp(wall_ns // NS_PER_S, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{wall_ns % NS_PER_S // NS_PER_MS:03d}Z"
