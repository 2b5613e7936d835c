"""Makes the report of a run folder: one code path, live at the end of a run and later from disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lk_users import slo
from lk_users.report import console, markdown
from lk_users.report.folder import (
    MARKDOWN_FILE,
    RECORDS_FILE,
    SUMMARY_FILE,
    RunInfo,
    merge,
    read_reasons,
    write_atomically,
)
from lk_users.report.summary import summarize
from lk_users.report.words import plural
from lk_users.verdict import Judgement, counted, judge

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def make_report(run_dir: Path) -> Judgement:
    """Writes records.jsonl, summary.json and summary.md from what the run left behind.

    Made again, each has the same bytes. Raises Refused where there is no run, RecordError where it cannot
    be read, OSError where it cannot be written.
    """
    info = RunInfo.read(run_dir)
    settings = info.run_settings()
    merged = merge(run_dir, info, settings)
    figures = counted(merged.records, settings)
    judgement = judge(
        merged.records,
        merged.trailers,
        merged.intended,
        [objective.evaluate(figures) for objective in slo.parse(settings.slo)],
        settings,
        merged.workers,
        [*read_reasons(run_dir), *_conflict_reasons(merged.conflicts)],
    )
    summary = summarize(info, settings, merged, judgement)
    write_atomically(run_dir / RECORDS_FILE, "".join(record.to_json() + "\n" for record in merged.records))
    write_atomically(run_dir / SUMMARY_FILE, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    write_atomically(run_dir / MARKDOWN_FILE, markdown.text(summary))
    return judgement


def ending(run_dir: Path) -> str:
    """The console text of a report that was made, with where to read on. Raises OSError."""
    summary = json.loads((run_dir / SUMMARY_FILE).read_text(encoding="utf-8"))
    return f"{console.text(summary)}\n\nAll of it: {run_dir / MARKDOWN_FILE}"


def _conflict_reasons(conflicts: Sequence[str]) -> list[str]:
    if not conflicts:
        return []
    were = "was" if len(conflicts) == 1 else "were"
    return [
        f"{plural(len(conflicts), 'session')} {were} run by two workers at once, for example {conflicts[0]}"
    ]
