"""The dashboard **Generator**: was the load generator itself well, and how well are its clocks known?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders import barchart, table, timeseries
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.models import common as models

from grafana import flux
from grafana.panels import (
    BAD,
    BY_NAME,
    GENERATOR,
    WARN,
    barred,
    board,
    dressed,
    figures,
    filled,
    lined,
    prop,
    steps,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import dashboard as builders
    from grafana_foundation_sdk.builders import stat

Steps = tuple[tuple[float, str], ...]

LOOPS: Final = ("asyncio", "gevent")
# --max-stall, --max-clock-uncertainty and --max-start-error, unless told otherwise.
STALL_MS, UNCERTAINTY_MS, START_ERROR_MS = 1000, 250, 50
LAG_STEPS: Final[Steps] = ((200, WARN), (STALL_MS, BAD))
START_STEPS: Final[Steps] = ((START_ERROR_MS / 2, WARN), (START_ERROR_MS, BAD))


def make() -> builders.Dashboard:
    """All panels, in the order in which they are read."""
    made = board(
        GENERATOR,
        "lk-users: Generator",
        "Whether the load generator was the bottleneck: its loops, its processors, its clocks.",
    )
    return filled(
        made,
        [
            _start_error(),
            _stalls(),
            _cpu_a_session(),
            _uncertainty(),
            _lag(),
            _queue(),
            _workers(),
            _start_errors(),
            _lags(),
            _cpu(),
            _clocks(),
        ],
    )


def _start_error() -> stat.Panel:
    rows = flux.sessions(["start_error_ms"])
    return figures(
        "Start error",
        "How far from its planned start each request left. Above --max-start-error (p99, 50 ms unless told "
        "otherwise) the run is void.",
        flux.shown(flux.spread(rows, ["_field"]), p50="r.p50", p99="r.p99", max="r.max"),
        size=(6, 5),
        unit="ms",
        thresholds=steps(*START_STEPS),
    )


def _stalls() -> stat.Panel:
    worst = ",\n  ".join(
        f"{flux.workers([f'lag_{loop}_{figure}_ms' for loop in LOOPS])} |> group() |> max()"
        f' |> map(fn: (r) => ({{all: "", figure: "{name}", _value: r._value}}))'
        for figure, name in (("p95", "lag p95"), ("max", "longest stall"))
    )
    query = f"""union(tables: [
  {worst},
])
  |> group()
  |> pivot(rowKey: ["all"], columnKey: ["figure"], valueColumn: "_value")
  |> drop(columns: ["all"])"""
    return figures(
        "Loop lag, worst worker",
        "How late timers came, from T0 - 1 s to the last decision, on the worst loop of the worst worker. "
        "p95 is weighted by time. A stall above --max-stall (1 s unless told otherwise) makes the run void.",
        query,
        size=(6, 5),
        unit="ms",
        thresholds=steps(*LAG_STEPS),
    )


def _cpu_a_session() -> stat.Panel:
    query = f"""{flux.workers(["cpu_s", "read_cpu_s", "recorded"])}
  |> toFloat()
  |> group(columns: ["_field"])
  |> sum()
  |> group()
  |> map(fn: (r) => ({{r with all: ""}}))
  |> pivot(rowKey: ["all"], columnKey: ["_field"], valueColumn: "_value")"""
    each = "if r.recorded > 0.0 then 1000.0 * r.{} / r.recorded else 0.0"
    return figures(
        "CPU a session",
        "CPU of all workers divided by their sessions: from building to the last decision, and of the reads "
        "and the clean-up after it.",
        flux.shown(query, burst=each.format("cpu_s"), reads=each.format("read_cpu_s")),
        size=(6, 5),
        unit="ms",
        thresholds=steps((20, WARN), (100, BAD)),
    )


def _uncertainty() -> stat.Panel:
    query = f"""{flux.workers(["clock_uncertainty_ms"])}
  |> group()
  |> max()"""
    return figures(
        "Clock uncertainty, worst worker",
        "How far a worker's clock can be off the master's, by which T0 is given. Above "
        "--max-clock-uncertainty (250 ms unless told otherwise) the run is void.",
        flux.shown(query, uncertainty="r._value"),
        size=(6, 5),
        unit="ms",
        thresholds=steps((UNCERTAINTY_MS / 5, WARN), (UNCERTAINTY_MS, BAD)),
    )


def _by_worker(*fields: str) -> str:
    """A column for each worker, and for each of several fields."""
    who = flux.WORKER_NAME if len(fields) == 1 else f'{flux.WORKER_NAME} + " " + r._field'
    return flux.importing(
        ["regexp"],
        f"{flux.live(fields)}\n"
        "  |> toFloat()\n"
        "  |> aggregateWindow(every: v.windowPeriod, fn: max, createEmpty: false)\n"
        f"  |> map(fn: (r) => ({{_time: r._time, _value: r._value, who: {who}}}))\n"
        "  |> group()\n"
        '  |> pivot(rowKey: ["_time"], columnKey: ["who"], valueColumn: "_value")\n'
        '  |> sort(columns: ["_time"])',
    )


def _lag() -> timeseries.Panel:
    panel = lined(
        timeseries.Panel(),
        "Loop lag by worker",
        "Live, once a second: the largest lag of the worker's loop since it last spoke. The red line is "
        "--max-stall unless told otherwise.",
        _by_worker("lag_ms"),
        size=(12, 9),
        unit="ms",
        thresholds=steps(*LAG_STEPS),
        empty="no worker has spoken yet",
    )
    return panel.interval("1s").thresholds_style(_lines()).axis_soft_max(STALL_MS / 5)


def _queue() -> timeseries.Panel:
    panel = lined(
        timeseries.Panel(),
        "Sink queue by worker",
        "Live: points that wait to be written to this database. The queue may grow during a burst and has to "
        "shrink after it; spooled points lie in the run folder, since the database did not take them.",
        _by_worker("queued", "spooled"),
        size=(12, 9),
        unit="short",
        thresholds=steps((10_000, WARN), (50_000, BAD)),
        empty="no worker has spoken yet",
    )
    return panel.interval("1s").axis_label("points")


def _workers() -> table.Panel:
    lags = [
        f"{window}_{loop}_{figure}_ms"
        for window in ("start_lag", "lag")
        for loop in LOOPS
        for figure in ("p95", "max")
    ]
    floats = ["clock_offset_ms", "clock_uncertainty_ms", "cpu_s", "read_cpu_s", "rss_mb", *lags]
    rows = f"""{flux.wide(flux.workers(["intended", "recorded", *floats]))}
  |> sort(columns: ["region", "worker", "burst"])"""
    query = flux.shown(
        rows,
        **{name: f"r.{name}" for name in ("region", "worker", "burst", "intended", "recorded")},
        **{name: f"r.{name}" for name in ("clock_uncertainty_ms", "clock_offset_ms", *lags)},
        **{name: f"r.{name}" for name in ("cpu_s", "read_cpu_s", "rss_mb")},
    )
    return (
        dressed(
            table.Panel(),
            "Workers",
            "Each worker's last word on each burst. clock_offset: of its monotonic clock to the master's, "
            "which on another machine is any number; what counts is its uncertainty. start_lag: from T0 - 1 "
            "s to T0 + 5 s; lag: to the last decision.",
            query,
            size=(24, 8),
            unit="ms",
            thresholds=steps(*LAG_STEPS),
        )
        .override_by_regexp("/^(burst|intended|recorded)$/", [prop("unit", "short")])
        .override_by_regexp("/^(cpu_s|read_cpu_s)$/", [prop("unit", "s")])
        .override_by_name("rss_mb", [prop("unit", "decmbytes")])
        .override_by_regexp("/lag_.*_max_ms$/", [prop("custom.cellOptions", {"type": "color-text"})])
    )


def _start_errors() -> barchart.Panel:
    rows = f"""{flux.wide(flux.sessions(["start_error_ms", "worker"]))}
  |> filter(fn: (r) => exists r.start_error_ms)
  |> map(fn: (r) => ({{who: {flux.WORKER_NAME}, _value: r.start_error_ms}}))"""
    query = flux.shown(
        f"""{flux.spread(rows, ["who"])}
  |> sort(columns: ["who"])""",
        imports=["regexp"],
        worker="r.who",
        p50="r.p50",
        p99="r.p99",
        max="r.max",
    )
    return _bars(
        "Start error by worker",
        "How far from their planned start the requests of each worker left: a worker that is slower than the "
        "others needs fewer users or a quieter machine.",
        query,
        unit="ms",
        thresholds=START_STEPS,
    )


def _worker_bars(
    title: str,
    description: str,
    fields: tuple[str, ...],
    *,
    unit: str,
    thresholds: Steps,
) -> barchart.Panel:
    """The worst of each field over all bursts, by worker."""
    query = f"""{flux.workers(fields)}
  |> map(fn: (r) => ({{_value: r._value, _field: r._field, who: {flux.WORKER_NAME}}}))
  |> group(columns: ["who", "_field"])
  |> max()
  |> group()
  |> pivot(rowKey: ["who"], columnKey: ["_field"], valueColumn: "_value")
  |> sort(columns: ["who"])
  |> rename(columns: {{who: "worker"}})"""
    return _bars(title, description, flux.importing(["regexp"], query), unit=unit, thresholds=thresholds)


def _lags() -> barchart.Panel:
    return _worker_bars(
        "Longest stall by worker and loop",
        "The longest that each of a worker's two loops was late, over its bursts: asyncio drives the "
        "sessions, gevent is Locust's.",
        tuple(f"lag_{loop}_max_ms" for loop in LOOPS),
        unit="ms",
        thresholds=LAG_STEPS,
    )


def _cpu() -> barchart.Panel:
    return _worker_bars(
        "CPU by worker",
        "CPU seconds of the worker's process in its costliest burst: from building to the last decision "
        "(cpu_s), and of the reads and the clean-up after it (read_cpu_s).",
        ("cpu_s", "read_cpu_s"),
        unit="s",
        thresholds=((30, WARN), (120, BAD)),
    )


def _clocks() -> barchart.Panel:
    return _worker_bars(
        "Clock uncertainty by worker",
        "How far its clock can be off the master's, at worst over its bursts. Half the round trip to the "
        "master and what clocks drift since: a far region has more.",
        ("clock_uncertainty_ms",),
        unit="ms",
        thresholds=((UNCERTAINTY_MS / 5, WARN), (UNCERTAINTY_MS, BAD)),
    )


def _bars(
    title: str,
    description: str,
    query: str | flux.Table,
    *,
    unit: str,
    thresholds: Steps,
) -> barchart.Panel:
    return barred(
        dressed(
            barchart.Panel(),
            title,
            description,
            query,
            size=(12, 9),
            unit=unit,
            thresholds=steps(*thresholds),
            color=BY_NAME,
        ),
        "worker",
    )


def _lines() -> common_builders.GraphThresholdsStyleConfig:
    return common_builders.GraphThresholdsStyleConfig().mode(models.GraphThresholdsStyleMode.DASHED)
