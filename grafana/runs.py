"""The dashboard **Runs**: run against run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders import barchart, table, timeseries, xychart
from grafana_foundation_sdk.models import common as models
from grafana_foundation_sdk.models import xychart as xy_models

from grafana import flux
from grafana.panels import (
    BAD,
    BURST,
    BY_NAME,
    CALM,
    GOOD,
    OURS_COLOR,
    PHASES_ARE,
    RUNS,
    SPAN,
    WARN,
    Built,
    barred,
    board,
    dressed,
    figures,
    filled,
    fixed,
    in_order,
    legend,
    lined,
    prop,
    steps,
    steps_of,
    tooltip,
    transform,
    verdicts,
)
from lk_users.outcome import DUPLICATE, OURS, Verdict
from lk_users.record import Phase

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import dashboard as builders
    from grafana_foundation_sdk.builders import stat

PHASES: Final = tuple(f"{phase}_ms" for phase in Phase)
WELCOME_STEPS: Final = ((5_000, WARN), (30_000, BAD))
# What the end of a run says of it in words.
TEXTS: Final = ("verdict", "version", "dispatch", "bottleneck")


def make() -> builders.Dashboard:
    """All panels, in the order in which they are read."""
    made = board(
        RUNS,
        "lk-users: Runs",
        "Run against run: what more users, another version or another way to dispatch does.",
        several=True,
    ).time("now-7d", "now")
    return filled(
        made,
        [
            _verdicts(),
            _sizes(),
            _runs(),
            _over_time(),
            _losses(),
            _phases(),
            _regions(),
            _start_error(),
        ],
    )


def _verdicts() -> stat.Panel:
    sums = ",\n          ".join(
        f'{verdict}: accumulator.{verdict} + (if r._value == "{verdict}" then 1 else 0)'
        for verdict in Verdict
    )
    zeros = ", ".join(f"{verdict}: 0" for verdict in Verdict)
    query = f"""{flux.events(["verdict"], event="end", runs=flux.RUNS)}
  |> group()
  |> reduce(
      identity: {{ended: 0, {zeros}}},
      fn: (r, accumulator) => ({{
          ended: accumulator.ended + 1,
          {sums},
      }}),
  )"""
    return (
        figures(
            "Verdicts",
            "Runs that ended in the shown time, and what they came to. A VOID run says nothing about the "
            "target: do not compare its figures.",
            flux.shown(query, ended="r.ended", **{verdict.value: f"r.{verdict}" for verdict in Verdict}),
            size=(6, 9),
            unit="short",
        )
        .override_by_name("ended", [fixed("text")])
        .override_by_name(Verdict.PASS.value, [fixed(GOOD)])
        .override_by_name(Verdict.SLO_FAILED.value, [prop("thresholds", steps_of((None, "text"), (1, BAD)))])
        .override_by_name(Verdict.VOID.value, [prop("thresholds", steps_of((None, "text"), (1, OURS_COLOR)))])
    )


def _sizes() -> xychart.Panel:
    rows = flux.sessions(["wait_welcomed_ms"], runs=flux.RUNS)
    query = f"""{flux.spread(rows, ["run"])}
  |> sort(columns: ["n"])"""
    return (
        dressed(
            xychart.Panel(),
            "Size of the run against the welcome",
            "Each run is a point of p99 and one of p50: how long its users waited for their welcome, against "
            "how many they were. Where the points leave the straight line, something saturates.",
            flux.shown(query, sessions="int(v: r.n)", p99="r.p99", p50="r.p50", run="r.run"),
            size=(18, 9),
            unit="ms",
            color=BY_NAME,
        )
        .mapping(xy_models.SeriesMapping.MANUAL)
        .series([_against("p99"), _against("p50")])
        .show(xy_models.XYShowMode.POINTS)
        .point_size(Built(xy_models.XychartFieldConfigPointSize(fixed=9)))
        .legend(legend())
        .tooltip(tooltip())
        .override_by_name("sessions", [prop("unit", "short"), prop("custom.axisLabel", "sessions")])
        .override_by_name("p99", [fixed(BAD)])
        .override_by_name("p50", [fixed(CALM)])
    )


def _runs() -> table.Panel:
    rows = flux.sessions(["wait_welcomed_ms"], runs=flux.RUNS)
    waits = flux.shown(flux.spread(rows, ["run"]), run="r.run", sessions="int(v: r.n)", **flux.RANKED)
    fates = flux.shown(_fates(), run="r.run", lost="r.lost", duplicate="r.duplicate", ours="r.ours")
    times = flux.events(["text"], runs=flux.RUNS) + "\n" + flux.RUN_TIMES
    texts = f"""{flux.events(TEXTS, event="end", runs=flux.RUNS)}
  |> group()
  |> pivot(rowKey: ["run"], columnKey: ["_field"], valueColumn: "_value")"""
    order = (
        "run", "verdict", "T0", "sessions", *flux.RANKED, "lost", "duplicate", "ours", "dispatch",
        "bottleneck", "version", "started", "until",
    )  # fmt: skip
    link = f"/d/{BURST}?var-run=${{__data.fields.run}}&{SPAN}"
    return (
        dressed(
            table.Panel(),
            "All runs",
            "One row a run: a click on its id opens it in the dashboard Burst. p50 to max: from the planned "
            "start to the welcome. lost, duplicate: the target's failures; ours: sessions that the generator "
            "lost. bottleneck: the phase that took the largest share of the wait. version: of lk-users.",
            waits,
            fates,
            flux.shown(times, run="r.run", **flux.RUN_COLUMNS),
            flux.shown(texts, run="r.run", **{name: f"r.{name}" for name in TEXTS}),
            size=(24, 10),
            unit="ms",
            thresholds=steps(*WELCOME_STEPS),
            empty="no run in the shown time",
        )
        .with_transformation(transform("joinByField", byField="run", mode="outer"))
        .with_transformation(in_order(order))
        .mappings([verdicts()])
        .override_by_regexp("/^(T0|started|until)$/", [prop("unit", "dateTimeAsIso")])
        .override_by_regexp("/^(sessions|lost|duplicate|ours)$/", [prop("unit", "short")])
        .override_by_name(
            "run", [prop("links", [{"title": "Open in Burst", "url": link}]), prop("custom.width", 200)]
        )
        .override_by_name("verdict", [prop("custom.cellOptions", {"type": "color-text"})])
        .override_by_name("p99", [prop("custom.cellOptions", {"type": "color-text"})])
        .override_by_regexp(
            "/^(lost|duplicate|ours)$/",
            [
                prop("thresholds", steps_of((None, GOOD), (1, BAD))),
                prop("custom.cellOptions", {"type": "color-text"}),
            ],
        )
    )


def _fates() -> str:
    """Sessions of each run by whose doing their end was."""
    duplicate = " or ".join(f'r.outcome == "{finding}"' for finding in DUPLICATE)
    ours = " or ".join(f'r.outcome == "{finding}"' for finding in OURS)
    return f"""{flux.wide(flux.sessions(["lost"], runs=flux.RUNS))}
  |> group(columns: ["run"])
  |> reduce(
      identity: {{sessions: 0, lost: 0, duplicate: 0, ours: 0}},
      fn: (r, accumulator) => ({{
          sessions: accumulator.sessions + 1,
          lost: accumulator.lost + (if r.lost then 1 else 0),
          duplicate: accumulator.duplicate + (if {duplicate} then 1 else 0),
          ours: accumulator.ours + (if {ours} then 1 else 0),
      }}),
  )
  |> group()
  |> sort(columns: ["run"])"""


def _over_time() -> timeseries.Panel:
    rows = flux.sessions(["wait_welcomed_ms"], runs=flux.RUNS)
    query = f"""starts = {rows}
  |> group(columns: ["run"])
  |> min(column: "_time")
  |> keep(columns: ["run", "_time"])
{flux.spread(rows, ["run"]).replace(chr(10) + "union(", chr(10) + "ranks = union(", 1)}
join(tables: {{a: starts |> group(), b: ranks}}, on: ["run"])
  |> sort(columns: ["_time"])"""
    panel = lined(
        timeseries.Panel(),
        "Welcome, run after run",
        "p50, p90 and p99 of each run, at its first T0: from the planned start to the welcome.",
        flux.shown(query, time="r._time", p50="r.p50", p90="r.p90", p99="r.p99"),
        size=(12, 9),
        unit="ms",
        thresholds=steps(*WELCOME_STEPS),
    )
    return (
        panel.show_points(models.VisibilityMode.ALWAYS)
        .override_by_name("p50", [fixed(CALM)])
        .override_by_name("p90", [fixed(WARN)])
        .override_by_name("p99", [fixed(BAD)])
    )


def _losses() -> barchart.Panel:
    query = flux.shown(_fates(), run="r.run", lost="r.lost", duplicate="r.duplicate", ours="r.ours")
    return (
        _bars(
            "Losses",
            "Sessions of each run that went wrong. lost: no welcome, and not for the generator's fault. "
            "duplicate: two of the named agent, or one job on two workers. ours: the generator lost them.",
            query,
            unit="short",
            thresholds=((1, BAD),),
            stacked=True,
        )
        .override_by_name("lost", [fixed(BAD)])
        .override_by_name("duplicate", [fixed(WARN)])
        .override_by_name("ours", [fixed(OURS_COLOR)])
    )


def _by_run(by: str, rows: str, q: str) -> str:
    """A column for each value of ``by``, a row for each run: the ``q`` quantile of ``_value``."""
    return f"""{rows}
  |> group(columns: ["run", "{by}"])
  |> quantile(q: {q}, method: "exact_selector")
  |> keep(columns: ["run", "{by}", "_value"])
  |> group()"""


def _phases() -> barchart.Panel:
    query = f"""{_by_run("_field", flux.sessions(PHASES, runs=flux.RUNS), "0.5")}
{flux.field_names("phase")}
  |> pivot(rowKey: ["run"], columnKey: ["phase"], valueColumn: "_value")
  |> sort(columns: ["run"])"""
    return _bars(
        "Phases, run against run (p50)",
        f"The median of each phase. {PHASES_ARE}",
        flux.importing(["strings"], query),
        unit="ms",
        thresholds=WELCOME_STEPS,
        stacked=True,
    )


def _regions() -> barchart.Panel:
    query = f"""{_by_run("region", flux.sessions(["wait_welcomed_ms"], runs=flux.RUNS), "0.99")}
  |> pivot(rowKey: ["run"], columnKey: ["region"], valueColumn: "_value")
  |> sort(columns: ["run"])"""
    return _bars(
        "Welcome by region (p99)",
        "p99 from the planned start to the welcome, in each region. Regions that differ by more than their "
        "round trip are served differently.",
        query,
        unit="ms",
        thresholds=WELCOME_STEPS,
        stacked=False,
    )


def _start_error() -> barchart.Panel:
    rows = flux.sessions(["start_error_ms"], runs=flux.RUNS)
    query = flux.shown(
        f"""{flux.spread(rows, ["run"])}
  |> sort(columns: ["run"])""",
        run="r.run",
        p50="r.p50",
        p99="r.p99",
        max="r.max",
    )
    return _bars(
        "Start error",
        "How true each run's burst was: how far from their planned start its requests left.",
        query,
        unit="ms",
        thresholds=((25, WARN), (50, BAD)),
        stacked=False,
        width=24,
    )


def _bars(
    title: str,
    description: str,
    query: str | flux.Table,
    *,
    unit: str,
    thresholds: tuple[tuple[float, str], ...],
    stacked: bool,
    width: int = 12,
) -> barchart.Panel:
    return (
        barred(
            dressed(
                barchart.Panel(),
                title,
                description,
                query,
                size=(width, 9),
                unit=unit,
                thresholds=steps(*thresholds),
                color=BY_NAME,
            ),
            "run",
        )
        .orientation(models.VizOrientation.VERTICAL)
        .stacking(models.StackingMode.NORMAL if stacked else models.StackingMode.NONE)
        .x_tick_label_rotation(-30)
    )


def _against(name: str) -> Built[xy_models.XYSeriesConfig]:
    """A series of points: ``name`` against the number of sessions."""

    def named(field: str) -> xy_models.MatcherConfig:
        return xy_models.MatcherConfig("byName", field)

    return Built(
        xy_models.XYSeriesConfig(
            name=xy_models.XychartXYSeriesConfigName(fixed=name),
            x=xy_models.XychartXYSeriesConfigX(named("sessions")),
            y=xy_models.XychartXYSeriesConfigY(named(name)),
        )
    )
