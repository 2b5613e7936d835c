"""The verdict on a run. Pure.

VOID comes before all else: a run that lacks data, or in which the generator was the bottleneck, says
nothing about the target, so it is neither a pass nor a failure of an SLO.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from lk_users.clock import NS_PER_MS
from lk_users.course import Role
from lk_users.health import worker_void_reasons
from lk_users.outcome import EXIT_CODE_OF, OURS, ExitCode, Finding, Verdict
from lk_users.stats import percentile, start_errors_ns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lk_users.health import Trailer
    from lk_users.record import Record
    from lk_users.settings.run import Settings
    from lk_users.slo import SloResult

_OURS_MEANS: Final[Mapping[Finding, str]] = MappingProxyType(
    {
        Finding.GENERATOR_LOST: "lost with their worker: it died, or its last records never came",
        Finding.ENGINE_CRASHED: "cut short by a crash of the generator's own engine",
        Finding.CANCELLED: "cancelled: the run was stopped before their outcome",
    }
)


@dataclass(frozen=True)
class Judgement:
    """What a run came to, and why."""

    verdict: Verdict
    exit_code: ExitCode
    void_reasons: tuple[str, ...]
    slo: tuple[SloResult, ...]


def judge(
    records: Sequence[Record],
    trailers: Sequence[Trailer],
    intended: int,
    slo_results: Sequence[SloResult],
    settings: Settings,
    expected_workers: Sequence[tuple[str, str]] = (),
    faults: Sequence[str] = (),
) -> Judgement:
    """The verdict on all of a run's sessions.

    ``expected_workers``: (worker, region) of those that had a share. ``faults``: further reasons for VOID,
    one clear line each.
    """
    reasons = void_reasons(records, trailers, intended, settings, expected_workers, faults)
    if records:
        reasons += [f"no data for {slo.text}: {slo.missing}" for slo in slo_results if slo.missing]
    if not slo_results:
        reasons.append("no SLO was evaluated: nothing says what a pass would be")
    if reasons:
        verdict = Verdict.VOID
    elif all(result.ok for result in slo_results):
        verdict = Verdict.PASS
    else:
        verdict = Verdict.SLO_FAILED
    return Judgement(verdict, EXIT_CODE_OF[verdict], tuple(dict.fromkeys(reasons)), tuple(slo_results))


def void_reasons(
    records: Sequence[Record],
    trailers: Sequence[Trailer],
    intended: int,
    settings: Settings,
    expected_workers: Sequence[tuple[str, str]] = (),
    faults: Sequence[str] = (),
) -> list[str]:
    """Why these sessions, of a run or of one of its rounds, say nothing reliable; arguments as of ``judge``.

    Nothing may be lost in any round, and the generator be well in all of them. Start errors count in bursts
    only: they say whether it was the burst that was asked for, and a control that starts somewhat unevenly
    is as spread out as before (its own start error stands beside it).
    """
    # What was lost says why sessions are missing, so it comes first.
    return [
        *faults,
        *_count_reasons(records, intended),
        *_ours_reasons(records, settings),
        *_start_reasons(of_role(records, Role.BURST), settings),
        *_trailer_reasons(records, trailers, expected_workers),
        *(reason for trailer in trailers for reason in worker_void_reasons(trailer, settings)),
    ]


def of_role(records: Sequence[Record], role: Role) -> list[Record]:
    """The sessions of the rounds of that role."""
    return [record for record in records if record.role == role]


def counted(records: Sequence[Record], settings: Settings) -> list[Record]:
    """The sessions that figures and SLOs are taken over: those of bursts, but for what the end of a free run
    cut.

    With ``--release free`` users loop until the run is stopped, so each has a last session without an end.
    """
    burst = of_role(records, Role.BURST)
    if settings.release != "free":
        return burst
    return [record for record in burst if record.outcome is not Finding.CANCELLED]


def _count_reasons(records: Sequence[Record], intended: int) -> list[str]:
    reasons = []
    if not records:
        reasons.append("no session was recorded: nothing was measured")
    if len(records) != intended:
        reasons.append(f"{len(records)} records of {intended} intended sessions: these must be equal")
    twice = [name for name, n in Counter(record.session_id for record in records).items() if n > 1]
    if twice:
        reasons.append(f"recorded more than once: {_sessions(len(twice))}, for example {min(twice)}")
    return reasons


def _ours_reasons(records: Sequence[Record], settings: Settings) -> list[str]:
    counts = Counter(record.outcome for record in records)
    if settings.release == "free" and counts[Finding.CANCELLED] < len(records):
        del counts[Finding.CANCELLED]
    return [
        f"{_sessions(counts[outcome])} {'was' if counts[outcome] == 1 else 'were'} {_OURS_MEANS[outcome]}"
        for outcome in OURS
        if counts[outcome]
    ]


def _start_reasons(records: Sequence[Record], settings: Settings) -> list[str]:
    p99_ns = _start_error_ns(records)
    limit_ns = settings.max_start_error_ms * NS_PER_MS
    if p99_ns <= limit_ns:
        return []
    workers: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        workers.setdefault((record.worker, record.region), []).append(record)
    off = {name: error for name, own in workers.items() if (error := _start_error_ns(own)) > limit_ns}
    return [
        f"the requests left {p99_ns / NS_PER_MS:.1f} ms off their planned start (p99; --max-start-error "
        f"{settings.max_start_error_ms:g}): this was not the burst that was asked for",
        *(
            f"worker {worker} ({region}): its requests left {error_ns / NS_PER_MS:.1f} ms off (p99)"
            for (worker, region), error_ns in sorted(off.items())
            if len(workers) > 1
        ),
    ]


def _start_error_ns(records: Sequence[Record]) -> int:
    """p99; 0 where no request left."""
    return percentile(start_errors_ns(records), 99) or 0


def _trailer_reasons(
    records: Sequence[Record], trailers: Sequence[Trailer], expected_workers: Sequence[tuple[str, str]]
) -> list[str]:
    """A worker's figures are whole only with its last word on every burst that it took part in."""
    closed = {(trailer.worker, trailer.burst) for trailer in trailers}
    spoke = {worker for worker, _ in closed}
    open_ = {(r.worker, r.region, r.burst) for r in records if (r.worker, r.burst) not in closed}
    reasons = [
        f"worker {worker} ({region}): no last word on burst {burst}; it died or was cut off"
        for worker, region, burst in sorted(open_)
    ]
    named = {worker for worker, _, _ in open_}
    return reasons + [
        f"worker {worker} ({region}): no last word; it died or was cut off"
        for worker, region in sorted(set(expected_workers))
        if worker not in spoke and worker not in named
    ]


def _sessions(count: int) -> str:
    return "1 session" if count == 1 else f"{count} sessions"
