"""``ladder`` and ``batch_search`` of ``summary.json``: what a search for a limit came to. Pure.

The shape is described in docs/limits.md. Times in ms, to the microsecond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lk_users.batches import BatchCourse, all_in_ns, plan_of
from lk_users.ladder import LadderCourse
from lk_users.record import Mark
from lk_users.report.figures import in_ms, mark_figures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lk_users.batches import BatchSearch
    from lk_users.course import RoundResult
    from lk_users.ladder import Ladder
    from lk_users.search import Probe, Tried
    from lk_users.settings import Settings


def sections(settings: Settings, done: Sequence[RoundResult]) -> dict[str, Any]:
    """Both sections; None where the run was no such search. Raises Refused for SLOs that can't be read."""
    ladder = ladder_section(LadderCourse(settings).result(done)) if settings.course == "ladder" else None
    batches = batch_section(BatchCourse(settings).result(done)) if settings.course == "batches" else None
    return {"ladder": ladder, "batch_search": batches}


def ladder_section(found: Ladder) -> dict[str, Any]:
    return {
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


def batch_section(found: BatchSearch) -> dict[str, Any]:
    return {
        "users": found.users,
        "way": found.way,
        "repeats": found.repeats,
        "plan": _plan(found),
        "at_once": _cell(found.at_once) if found.at_once else None,
        "cells": [_cell(cell) for cell in found.cells],
        "probes": _probes(found.probes),
        "stopped": found.stopped,
    }


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
        "slo": [{"text": slo.text, "value": slo.value, "ok": slo.ok} for slo in tried.slo],
    }


def _probes(probes: Sequence[Probe]) -> list[dict[str, Any]]:
    return [
        {"burst": probe.burst, "ok": probe.ok, "agent_joined_ms": in_ms(probe.agent_joined_ns)}
        for probe in probes
    ]
