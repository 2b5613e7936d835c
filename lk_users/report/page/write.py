"""Writes ``report.html`` of a run folder whose other reports are written.

::

    python -m lk_users.report.page.write RUN_DIR

loads all that this takes, and makes the page once its standard input says so (:mod:`lk_users.report.aside`);
where that ends before, nobody wants one.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jinja2
from bokeh.core.types import ID
from bokeh.embed import json_item
from bokeh.resources import Resources
from markupsafe import Markup, escape

from lk_users.course import Role
from lk_users.outcome import Verdict
from lk_users.record import Record
from lk_users.report import agent_load, backend, limit_words, region_words, round_words, witness_words, words
from lk_users.report.aside import GO
from lk_users.report.folder import (
    MARKDOWN_FILE,
    PAGE_FILE,
    RECORDS_FILE,
    SUMMARY_FILE,
    RunInfo,
    write_atomically,
)
from lk_users.report.page import charts, searches
from lk_users.verdict import counted, of_role

if TYPE_CHECKING:
    from lk_users.report.page.canvas import Chart
    from lk_users.report.words import Summary
    from lk_users.settings.run import Settings

_ID: Final = re.compile(r"p\d+")
_CODE: Final = re.compile(r"`([^`]+)`")
VERDICT_SIGNS: Final[Mapping[str, str]] = {Verdict.PASS: "✓", Verdict.SLO_FAILED: "✕", Verdict.VOID: "∅"}


def write_page(run_dir: Path) -> Path:
    """The page, from summary.json and records.jsonl alone. Made again it has the same bytes.

    Raises Refused where there is no run, RecordError where it cannot be read, OSError.
    """
    settings = RunInfo.read(run_dir).run_settings()
    summary = json.loads((run_dir / SUMMARY_FILE).read_text(encoding="utf-8"))
    lines = (run_dir / RECORDS_FILE).read_text(encoding="utf-8").split("\n")
    records = [Record.from_json(line) for line in lines if line]
    path = run_dir / PAGE_FILE
    write_atomically(path, text(summary, records, settings))
    return path


def text(summary: Summary, records: Sequence[Record], settings: Settings) -> str:
    """The whole page. ``records``: all of the run, as records.jsonl has them."""
    of_all = counted(records, settings)
    # Of a search for a limit all figures of the summary are of one burst.
    judged = summary["judged_burst"]
    figures = [record for record in of_all if judged in (None, record.burst)]
    # Sections of the page, each with its charts; where there is nothing to draw, with none.
    found = {
        "time": [charts.shares(summary), charts.marks(summary, figures)],
        "phases": [charts.phases(summary, figures)],
        "limits": [searches.ladder(summary), searches.plans(summary), searches.grid(summary)],
        "sessions": [charts.sessions(of_all)],
        "outcomes": [charts.outcomes(summary)],
        "regions": [charts.regions(summary)],
        "rounds": [charts.rounds(summary)],
        "trust": [charts.start_error(summary, of_role(records, Role.BURST), settings.max_start_error_ms)],
    }
    drawn = {name: [chart for chart in group if chart] for name, group in found.items()}
    everything = [chart for group in drawn.values() for chart in group]
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: (files(__package__) / name).read_text("utf-8")),
    )
    environment.filters["said"] = said
    page = environment.get_template("page.html")
    return page.render(
        summary=summary,
        words=words,
        charts=drawn,
        items=Markup(script_json([item(chart) for chart in everything])),
        bokeh=Markup(library()),
        sign=VERDICT_SIGNS[summary["verdict"]],
        failures=[*words.failure_lines(summary), *agent_load.lines(summary), *words.twice_lines(summary)],
        alone=round_words.alone_lines(summary),
        anew=words.anew_line(summary),
        time=[*words.time_lines(summary), *backend.lines(summary)],
        limits=limit_words.lines(summary),
        slo_rows=limit_words.slo_rows(summary),
        rounds=round_words.lines(summary),
        round_rows=round_words.table_rows(summary),
        regions=region_words.lines(summary),
        region_rows=region_words.table_rows(summary),
        worker_load=agent_load.rows(summary),
        trust=[*words.trust_lines(summary), *words.user_lines(summary), *words.sink_lines(summary)],
        witness=witness_words,
        details=MARKDOWN_FILE,
    )


def said(sentence: str) -> Markup:
    """A sentence of the reports: what stands in backticks is code; all else is text, whoever wrote it."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(sentence))))


def item(chart: Chart) -> dict[str, Any]:
    """What the page's script needs to draw it. Bokeh numbers its models over the whole process: counted anew,
    so that a page made again has the same bytes."""
    numbers: dict[str, str] = {}
    found = _renumbered(json_item(chart.plot, ID(f"chart-{chart.name}")), numbers)
    return {"name": chart.name, "rows": chart.rows, "item": found}


def _renumbered(value: Any, numbers: dict[str, str], key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _renumbered(inner, numbers, name) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_renumbered(inner, numbers) for inner in value]
    if key in ("id", "root_id") and isinstance(value, str) and _ID.fullmatch(value):
        return numbers.setdefault(value, f"p{len(numbers) + 1}")
    return value


def script_json(value: Any) -> str:
    """JSON that cannot end the script element that it stands in."""
    line = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return line.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def library() -> str:
    """BokehJS alone, without its widgets, tables, WebGL and formulas."""
    return Resources(mode="inline", components=["bokeh"]).js_raw[0].replace("</script", "<\\/script")


def main(arguments: Sequence[str]) -> None:
    if sys.stdin.readline() == GO:
        write_page(Path(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
