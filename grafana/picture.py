"""A picture of the dashboard Burst without Grafana: the same panels, places and queries, drawn by matplotlib.

::

    python -m grafana.picture RUN_ID FILE.png

The database is named by LK_INFLUX_URL, LK_INFLUX_ORG, LK_INFLUX_BUCKET and INFLUX_TOKEN. What Grafana shows
by a click, a scroll or a tooltip is not in a picture; look and colors are close to its light theme, no more.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from influxdb_client.client.influxdb_client import InfluxDBClient
from matplotlib.colors import PowerNorm
from matplotlib.dates import DateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch
from PIL import Image

from grafana.__main__ import FOLDER
from grafana.ask import ALL, View, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from influxdb_client.client.query_api import QueryApi
    from matplotlib.axes import Axes

    Row = Mapping[str, Any]
    Panel = Mapping[str, Any]
    Box = tuple[float, float, float, float]

WIDTH_IN: Final = 16.0
ROW_IN: Final = 0.31
DPI: Final = 100
LOOK_BACK: Final = timedelta(days=30)
# Grafana's names, as its light theme shows them.
COLORS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "green": "#3d9a33",
        "red": "#d63347",
        "orange": "#f2871e",
        "blue": "#3274d9",
        "purple": "#9447bd",
        "yellow": "#dcae00",
        "dark-red": "#8f0417",
        "text": "#24292e",
    }
)
PALETTE: Final = ("#3274d9", "#f2871e", "#3d9a33", "#9447bd", "#d63347", "#dcae00", "#4aa3a2")
QUIET, LINE, BACK = "#6b7280", "#d9dce1", "#f4f5f7"
LETTER_IN: Final = 0.0098  # of a point of size
GAP: Final = 1.5  # letters between columns
COLORS_KEPT: Final = 128
NOTE: Final = "drawn from the dashboard's own queries; Grafana's look differs in details"


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m grafana.picture RUN_ID FILE.png", file=sys.stderr)
        return 12
    run, file = arguments
    url, org, bucket = (os.environ[f"LK_INFLUX_{name}"] for name in ("URL", "ORG", "BUCKET"))
    with InfluxDBClient(url, os.environ["INFLUX_TOKEN"], org=org, timeout=60_000) as client:
        figure = draw(client.query_api(), run, bucket)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI)
    with Image.open(drawn) as image:
        # Few colors: a page that shows it loads it fast.
        image.convert("RGB").quantize(COLORS_KEPT).save(file, optimize=True)
    return 0


def draw(api: QueryApi, run: str, bucket: str) -> Figure:
    """The dashboard Burst of ``run``, its time axis zoomed to it. Raises LookupError where there is none."""
    board = json.loads((FOLDER / "burst.json").read_text(encoding="utf-8"))
    by_title = {panel["title"]: panel for panel in board["panels"]}
    now = datetime.now(UTC)
    everything = {variable["name"]: [ALL] for variable in board["templating"]["list"]} | {"run": [run]}
    wide = View(now - LOOK_BACK, now, everything, bucket)
    (times, *_) = rows(api, wide, by_title["Start, T0 and end"]["targets"][0]["query"]) or [[]]
    if not times:
        raise LookupError(f"no run {run} in the last {LOOK_BACK.days} days")
    view = View(times[0]["started"], times[0]["until"], everything, bucket)
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) + 2
    figure = Figure((WIDTH_IN, height * ROW_IN), facecolor=BACK)
    title = f"{board['title']}   ·   run {run}   ·   all regions, agents and engines"
    figure.text(0.006, 1 - 1.1 / height, title, size=13, weight="bold", color=COLORS["text"])
    figure.text(0.994, 1 - 1.1 / height, NOTE, size=9, color=QUIET, ha="right")
    moments = {"T0": times[0]["T0"], "end": times[0]["until"] - timedelta(seconds=1)}
    for panel in board["panels"]:
        (found,) = rows(api, view, panel["targets"][0]["query"]) or [[]]
        axes = _panel(figure, height, panel, found, view)
        if found and panel["type"] in ("timeseries", "state-timeline", "heatmap"):
            for name, moment in moments.items():
                color = COLORS["blue" if name == "T0" else "purple"]
                axes.axvline(date2num(moment), color=color, linewidth=1, linestyle="--")
                axes.text(
                    date2num(moment),
                    1.0,
                    f" {name}",
                    size=7,
                    color=color,
                    va="bottom",
                    transform=axes.get_xaxis_transform(),
                )
    return figure


def _panel(figure: Figure, height: float, panel: Panel, found: Sequence[Row], view: View) -> Axes:
    place = panel["gridPos"]
    gap_x, gap_y = 0.06 / WIDTH_IN, 0.06 / (height * ROW_IN)
    left, width = place["x"] / 24 + gap_x, place["w"] / 24 - 2 * gap_x
    top = 1 - (place["y"] + 2) / height
    bottom = top - place["h"] / height + 2 * gap_y
    box = FancyBboxPatch(
        (left, bottom), width, top - bottom, boxstyle="round,pad=0,rounding_size=0.002", facecolor="white",
        edgecolor=LINE, linewidth=0.8, transform=figure.transFigure, figure=figure, zorder=-1,
    )  # fmt: skip
    figure.add_artist(box)
    name_y = top - 0.22 / (height * ROW_IN)
    name = figure.text(left + 0.005, name_y, panel["title"], size=9.5, weight="bold", color=COLORS["text"])
    after = left + 0.012 + name.get_window_extent().width / figure.dpi / WIDTH_IN
    said = panel["description"].split(". ")[0]
    if len(said) * LETTER_IN * 7.2 / WIDTH_IN < left + width - after:
        figure.text(after, name_y, said, size=7.2, color=QUIET)
    inner = (left, bottom, width, name_y - bottom - 0.06 / (height * ROW_IN))
    axes = figure.add_axes(_within(panel["type"], inner, height))
    axes.tick_params(labelsize=7.5, colors=QUIET, length=2)
    for side in axes.spines.values():
        side.set_color(LINE)
    if not found:
        axes.axis("off")
        words = panel["fieldConfig"]["defaults"]["noValue"]
        axes.text(0.5, 0.5, words, ha="center", va="center", size=11, color=QUIET, transform=axes.transAxes)
        return axes
    _DRAW[panel["type"]](axes, panel, found, view)
    return axes


def _within(
    kind: str, box: tuple[float, float, float, float], height: float
) -> tuple[float, float, float, float]:
    """Room for the labels of axes, in inches from left, below, right and above."""
    margins = {
        "timeseries": (0.5, 0.55, 0.2, 0.16),
        "trend": (0.55, 0.7, 0.2, 0.08),
        "barchart": (1.15, 0.5, 0.5, 0.05),
        "state-timeline": (1.75, 0.55, 0.2, 0.16),
        "heatmap": (1.25, 0.35, 0.3, 0.16),
        "bargauge": (1.3, 0.15, 0.5, 0.1),
        "histogram": (0.5, 0.6, 0.2, 0.1),
    }.get(kind, (0.1, 0.05, 0.1, 0.0))
    left, below, right, above = margins
    x, y, w, h = box
    tall = height * ROW_IN
    return (x + left / WIDTH_IN, y + below / tall, w - (left + right) / WIDTH_IN, h - (below + above) / tall)


# --- the kinds of panels ----------------------------------------------------------------------------


def _stat(axes: Axes, panel: Panel, found: Sequence[Row], view: View) -> None:
    axes.axis("off")
    columns = _ordered(panel, found[-1])
    for place, name in enumerate(columns):
        value = found[-1][name]
        x = (place + 0.5) / len(columns)
        mapped = _mapped(panel, value)
        if mapped is not None:
            axes.add_patch(
                FancyBboxPatch(
                    (0.02, 0.06),
                    0.96,
                    0.88,
                    boxstyle="round,pad=0,rounding_size=0.03",
                    facecolor=COLORS[mapped],
                    edgecolor="none",
                    transform=axes.transAxes,
                )
            )
            axes.text(0.5, 0.5, value, ha="center", va="center", size=24, weight="bold", color="white")
            return
        text = _shown(value, _unit(panel, name))
        color = _color(panel, name, value)
        size = min(20.0, 0.92 * _width_in(axes) / len(columns) / (LETTER_IN * len(text)))
        axes.text(x, 0.52, text, ha="center", va="center", size=size, weight="bold", color=color)
        axes.text(x, 0.16, name, ha="center", va="center", size=8.5, color=QUIET)


def _table(axes: Axes, panel: Panel, found: Sequence[Row], view: View) -> None:
    axes.axis("off")
    width_in = _width_in(axes)
    height_in = axes.get_window_extent().height / axes.figure.dpi
    fitting_in = height_in / (len(found) + 1)
    step_in = min(0.2, fitting_in if fitting_in > 0.1 else 0.16)
    step = step_in / height_in
    shown = found[: max(1, int(1 / step) - 1)]
    texts = {
        name: [_shown(row[name], _unit(panel, name)) for row in shown] for name in _ordered(panel, found[0])
    }
    lengths = {name: min(34, max(len(name), *map(len, column))) for name, column in texts.items()}
    size = 38 * step_in
    whole_in = LETTER_IN * size * sum(length + GAP for length in lengths.values())
    # A few columns share the width, some more are written smaller, and of many the last are left out.
    spare = max(0.0, width_in - whole_in) / len(lengths) / width_in
    size *= min(1.0, max(0.84, width_in / whole_in))
    letter = LETTER_IN * size / width_in
    x = 0.0
    for name, column in texts.items():
        length = min(lengths[name], int((1 - x) / letter))
        if length < min(8, len(name)):
            break
        axes.text(x, 1 - step / 2, name[:length], va="center", size=size, weight="bold", color=QUIET)
        for number, (row, text) in enumerate(zip(shown, column, strict=True)):
            mapped = _mapped(panel, row[name])
            color = COLORS[mapped or "text"]
            if isinstance(row[name], int | float) and "custom.cellOptions" in _overrides(panel, name):
                color = _color(panel, name, row[name])
            cut = text if len(text) <= length else text[: length - 1] + "…"
            axes.text(x, 1 - step * (number + 1.5), cut, va="center", size=size, color=color)
        x += (length + GAP) * letter + spare
    for number in range(len(shown) + 1):
        axes.plot([0, 1], [1 - step * (number + 1)] * 2, color=LINE, linewidth=0.5)
    axes.set(xlim=(0, 1), ylim=(0, 1))


def _times(axes: Axes, panel: Panel, found: Sequence[Row], view: View) -> None:
    names = [name for name in found[0] if name != "_time"]
    for number, name in enumerate(names):
        points = [(date2num(row["_time"]), row[name]) for row in found if row[name] is not None]
        color = _series_color(panel, name, number)
        axes.plot(*zip(*points, strict=True), color=color, linewidth=1.6, label=name)
    _time_axis(axes, view)
    axes.set_ylim(bottom=0)
    axes.grid(color=LINE, linewidth=0.5)
    _legend(axes)


def _trend(axes: Axes, panel: Panel, found: Sequence[Row], view: View) -> None:
    across = panel["options"]["xField"]
    stepped = panel["fieldConfig"]["defaults"]["custom"].get("lineInterpolation") == "stepAfter"
    names = [name for name in _by_size(found) if name != across]
    ms = panel["fieldConfig"]["defaults"]["unit"] == "ms"
    for number, name in enumerate(names):
        xs, ys = zip(*((row[across], row[name]) for row in found if row[name] is not None), strict=True)
        values = [y / 1000 for y in ys] if ms else list(ys)
        color = _series_color(panel, name, number)
        if stepped:
            axes.step([*xs, found[-1][across]], [*values, values[-1]], where="post", color=color, label=name)
        else:
            axes.plot(xs, values, color=color, linewidth=1.6, label=name, marker="." if len(xs) == 1 else "")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0, right=max(row[across] for row in found))
    axes.grid(color=LINE, linewidth=0.5)
    label = _overrides(panel, across).get("custom.axisLabel", across)
    axes.set_xlabel(f"{label}{' (s)' if _unit(panel, across) == 's' else ''}", size=8, color=QUIET)
    down = panel["fieldConfig"]["defaults"]["custom"]["axisLabel"]
    axes.set_ylabel(f"{down}{' (s)' if ms else ''}", size=8, color=QUIET)
    _legend(axes, below=0.42)


def _bars(axes: Axes, panel: Panel, found: Sequence[Row], view: View) -> None:
    across = panel["options"]["xField"]
    names = [name for name in _ordered(panel, found[0]) if name != across]
    thick = 0.8 / len(names)
    longest = max(row[name] or 0 for row in found for name in names)
    for number, name in enumerate(names):
        places = [place + (number - (len(names) - 1) / 2) * thick for place in range(len(found))]
        values = [row[name] or 0 for row in found]
        axes.barh(places, values, thick * 0.9, color=_series_color(panel, name, number), label=name)
        for place, value in zip(places, values, strict=True):
            text = _shown(value, _unit(panel, name))
            axes.text(value + 0.006 * longest, place, text, va="center", size=6.5, color=QUIET)
    axes.set_yticks(range(len(found)), [row[across] for row in found])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.06 * longest)
    axes.xaxis.set_major_formatter(lambda value, _: _shown(value, _unit(panel, names[0])))
    axes.grid(axis="x", color=LINE, linewidth=0.5)
    axes.set_axisbelow(True)
    _legend(axes)


def _states(axes: Axes, panel: Panel, found: Sequence[Row], view: View) -> None:
    page = panel["options"]["perPage"]
    sessions = list(dict.fromkeys(row["session"] for row in found))[:page]
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    options = sorted(mapping["options"].items(), key=lambda item: int(item[1]["index"]))
    colors = {state: COLORS[what["color"]] for state, what in options}
    stop = date2num(view.stop)
    for place, session in enumerate(sessions):
        mine = [row for row in found if row["session"] == session]
        ends = [date2num(row["time"]) for row in mine[1:]] + [stop]
        for row, end in zip(mine, ends, strict=True):
            start = date2num(row["time"])
            axes.barh(place, end - start, 0.78, left=start, color=colors[row["state"]], linewidth=0)
    axes.set_yticks(range(len(sessions)), sessions)
    axes.tick_params(axis="y", labelsize=6)
    axes.invert_yaxis()
    _time_axis(axes, view)
    shown = [state for state in colors if any(row["state"] == state for row in found)]
    handles = [Patch(color=colors[state], label=state) for state in shown]
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.36, -0.08),
        ncols=6,
        frameon=False,
        fontsize=7.2,
        handlelength=1.2,
        columnspacing=1.2,
    )


def _heat(axes: Axes, panel: Panel, found: Sequence[Row], view: View) -> None:
    names = sorted(name for name in found[0] if name != "_time")
    step_s = 0.25
    filled = [row for row in found if any(row[name] is not None for name in names)]
    origin = filled[0]["_time"] - timedelta(seconds=step_s)
    cells = int((view.stop - origin).total_seconds() / step_s) + 1
    grid = [[float("nan")] * cells for _ in names]
    for row in filled:
        # A row's time is the end of its moment.
        place = round((row["_time"] - origin).total_seconds() / step_s) - 1
        for number, name in enumerate(names):
            if row[name] is not None and 0 <= place < cells:
                grid[number][place] = row[name]
    extent = (date2num(origin), date2num(origin + timedelta(seconds=cells * step_s)), len(names) - 0.5, -0.5)
    image = axes.imshow(
        grid, aspect="auto", extent=extent, cmap="turbo", interpolation="none", norm=PowerNorm(0.5)
    )
    axes.set_yticks(range(len(names)), names)
    _time_axis(axes, view)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.01, aspect=12)
    bar.ax.tick_params(labelsize=7, colors=QUIET, length=2)
    bar.outline.set_visible(False)
    bar.set_label("joins in 0.25 s", size=7, color=QUIET)


def _gauge(axes: Axes, panel: Panel, found: Sequence[Row], view: View) -> None:
    names = sorted(found[0], key=lambda name: -found[0][name])
    for place, name in enumerate(names):
        value = found[0][name]
        color = _series_color(panel, name, place)
        axes.barh(place, max(map(found[0].__getitem__, names)), 0.7, color=BACK)
        axes.barh(place, value, 0.7, color=color)
        axes.text(value, place, f" {value}", va="center", size=9, weight="bold", color=color)
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks([])
    axes.set_ylim(max(len(names), 4) - 0.5, -0.5)
    for side in axes.spines.values():
        side.set_visible(False)


def _histogram(axes: Axes, panel: Panel, found: Sequence[Row], view: View) -> None:
    names = sorted(found[0])
    values = [[row[name] for row in found if row[name] is not None] for name in names]
    colors = [_series_color(panel, name, number) for number, name in enumerate(names)]
    axes.hist(values, bins=24, color=colors, label=names)
    axes.set_xlabel("start error (ms)", size=8, color=QUIET)
    axes.set_ylabel("sessions", size=8, color=QUIET)
    axes.grid(axis="y", color=LINE, linewidth=0.5)
    axes.set_axisbelow(True)
    _legend(axes, below=0.42)


_DRAW: Final[Mapping[str, Callable[[Axes, Panel, Sequence[Row], View], None]]] = MappingProxyType(
    {
        "stat": _stat,
        "table": _table,
        "timeseries": _times,
        "trend": _trend,
        "barchart": _bars,
        "state-timeline": _states,
        "heatmap": _heat,
        "bargauge": _gauge,
        "histogram": _histogram,
    }
)


def _width_in(axes: Axes) -> float:
    return float(axes.get_window_extent().width / axes.figure.dpi)


# --- what a panel says of its fields ----------------------------------------------------------------


def _ordered(panel: Panel, row: Row) -> list[str]:
    """Columns in the order that the panel gives them."""
    for one in panel.get("transformations", ()):
        if one["id"] == "organize":
            places = one["options"]["indexByName"]
            return sorted(row, key=lambda name: places.get(name, len(places)))
    return list(row)


def _overrides(panel: Panel, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for override in panel["fieldConfig"]["overrides"]:
        options = override["matcher"]["options"]
        by_name = override["matcher"]["id"] == "byName"
        if options == name if by_name else re.search(options.strip("/"), name):
            found |= {one["id"]: one["value"] for one in override["properties"]}
    return found


def _unit(panel: Panel, name: str) -> str:
    return str(_overrides(panel, name).get("unit", panel["fieldConfig"]["defaults"]["unit"]))


def _mapped(panel: Panel, value: object) -> str | None:
    """The color that a text is shown in."""
    for mapping in panel["fieldConfig"]["defaults"].get("mappings", ()):
        if value in mapping["options"]:
            return str(mapping["options"][value]["color"])
    return None


def _color(panel: Panel, name: str, value: Any) -> str:
    """By its own color, else by thresholds."""
    overrides = _overrides(panel, name)
    if "color" in overrides:
        return COLORS[overrides["color"]["fixedColor"]]
    thresholds = overrides.get("thresholds", panel["fieldConfig"]["defaults"]["thresholds"])
    color = "text"
    for step in thresholds["steps"]:
        if step["value"] is None or (isinstance(value, int | float) and value >= step["value"]):
            color = step["color"]
    return COLORS[color]


def _series_color(panel: Panel, name: str, number: int) -> str:
    overrides = _overrides(panel, name)
    return (
        COLORS[overrides["color"]["fixedColor"]] if "color" in overrides else PALETTE[number % len(PALETTE)]
    )


def _shown(value: Any, unit: str) -> str:
    """A value as a reader wants it: three figures, the unit that fits."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03d}"
    if unit == "ms" and isinstance(value, int | float):
        return f"{value:.3g} ms" if abs(value) < 1000 else f"{value / 1000:.3g} s"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _by_size(found: Sequence[Row]) -> list[str]:
    """Columns by where they end: those that come first, first."""
    first = {
        name: next((at for at, row in enumerate(found) if row[name] is not None), 0) for name in found[0]
    }
    middle = {name: sorted(row[name] for row in found if row[name] is not None) for name in found[0]}
    return sorted(found[0], key=lambda name: (first[name], middle[name][len(middle[name]) // 2]))


def _time_axis(axes: Axes, view: View) -> None:
    axes.set_xlim(date2num(view.start), date2num(view.stop))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))


def _legend(axes: Axes, below: float = 0.22) -> None:
    height_in = axes.get_window_extent().height / axes.figure.dpi
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -below / height_in), ncols=8, frameon=False, fontsize=8,
        handlelength=1.4, borderaxespad=0,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
