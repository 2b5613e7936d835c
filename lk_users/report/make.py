"""Makes the report of a run folder: one code path, live at the end of a run and later from disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lk_users import slo
from lk_users.outcome import Finding, Verdict
from lk_users.report import console, junit, markdown, support
from lk_users.report.bundle import bundle
from lk_users.report.folder import (
    BUNDLE_FILE,
    JUNIT_FILE,
    MARKDOWN_FILE,
    PAGE_FILE,
    RECORDS_FILE,
    SUMMARY_FILE,
    SUPPORT_FILE,
    RunInfo,
    merge,
    read_accounts,
    read_reasons,
    read_samples,
    write_atomically,
)
from lk_users.report.limits import search_in, sections
from lk_users.report.summary import summarize
from lk_users.report.words import plural
from lk_users.sinks.outbox import SINK, total
from lk_users.verdict import Judgement, counted, judge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lk_users.health import Trailer
    from lk_users.record import Record
    from lk_users.report.folder import Merged
    from lk_users.settings.run import Settings


@dataclass(frozen=True)
class Draft:
    """A run folder read, merged and judged: all of its report but what became of its points."""

    run_dir: Path
    info: RunInfo
    settings: Settings
    merged: Merged
    figures: Sequence[Record]
    judgement: Judgement
    summary: Mapping[str, Any]


def make_report(run_dir: Path, slo_text: str = "") -> Judgement:
    """Writes records.jsonl, summary.json, summary.md and junit.xml from what the run left behind;
    support.md and support.zip where a session or the run failed. ``slo_text``: SLOs to judge it by anew;
    empty: the run's own. report.html is made from these afterwards (:mod:`lk_users.report.page`).

    Made again, each has the same bytes. Raises Refused where there is no run or an SLO is none, RecordError
    where it cannot be read, OSError where it cannot be written.
    """
    found = draft(run_dir, slo_text)
    write_report(found)
    return found.judgement


def draft(run_dir: Path, slo_text: str = "") -> Draft:
    """Raises Refused where there is no run or an SLO is none, RecordError where it cannot be read."""
    info = RunInfo.read(run_dir)
    settings = info.run_settings()
    merged = merge(run_dir, info, settings)
    search = search_in(merged, replace(settings, slo=slo_text or settings.slo))
    figures = counted(merged.records, settings)
    if search is not None and search.judged is not None:
        figures = list(search.judged.records)
    judgement = judge(
        merged.records,
        merged.trailers,
        merged.intended,
        [objective.evaluate(figures) for objective in slo.parse(slo_text or settings.slo)],
        settings,
        merged.workers,
        [
            *read_reasons(run_dir),
            *_conflict_reasons(merged.conflicts),
            *([search.stopped] if search is not None and search.stopped else []),
        ],
    )
    summary = summarize(
        info, settings, merged, judgement, read_samples(run_dir), anew=bool(slo_text), figures=figures
    )
    summary |= sections(search)
    return Draft(run_dir, info, settings, merged, figures, judgement, summary)


def write_report(found: Draft) -> None:
    """Raises RecordError, OSError."""
    run_dir, merged = found.run_dir, found.merged
    # Whatever fails from here on, no page of an earlier report lies beside the figures of this one.
    (run_dir / PAGE_FILE).unlink(missing_ok=True)
    summary = {**found.summary, "sinks": _sinks(merged.trailers, read_accounts(run_dir))}
    write_atomically(run_dir / RECORDS_FILE, "".join(record.to_json() + "\n" for record in merged.records))
    write_atomically(run_dir / SUMMARY_FILE, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    write_atomically(run_dir / MARKDOWN_FILE, markdown.text(summary))
    write_atomically(run_dir / JUNIT_FILE, junit.text(summary))
    # Sessions of the engine "idle" send nothing: there is nothing to look into.
    if found.settings.engine != "idle" and not _all_well(found.figures, found.judgement):
        write_atomically(run_dir / SUPPORT_FILE, support.text(summary, found.figures))
        write_atomically(run_dir / BUNDLE_FILE, bundle(run_dir, found.info.run_id, merged.records))
    else:
        # A report by other SLOs may have left them.
        for name in (SUPPORT_FILE, BUNDLE_FILE):
            (run_dir / name).unlink(missing_ok=True)


def _sinks(trailers: Sequence[Trailer], accounts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What became of all processes' points. A worker's trailer counts from the run's start."""
    latest = {trailer.worker: trailer for trailer in sorted(trailers, key=lambda trailer: trailer.burst)}
    all_accounts = [*(trailer.sinks[SINK] for trailer in latest.values() if SINK in trailer.sinks), *accounts]
    return {SINK: total(all_accounts)} if all_accounts else {}


def ending(run_dir: Path) -> str:
    """The console text of a report that was made, with where to read on. Raises OSError."""
    summary = json.loads((run_dir / SUMMARY_FILE).read_text(encoding="utf-8"))
    text = f"{console.text(summary)}\n\nAll of it: {run_dir / MARKDOWN_FILE}"
    if (run_dir / PAGE_FILE).exists():
        text += f"\nWith charts: {run_dir / PAGE_FILE}"
    if summary["verdict"] != Verdict.VOID and (run_dir / BUNDLE_FILE).exists():
        text += f"\nFor LiveKit's support: {run_dir / BUNDLE_FILE}, and {SUPPORT_FILE} there to paste"
    return text


def _all_well(figures: Sequence[Record], judgement: Judgement) -> bool:
    return judgement.verdict is Verdict.PASS and all(one.outcome is Finding.OK for one in figures)


def _conflict_reasons(conflicts: Sequence[str]) -> list[str]:
    if not conflicts:
        return []
    were = "was" if len(conflicts) == 1 else "were"
    return [
        f"{plural(len(conflicts), 'session')} {were} run by two workers at once, for example {conflicts[0]}"
    ]
