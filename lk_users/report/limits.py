"""``ladder`` and ``batch_search`` of ``summary.json``: what a search for a limit came to. Pure.

The shape is described in docs/limits.md. Times in ms, to the microsecond.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

from lk_users.batches import BatchCourse, BatchSearch, all_in_ns, plan_of
from lk_users.course import RoundResult
from lk_users.ladder import Ladder, LadderCourse
from lk_users.record import Mark
from lk_users.report import limit_words
from lk_users.report.figures import in_ms, mark_figures
from lk_users.settings.scale import SEARCHES
from lk_users.verdict import void_reasons

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lk_users.health import Trailer
    from lk_users.record import Record
    from lk_users.report.folder import Merged
    from lk_users.search import Probe, Tried
    from lk_users.settings.run import Settings

Found: TypeAlias = "Ladder | BatchSearch | None"


def search_in(merged: Merged, settings: Settings) -> Found:
    """What a search came to, from its run folder; None where the run was none. Raises Refused for SLOs that
    can't be read."""
    return search_of(settings, _rounds(merged, settings)) if settings.course in SEARCHES else None


def search_of(settings: Settings, done: Sequence[RoundResult]) -> Found:
    """What these rounds came to."""
    if settings.course == "ladder":
        return LadderCourse(settings).result(done)
    return BatchCourse(settings).result(done) if settings.course == "batches" else None


def _rounds(merged: Merged, settings: Settings) -> list[RoundResult]:
    """The rounds of a run, read back."""
    records: dict[int, list[Record]] = defaultdict(list)
    trailers: dict[int, list[Trailer]] = defaultdict(list)
    for record in merged.records:
        records[record.burst].append(record)
    for trailer in merged.trailers:
        trailers[trailer.burst].append(trailer)
    return [
        RoundResult(
            begun.burst,
            begun.round,
            tuple(records[begun.burst]),
            tuple(void_reasons(records[begun.burst], trailers[begun.burst], begun.round.users, settings)),
        )
        for begun in merged.bursts
    ]


def sections(found: Found) -> dict[str, Any]:
    """Both sections of the summary; None where the run was no such search. ``judged_burst``: all figures and
    SLOs of the summary are of that one; None: of all bursts."""
    return {
        "ladder": ladder_section(found) if isinstance(found, Ladder) else None,
        "batch_search": batch_section(found) if isinstance(found, BatchSearch) else None,
        "judged_burst": found.judged.burst if found is not None and found.judged is not None else None,
    }


def ladder_section(found: Ladder) -> dict[str, Any]:
    section = {
        "limit": found.limit,
        "low": found.low,
        "high": found.high,
        "confidence": found.confidence,
        "repeats": found.repeats,
        "sizes": list(found.sizes),
        "climbs": [
            {"repeat": climb.repeat, "limit": climb.limit, "failed": climb.failed} for climb in found.climbs
        ],
        "rungs": [{"users": rung.round.users, **_tried(rung)} for rung in found.rungs],
        "probes": _probes(found.probes),
        "stopped": found.stopped,
    }
    return {"text": limit_words.ladder_text(section), **section}


def batch_section(found: BatchSearch) -> dict[str, Any]:
    section = {
        "users": found.users,
        "way": found.way,
        "repeats": found.repeats,
        "plan": _plan(found),
        "at_once": _cell(found.at_once) if found.at_once else None,
        "cells": [_cell(cell) for cell in found.cells],
        "probes": _probes(found.probes),
        "stopped": found.stopped,
    }
    return {"text": limit_words.batch_text(section), **section}


def _plan(found: BatchSearch) -> dict[str, Any] | None:
    """The plan with the figures of its slowest burst."""
    plan, judged = found.plan, found.judged
    if plan is None or judged is None:
        return None
    cell = _cell(judged)
    for name in ("repeat", "burst", "ok", "slo"):
        del cell[name]
    return {**cell, "bursts": [one.burst for one in found.of_plan(plan)]}


def _cell(cell: Tried) -> dict[str, Any]:
    plan = plan_of(cell)
    all_welcomed = all(record.welcomed for record in cell.records)
    return {
        "batch_size": plan.size,
        "batch_delay_s": plan.delay_s,
        "planned_ms": in_ms(plan.planned_ns),
        "all_in_ms": in_ms(all_in_ns(cell)) if all_welcomed else None,
        **_tried(cell),
    }


def _tried(tried: Tried) -> dict[str, Any]:
    return {
        "repeat": tried.repeat,
        "burst": tried.burst,
        "ok": tried.ok,
        "lost": sum(record.lost for record in tried.records),
        "agent_joined_ms": mark_figures(tried.records, Mark.AGENT_JOINED),
        "welcomed_ms": mark_figures(tried.records, Mark.WELCOMED),
        "slo": [asdict(slo) for slo in tried.slo],
    }


def _probes(probes: Sequence[Probe]) -> list[dict[str, Any]]:
    return [
        {"burst": probe.burst, "ok": probe.ok, "agent_joined_ms": in_ms(probe.agent_joined_ns)}
        for probe in probes
    ]
