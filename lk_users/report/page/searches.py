"""The charts of a search for a limit: the ladder's rungs, and the plans in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bokeh.models import ColumnDataSource, HoverTool
from bokeh.models.annotations.geometry import BoxAnnotation
from bokeh.models.annotations.labels import LabelSet

from lk_users.report import limit_words, words
from lk_users.report.page import looks
from lk_users.report.page.canvas import INK, Chart, at_lines, plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bokeh.plotting import figure

    from lk_users.report.words import Summary

    Tried = Mapping[str, Any]

STATES: Final = (("met", looks.GOOD, "circle"), ("missed", looks.BAD, "x"))
LEGEND: Final = (
    (looks.GOOD, "circle", "burst that met every SLO"),
    (looks.BAD, "x", "burst that missed one"),
)
MET_NOTE: Final = "p99 to the agent in the room, from each session's planned start."


def ladder(summary: Summary) -> Chart | None:
    """Each burst by its size, with the limit and where it lies."""
    section = summary.get("ladder")
    rungs = [rung for rung in section["rungs"] if _p99_s(rung) is not None] if section else []
    if section is None or not rungs:
        return None
    widest = max(rung["users"] for rung in rungs)
    plot = plain(
        360,
        x_range=(0, 1.06 * widest),
        y_range=(0, 1.1 * _longest_s(rungs)),
        x_axis_label="users at once",
        y_axis_label="agent in the room, p99 (s)",
    )
    legend = [*LEGEND]
    if section["low"] is not None and section["confidence"] is not None:
        # Nothing failed where there is no upper end: then it lies beyond what was tried.
        high = section["high"] if section["high"] is not None else 2 * widest
        plot.add_layout(
            BoxAnnotation(left=section["low"], right=high, fill_color=looks.WAITING, fill_alpha=0.25)
        )
        sure = words.percent(section["confidence"])
        legend.append((looks.WAITING, "bar", f"where the limit lies with {sure} confidence"))
    if section["limit"]:
        at_lines(plot, {f"limit {section['limit']}": section["limit"]}, y=0.02 * _longest_s(rungs))
    _points(plot, rungs, "users", [rung["users"] for rung in rungs], _rung_words)
    note = f"{MET_NOTE} Each mark is one burst."
    rows = limit_words.rows(summary)
    return Chart("ladder", "How many at once", note, plot, len(rungs), rows, legend)


def plans(summary: Summary) -> Chart | None:
    """Each plan by the time that it takes to start all users, and what it does to them."""
    section = summary.get("batch_search")
    cells = [cell for cell in _cells(section) if _p99_s(cell) is not None] if section else []
    if section is None or not cells:
        return None
    longest_s = max(cell["planned_ms"] for cell in cells) / 1000
    plot = plain(
        360,
        x_range=(-0.03 * longest_s, 1.15 * longest_s or 1.0),
        y_range=(0, 1.12 * _longest_s(cells)),
        x_axis_label="from the first batch to the last (s)",
        y_axis_label="agent in the room, p99 (s)",
    )
    _points(
        plot, cells, "plan", [cell["planned_ms"] / 1000 for cell in cells], lambda cell: _plan(cell, section)
    )
    legend = [*LEGEND]
    if plan := section["plan"]:
        plot.scatter(
            [plan["planned_ms"] / 1000], [plan["agent_joined_ms"]["p99"] / 1000], size=24, marker="circle",
            fill_alpha=0, line_color=looks.SERIES[0], line_width=3,
        )  # fmt: skip
        legend.append((looks.SERIES[0], "ring", f"the plan: {_plan(plan, section)}"))
    note = f"{MET_NOTE} Further left, all users have started sooner; further down, each waits less."
    return Chart("plans", "In which batches", note, plot, len(cells), limit_words.rows(summary), legend)


def grid(summary: Summary) -> Chart | None:
    """Batch size by delay, where every pair was run."""
    section = summary.get("batch_search")
    if section is None or section["way"] != "grid":
        return None
    cells: dict[tuple[int, float], list[Tried]] = {}
    for cell in section["cells"]:
        if cell["batch_size"] < section["users"]:
            cells.setdefault((cell["batch_size"], cell["batch_delay_s"]), []).append(cell)
    if not cells:
        return None
    sizes = [str(size) for size in sorted({size for size, _ in cells}, reverse=True)]
    delays = [f"{delay_s:g} s" for delay_s in sorted({delay_s for _, delay_s in cells})]
    plot = plain(
        90 + 54 * len(sizes), x_range=delays, y_range=sizes, x_axis_label="a batch every",
        y_axis_label="users in a batch",
    )  # fmt: skip
    plot.grid.grid_line_color = None
    met = [all(cell["ok"] for cell in own) for own in cells.values()]
    signs = ["✓" if ok else "✕" for ok in met]
    source = ColumnDataSource(
        {
            "delay": [f"{delay_s:g} s" for _, delay_s in cells],
            "size": [str(size) for size, _ in cells],
            "color": [looks.GOOD if ok else looks.BAD for ok in met],
            "said": [f"{sign} {_worst_words(own)}" for sign, own in zip(signs, cells.values(), strict=True)],
        }
    )
    boxes = plot.rect(
        "delay", "size", width=0.96, height=0.92, source=source, fill_color="color", fill_alpha=0.28,
        line_color="color",
    )  # fmt: skip
    plot.add_layout(
        LabelSet(
            x="delay", y="size", text="said", source=source, text_align="center", text_baseline="middle",
            text_font_size="13px", tags=[INK],
        )
    )  # fmt: skip
    tips = [("batches of", "@size"), ("every", "@delay"), ("p99 to the agent", "@said")]
    plot.add_tools(HoverTool(renderers=[boxes], tooltips=tips, visible=False))
    note = f"{MET_NOTE} ✓: every burst of the plan met the SLOs; of several the worst is shown."
    return Chart("grid", "Batch size and delay", note, plot, len(cells), limit_words.rows(summary))


def _points(plot: figure, tried: Sequence[Tried], what: str, xs: Sequence[float], told: Any) -> None:
    for state, color, marker in STATES:
        mine = [(x, one) for x, one in zip(xs, tried, strict=True) if one["ok"] == (state == "met")]
        if not mine:
            continue
        source = ColumnDataSource(
            {
                "x": [x for x, _ in mine],
                "y": [_p99_s(one) for _, one in mine],
                "what": [told(one) for _, one in mine],
                "p99": [words.duration(one["agent_joined_ms"]["p99"]) for _, one in mine],
                "lost": [one["lost"] for _, one in mine],
                "burst": [one["burst"] for _, one in mine],
                "repeat": [one["repeat"] for _, one in mine],
            }
        )
        dots = plot.scatter(
            "x", "y", source=source, size=12, marker=marker, color=color, line_width=2.5, fill_alpha=0.7,
            name=state,
        )  # fmt: skip
        tips = [
            (what, "@what"), ("SLOs", state), ("p99 to the agent", "@p99"), ("no welcome", "@lost"),
            ("burst", "@burst"), ("repeat", "@repeat"),
        ]  # fmt: skip
        plot.add_tools(HoverTool(renderers=[dots], tooltips=tips, visible=False))


def _cells(section: Tried) -> list[Tried]:
    """All that was tried, the true burst among it once."""
    cells = list(section["cells"])
    at_once = section["at_once"]
    return cells if at_once is None or at_once in cells else [at_once, *cells]


def _rung_words(rung: Tried) -> str:
    return f"{rung['users']} at once"


def _plan(cell: Tried, section: Tried) -> str:
    return limit_words.plan_words(cell, section["users"])


def _p99_s(one: Tried) -> float | None:
    p99_ms = one["agent_joined_ms"]["p99"]
    return None if p99_ms is None else p99_ms / 1000


def _longest_s(tried: Sequence[Tried]) -> float:
    return max(_p99_s(one) or 0.0 for one in tried) or 1.0


def _worst_words(own: Sequence[Tried]) -> str:
    known = [one["agent_joined_ms"]["p99"] for one in own]
    return words.duration(None if None in known else max(known))
