"""The kinds of charts, on Bokeh: distributions, ranges, bars. What they show is given to them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from bokeh.models import BasicTickFormatter, ColumnDataSource, HoverTool
from bokeh.models.annotations.geometry import Span
from bokeh.models.annotations.labels import LabelSet
from bokeh.plotting import figure

from lk_users.report import words
from lk_users.report.page import looks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


# What the page's script gives the colour of the page's text.
INK: Final = "ink"
# Of a distribution over more samples every thousandth is drawn: each is one of the samples.
STEPS: Final = 1000
TOOLS: Final = "pan,box_zoom,wheel_zoom,reset,save"
# A log axis has no place for 0.
LEAST_MS: Final = 0.1
ROW_PX: Final = 34
PERCENTILES: Final = {"p50": "circle", "p90": "diamond", "p99": "square", "max": "x"}


@dataclass(frozen=True)
class Chart:
    """One chart of the page. ``rows``: how many values it shows; ``table``: head and rows that say the same
    without it; ``legend``: (colour, dash or marker, text)."""

    name: str
    title: str
    note: str
    plot: figure
    rows: int
    table: Sequence[Sequence[str]] = ()
    legend: Sequence[tuple[str, str, str]] = field(default=())


def plain(height: int, **options: Any) -> figure:
    """An empty chart as wide as its place."""
    plot = figure(
        height=height, sizing_mode="stretch_width", tools=TOOLS, toolbar_location="above",
        active_drag=None, active_scroll=None, background_fill_color=None, border_fill_color=None,
        outline_line_color=None, **options,
    )  # fmt: skip
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    for axis in plot.axis:
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font = axis.major_label_text_font = "system-ui, sans-serif"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
        axis.minor_tick_line_color = None
    return plot


def distribution(
    samples_ms: Mapping[str, Sequence[float]],
    colors: Mapping[str, str],
    *,
    log: bool,
    unit: str = "ms",
    least_end: float = 0.0,
) -> tuple[figure, int]:
    """For each name the share of its sessions that got so far within so long, by exact steps.

    ``samples_ms``: ascending; ``least_end``: how far the axis goes at least. Gives the chart and the number
    of steps in it.
    """
    values = [value for samples in samples_ms.values() for value in samples]
    scale = 1000.0 if unit == "s" else 1.0
    top = max([*values, least_end], default=1.0) / scale
    low = max(LEAST_MS, min((value for value in values if value > 0), default=LEAST_MS)) / scale
    across = (low * 0.9, max(top * 1.05, low * 2)) if log else (0.0, max(top * 1.02, 0.001))
    plot = plain(
        320, x_axis_type="log" if log else "linear", x_range=across, y_range=(0, 102),
        x_axis_label=unit, y_axis_label="% of sessions",
    )  # fmt: skip
    drawn = 0
    for number, (name, samples) in enumerate(samples_ms.items()):
        xs, shares = steps(samples)
        drawn += len(xs)
        source = ColumnDataSource(
            {
                "x": np.maximum(np.array(xs) / scale, low * 0.9 if log else 0).astype("f4"),
                "y": np.array(shares, "f4"),
            }
        )
        line = plot.step(
            "x", "y", source=source, mode="after", color=colors[name], line_width=2.5,
            line_dash=looks.dash(number),
        )  # fmt: skip
        tips = [("", name), ("within", f"@x{{0,0.[000]}} {unit}"), ("sessions", "@y{0.[0]} %")]
        plot.add_tools(HoverTool(renderers=[line], tooltips=tips, line_policy="prev", visible=False))
    if log:
        plot.xaxis.formatter = BasicTickFormatter(use_scientific=False)
    return plot, drawn


def steps(samples: Sequence[float]) -> tuple[list[float], list[float]]:
    """(value, percent of the samples up to it) of ascending ``samples``: all, or nearest-rank percentiles of
    a thousand equal steps."""
    if not samples:
        return [], []
    if len(samples) <= STEPS:
        shares = [100 * (number + 1) / len(samples) for number in range(len(samples))]
        return [samples[0], *samples], [0.0, *shares]
    ranks = [max(1, math.ceil(step * len(samples) / STEPS)) for step in range(1, STEPS + 1)]
    return (
        [samples[0], *(samples[rank - 1] for rank in ranks)],
        [0.0, *(100 * rank / len(samples) for rank in ranks)],
    )


def at_lines(plot: figure, places: Mapping[str, float], y: float = 2.0) -> None:
    """Upright lines, each with its name to its left, at the height ``y``."""
    for place in places.values():
        plot.add_layout(
            Span(location=place, dimension="height", line_dash="dashed", line_width=1, tags=[INK])
        )
    ends = {"x": list(places.values()), "y": [y] * len(places), "text": list(places)}
    plot.add_layout(
        LabelSet(
            x="x",
            y="y",
            text="text",
            source=ColumnDataSource(ends),
            x_offset=-4,
            text_align="right",
            text_font_size="12px",
            tags=[INK],
        )
    )


def ranges(rows: Sequence[tuple[str, Mapping[str, Any]]], colors: Sequence[str], *, log: bool) -> figure:
    """One line a row from p50 to max, with a mark at each of p50, p90, p99, max, in seconds.

    ``rows``: (name, figures in ms). What is None is left out.
    """
    names = [name for name, _ in rows]
    values = [found[key] / 1000 for _, found in rows for key in PERCENTILES if found.get(key) is not None]
    low = max(LEAST_MS / 1000, min((value for value in values if value > 0), default=0.001))
    top = max([*values, low])
    across = (low * 0.8, max(top, low) * 1.3) if log else (0.0, top * 1.05)
    plot = plain(
        70 + ROW_PX * len(rows), x_axis_type="log" if log else "linear", x_range=across,
        y_range=list(reversed(names)), x_axis_label="s",
    )  # fmt: skip
    plot.ygrid.grid_line_color = None
    marks: dict[str, list[Any]] = {"name": [], "x": [], "what": [], "shown": [], "marker": [], "color": []}
    for (name, found), color in zip(rows, colors, strict=True):
        known = {key: found[key] for key in PERCENTILES if found.get(key) is not None}
        for key, value in known.items():
            marks["name"].append(name)
            marks["x"].append(max(value / 1000, across[0]))
            marks["what"].append(key)
            marks["shown"].append(words.duration(value))
            marks["marker"].append(PERCENTILES[key])
            marks["color"].append(color)
    ends = {
        "name": names,
        "from": [_least(found, across[0]) for _, found in rows],
        "to": [_most(found, across[0]) for _, found in rows],
        "color": list(colors),
    }
    plot.segment("from", "name", "to", "name", source=ColumnDataSource(ends), color="color", line_width=4,
                 line_alpha=0.45)  # fmt: skip
    dots = plot.scatter("x", "name", source=ColumnDataSource(marks), size=11, marker="marker", color="color",
                        line_width=2)  # fmt: skip
    tips = [("", "@name"), ("@what", "@shown")]
    plot.add_tools(HoverTool(renderers=[dots], tooltips=tips, visible=False))
    if log:
        plot.xaxis.formatter = BasicTickFormatter(use_scientific=False)
    return plot


def _least(found: Mapping[str, Any], floor: float) -> float:
    return max(
        floor, min((found[key] / 1000 for key in PERCENTILES if found.get(key) is not None), default=0)
    )


def _most(found: Mapping[str, Any], floor: float) -> float:
    return max(
        floor, max((found[key] / 1000 for key in PERCENTILES if found.get(key) is not None), default=0)
    )


def bars(
    names: Sequence[str],
    values: Sequence[float],
    shown: Sequence[str],
    colors: Sequence[str],
    whole: float = 0.0,
) -> figure:
    """One bar a name, its value written behind it. ``whole``: the value that fills the chart, at least."""
    top = max([*values, whole, 1e-9])
    plot = plain(54 + ROW_PX * len(names), y_range=list(reversed(names)), x_range=(0, 1.22 * top))
    source = ColumnDataSource(
        {"name": list(names), "value": list(values), "shown": list(shown), "color": list(colors)}
    )
    bar = plot.hbar("name", right="value", height=0.62, source=source, fill_color="color", line_color=None)
    plot.add_tools(HoverTool(renderers=[bar], tooltips=[("@name", "@shown")], visible=False))
    plot.add_layout(
        LabelSet(
            x="value",
            y="name",
            text="shown",
            source=source,
            x_offset=6,
            y_offset=-8,
            text_font_size="12px",
            tags=[INK],
        )
    )
    plot.xaxis.visible = False
    plot.grid.grid_line_color = None
    return plot
