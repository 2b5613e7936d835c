"""The dashboard **Burst**: one run, from its verdict down to its slowest sessions."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import (
    barchart,
    bargauge,
    common,
    heatmap,
    histogram,
    stat,
    statetimeline,
    table,
    timeseries,
    trend,
)
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import common as models
from grafana_foundation_sdk.models import heatmap as heatmap_models

from grafana import flux
from grafana.panels import (
    BAD,
    BURST,
    BY_NAME,
    CALM,
    GOOD,
    OURS_COLOR,
    PHASES_ARE,
    RUNNING,
    SPAN,
    WARN,
    as_words,
    barred,
    board,
    dressed,
    figures,
    filled,
    fixed,
    legend,
    lined,
    outcome_color,
    outcomes,
    prop,
    steps,
    steps_of,
    tooltip,
    transform,
    verdicts,
)
from lk_users.outcome import OUTCOMES, Finding
from lk_users.record import Mark, Phase

SLOWEST: Final = 10
TIMELINE: Final = 100
PAGE: Final = 20
# Bins of the curves. A burst of 600 takes half a minute: some hundred points of each.
CURVE_S: Final = 0.1
PHASES: Final = tuple(f"{phase}_ms" for phase in Phase)
WAITS: Final = tuple(f"wait_{mark}_ms" for mark in Mark)
MARKS: Final = tuple(f"{mark}_ms" for mark in Mark)
# What a session reaches, as a reader knows it by sight: field, name, color.
WAY: Final = (
    ("dispatched_ms", "dispatch answered", WARN),
    ("connected_ms", "user in the room", CALM),
    ("agent_joined_ms", "agent in the room", OURS_COLOR),
    ("first_audio_ms", "agent heard", GOOD),
)
# Where users are, as workers say it once a second: field, name, color.
NOW: Final = (
    ("parked", "there", "text"),
    ("in_flight", "in flight", WARN),
    ("joined", "in the room", CALM),
    ("agents", "agent seen", OURS_COLOR),
    ("welcomed", "welcomed", GOOD),
    ("failed", "failed", BAD),
)
# What a session waits for from each of these on, in the timeline.
STATES: Final = (
    ("fired_ms", "waits for its dispatch", WARN),
    ("dispatched_ms", "joins the room", CALM),
    ("connected_ms", "waits for the agent", OURS_COLOR),
    ("agent_joined_ms", "waits for its voice", "yellow"),
)
WELCOMED, NEVER = "has its welcome", "got no welcome"
IDS: Final = (
    "room_sid", "dispatch_id", "job_id", "worker_id", "participant_sid", "agent_sid",
)  # fmt: skip
CLICK: Final = "zoom the time axis to the run by a click on a time in `Start, T0 and end`"


def make() -> builders.Dashboard:
    """All panels, in the order in which they are read."""
    made = board(
        BURST,
        "lk-users: Burst",
        "One run: was it true, who got an agent, and where the time went.",
    )
    return filled(
        made,
        [
            _verdict(),
            _run(),
            _sessions(),
            _welcome(),
            _start_error(),
            _now(),
            _curves(),
            _phases(),
            _phases_by_region(),
            _each(),
            _timeline(),
            _joins(),
            _outcomes(),
            _causes(),
            _slowest(),
            _marks(),
            _start_errors(),
        ],
    )


def _verdict() -> stat.Panel:
    last = f"{flux.events(['verdict'], event='end')}\n  |> group()\n  |> last()"
    return (
        dressed(
            stat.Panel(),
            "Verdict",
            "What the run came to. PASS: every SLO was met. SLO_FAILED: the target did not do what was "
            "asked of it. VOID: the run says nothing reliable about the target. Not there while it goes on.",
            flux.shown(last, verdict="r._value"),
            size=(4, 5),
            unit="string",
            empty=RUNNING,
        )
        .mappings([verdicts()])
        .color_mode(models.BigValueColorMode.BACKGROUND)
        .graph_mode(models.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("/.*/").values(False))
    )


def _run() -> table.Panel:
    rows = flux.events(["text"]) + "\n" + flux.RUN_TIMES
    times = dict(flux.RUN_COLUMNS)
    query = flux.shown(rows, T0=times.pop("T0"), **flux.RUN_TEXTS, **times)
    link = f"/d/{BURST}?var-run=${{run}}&{SPAN}"
    return (
        dressed(
            table.Panel(),
            "Start, T0 and end",
            "What was asked for, when, and what came of it. T0: the first burst was released. Click on a "
            "time to zoom the time axis to the run: `until` is a second after its end, or the end of the "
            "shown time while it goes on.",
            query,
            size=(7, 5),
            unit="string",
            empty="no run in the shown time",
        )
        .override_by_regexp(
            "/^(T0|started|until)$/",
            [
                prop("unit", "time:YYYY-MM-DD HH:mm:ss.SSS"),
                prop("links", [{"title": "Zoom to this run", "url": link}]),
                prop("custom.width", 180),
            ],
        )
        .override_by_name("asked", [prop("custom.width", 200)])
        .override_by_name("verdict", [prop("custom.cellOptions", {"type": "auto", "wrapText": True})])
    )


def _sessions() -> stat.Panel:
    rows = f"""{flux.wide(flux.sessions(["welcomed", "lost"]))}
  |> reduce(
      identity: {{sessions: 0, ok: 0, welcomed: 0, lost: 0}},
      fn: (r, accumulator) => ({{
          sessions: accumulator.sessions + 1,
          ok: accumulator.ok + (if r.outcome == "{Finding.OK}" then 1 else 0),
          welcomed: accumulator.welcomed + (if r.welcomed then 1 else 0),
          lost: accumulator.lost + (if r.lost then 1 else 0),
      }}),
  )"""
    query = flux.shown(rows, **{name: f"r.{name}" for name in ("sessions", "ok", "welcomed", "lost")})
    return (
        figures(
            "Sessions",
            "Recorded sessions; those with outcome ok; whose welcome came; and lost ones: users who got no "
            "welcome for a reason that is not the generator's.",
            query,
            size=(4, 5),
            unit="short",
        )
        .override_by_name("lost", [prop("thresholds", steps_of((None, GOOD), (1, BAD)))])
        .override_by_regexp("/^(sessions|welcomed)$/", [fixed("text")])
        .override_by_name("ok", [fixed(GOOD)])
    )


def _welcome() -> stat.Panel:
    rows = flux.sessions(["wait_welcomed_ms"])
    return figures(
        "Wait for the welcome",
        "From the planned start to the welcome, over all sessions: one that never got it counts at its "
        "deadline. Nearest rank, as in summary.json.",
        flux.shown(flux.spread(rows, ["_field"]), **flux.RANKED),
        size=(5, 5),
        unit="ms",
        thresholds=steps((5_000, WARN), (30_000, BAD)),
    )


def _start_error() -> stat.Panel:
    rows = flux.sessions(["start_error_ms"])
    return figures(
        "Start error",
        "How far from its planned start each request left. A run whose p99 is above --max-start-error "
        "(50 ms unless told otherwise) is void.",
        flux.shown(flux.spread(rows, ["_field"]), p50="r.p50", p99="r.p99", max="r.max"),
        size=(4, 5),
        unit="ms",
        thresholds=steps((25, WARN), (50, BAD)),
    )


def _now() -> timeseries.Panel:
    # A worker's counts hold until its next ones, be they more than a second later: what they change by is
    # what adds up over workers.
    query = (
        f"said = {flux.live([field for field, _, _ in NOW])}\n"
        "  |> toFloat()\n"
        "union(tables: [said |> first(), said |> difference()])\n"
        '  |> group(columns: ["_field"])\n'
        "  |> aggregateWindow(every: 1s, fn: sum, createEmpty: false)\n"
        "  |> cumulativeSum()\n"
        "  |> group()\n"
        '  |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")\n'
        '  |> sort(columns: ["_time"])'
    )
    panel = lined(
        timeseries.Panel(),
        "Who is where now",
        "Live, once a second, all workers together. there: users that Locust has made. in flight: their "
        "request left, their outcome is open. failed: without a welcome.",
        flux.shown(query, _time="r._time", **{name: f"r.{field}" for field, name, _ in NOW}),
        size=(12, 9),
        unit="short",
        empty="no worker has spoken yet",
    ).axis_label("users")
    for _, name, color in NOW:
        panel = panel.override_by_name(name, [fixed(color)])
    return panel


def _curves() -> trend.Panel:
    named = " else ".join(f'if r._field == "{field}" then "{name}"' for field, name, _ in WAY)
    query = f"""{flux.sessions([field for field, _, _ in WAY])}
  |> group(columns: ["_field"])
  |> map(fn: (r) => ({{
      x: math.ceil(x: r._value / {1000 * CURVE_S:.1f}) / {1 / CURVE_S:.1f},
      n: 1,
      mark: {named} else "",
  }}))
  |> group(columns: ["mark", "x"])
  |> sum(column: "n")
  |> group(columns: ["mark"])
  |> sort(columns: ["x"])
  |> cumulativeSum(columns: ["n"])
  |> group()
  |> pivot(rowKey: ["x"], columnKey: ["mark"], valueColumn: "n")
  |> sort(columns: ["x"])
  |> rename(columns: {{x: "since T0"}})"""
    panel = lined(
        trend.Panel(),
        "How far they had come",
        "Sessions that had passed each mark, against the time since their planned start. The distance "
        "between two curves is how many were in between: the widest gap is where they wait.",
        flux.importing(["math"], query),
        size=(12, 9),
        unit="short",
    )
    for _, mark, color in WAY:
        panel = panel.override_by_name(mark, [fixed(color)])
    return (
        panel.x_field("since T0")
        .line_interpolation(models.LineInterpolation.STEP_AFTER)
        .span_nulls(True)
        .axis_label("sessions")
        .override_by_name("since T0", [prop("unit", "s"), prop("custom.axisLabel", "since T0")])
    )


def _phases() -> barchart.Panel:
    rows = "\n".join(
        (
            flux.spread(flux.sessions(PHASES), ["_field"]),
            flux.field_names("phase"),
            flux.in_order("phase", tuple(Phase)),
        )
    )
    query = flux.shown(
        rows, imports=("dict", "strings"), phase="r.phase", p50="r.p50", p90="r.p90", p99="r.p99"
    )
    return (
        barred(
            dressed(
                barchart.Panel(),
                "Phases: where the time went",
                f"{PHASES_ARE} User and agent get ready side by side, so phases can overlap.",
                query,
                size=(12, 12),
                unit="ms",
                color=BY_NAME,
            ),
            "phase",
        )
        .override_by_name("p50", [fixed(CALM)])
        .override_by_name("p90", [fixed(WARN)])
        .override_by_name("p99", [fixed(BAD)])
    )


def _phases_by_region() -> table.Panel:
    rows = "\n".join(
        (
            flux.spread(flux.sessions(PHASES), ["region", "_field"], totals=["_field"]),
            flux.field_names("phase"),
            flux.in_order("phase", tuple(Phase), then=["region"]),
        )
    )
    query = flux.shown(
        rows, imports=("dict", "strings"), phase="r.phase", region="r.region", n="int(v: r.n)", **flux.RANKED
    )
    return dressed(
        table.Panel(),
        "Phases by region",
        f"{PHASES_ARE} n: how many sessions have the phase.",
        query,
        size=(12, 12),
        unit="ms",
        thresholds=steps((5_000, WARN), (30_000, BAD)),
    ).override_by_name("n", [prop("unit", "short")])


def _marks() -> table.Panel:
    happened = f'{flux.sessions(MARKS)}\n  |> map(fn: (r) => ({{r with _field: "wait_" + r._field}}))'
    rows = "\n".join(
        (
            flux.spread(flux.sessions(WAITS), ["region", "_field"], totals=["_field"], happened=happened),
            flux.field_names("mark", "wait_"),
            flux.in_order("mark", tuple(Mark), then=["region"]),
        )
    )
    count = "(if exists r.happened then int(v: r.happened) else 0)"
    query = flux.shown(
        rows,
        imports=("dict", "strings"),
        mark="r.mark",
        region="r.region",
        happened=count,
        never=f"int(v: r.n) - {count}",
        **flux.RANKED,
    )
    return dressed(
        table.Panel(),
        "Marks by region, from the planned start",
        "When sessions passed each mark; one that never did counts at its deadline. fired: request written; "
        "dispatched: dispatch answered; connected: user in the room; agent_joined: by the server's clock; "
        "first_audio: agent heard; welcomed: all that --welcome lists.",
        query,
        size=(14, 12),
        unit="ms",
        thresholds=steps((5_000, WARN), (30_000, BAD)),
    ).override_by_regexp("/^(happened|never)$/", [prop("unit", "short")])


def _each() -> trend.Panel:
    shown = (*WAY[:3], ("wait_welcomed_ms", "welcomed", GOOD))
    fields = [field for field, _, _ in shown]
    columns = {name: f"r.{field}" for field, name, _ in shown}
    query = f"""{flux.wide(flux.sessions(fields))}
  |> sort(columns: ["wait_welcomed_ms", "_time"])
  |> map(fn: (r) => ({{r with rank: 1}}))
  |> cumulativeSum(columns: ["rank"])"""
    panel = lined(
        trend.Panel(),
        "Every session, the fastest first",
        "One place on the x axis is one session, sorted by how long it waited. The lines are when it passed "
        "each mark; what lies between two lines is what it waited for. A session without its welcome stands "
        "at its deadline.",
        flux.shown(query, rank="r.rank", **columns),
        size=(12, 10),
        unit="ms",
    )
    for _, mark, color in shown:
        panel = panel.override_by_name(mark, [fixed(color)])
    return (
        panel.x_field("rank")
        .axis_label("from the planned start")
        .override_by_name("rank", [prop("unit", "short"), prop("custom.axisLabel", "sessions")])
    )


def _timeline() -> statetimeline.Panel:
    fields = [*(field for field, _, _ in STATES), "wait_welcomed_ms", "welcomed", "session_id"]
    at = "time: time(v: int(v: r._time) + int(v: 1000000.0 * r.{})), session: r.session_id, rank: r.rank"
    states = ",\n  ".join(
        f"slowest |> filter(fn: (r) => exists r.{field})"
        f' |> map(fn: (r) => ({{{at.format(field)}, state: "{state}"}}))'
        for field, state, _ in STATES
    )
    ended = f'state: if r.welcomed then "{WELCOMED}" else "{NEVER}"'
    query = f"""slowest = {flux.wide(flux.sessions(fields))}
  |> sort(columns: ["wait_welcomed_ms"], desc: true)
  |> limit(n: {TIMELINE})
  |> map(fn: (r) => ({{r with rank: 1}}))
  |> cumulativeSum(columns: ["rank"])
union(tables: [
  {states},
  slowest |> map(fn: (r) => ({{{at.format("wait_welcomed_ms")}, {ended}}})),
])
  |> group()
  |> sort(columns: ["rank", "time"])"""
    words = {
        **{state: (state, color) for _, state, color in STATES},
        WELCOMED: (WELCOMED, GOOD),
        NEVER: (NEVER, "dark-red"),
    }
    return (
        dressed(
            statetimeline.Panel(),
            "Timeline: what each session waited for",
            f"The {TIMELINE} that waited longest, the slowest first, {PAGE} a page. On the time axis: "
            f"{CLICK}.",
            flux.shown(query, time="r.time", session="r.session", state="r.state"),
            size=(12, 10),
            unit="string",
            empty="no session has ended yet",
        )
        .mappings([as_words(words)])
        .with_transformation(
            transform("partitionByValues", fields=["session"], keepFields=False, naming={"asLabels": True})
        )
        .display_name("${__field.labels.session}")
        .per_page(PAGE)
        .show_value(models.VisibilityMode.NEVER)
        .merge_values(True)
        .row_height(0.8)
        .legend(legend())
        .tooltip(tooltip())
    )


def _joins() -> heatmap.Panel:
    rows = flux.sessions(["connected_ms", "agent_joined_ms"])
    query = f"""{rows}
  |> map(fn: (r) => ({{
      _start: r._start,
      _stop: r._stop,
      _time: time(v: int(v: r._time) + int(v: 1000000.0 * r._value)),
      _value: 1.0,
      who: r.region + (if r._field == "connected_ms" then ": users" else ": agents"),
  }}))
  |> group(columns: ["who"])
  |> aggregateWindow(every: v.windowPeriod, fn: sum, createEmpty: true)
  |> group()
  |> pivot(rowKey: ["_time"], columnKey: ["who"], valueColumn: "_value")
  |> sort(columns: ["_time"])"""
    return (
        dressed(
            heatmap.Panel(),
            "Joins",
            "When users and agents came into their rooms: the brighter a cell, the more in that moment. "
            f"A row is a region's users, or its agents. On the time axis: {CLICK}.",
            query,
            size=(12, 8),
            unit="short",
            empty="nobody has joined yet",
        )
        # Cells are as wide as the first two moments are apart: none is left out, and not more than fit.
        .interval("250ms")
        .max_data_points(400)
        .calculate(False)
        .cell_gap(1)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_models.HeatmapColorMode.SCHEME)
            .scheme("Turbo")
            .fill("dark-orange")
            .exponent(0.5)
            .steps(64)
            .reverse(False)
        )
        .y_axis(heatmap.YAxisConfig().axis_placement(models.AxisPlacement.LEFT).reverse(True))
        .show_legend()
        .exemplars_color("purple")
    )


def _outcomes() -> bargauge.Panel:
    query = f"""{flux.sessions(["ordinal"])}
  |> group(columns: ["outcome"])
  |> count()
  |> group()
  |> map(fn: (r) => ({{r with all: ""}}))
  |> pivot(rowKey: ["all"], columnKey: ["outcome"], valueColumn: "_value")
  |> drop(columns: ["all"])"""
    panel = dressed(
        bargauge.Panel(),
        "Outcomes",
        "Sessions by what became of them. Green: ok. Red: the target's doing. Orange: cannot be told apart "
        "from here. Purple: the generator's own.",
        query,
        size=(6, 8),
        unit="short",
    )
    for outcome in OUTCOMES:
        panel = panel.override_by_name(outcome.value, [fixed(outcome_color(outcome))])
    return (
        panel.orientation(models.VizOrientation.HORIZONTAL)
        .display_mode(models.BarGaugeDisplayMode.BASIC)
        .min(0)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    )


def _causes() -> table.Panel:
    query = f"""{flux.sessions(["cause"])}
  |> map(fn: (r) => ({{outcome: r.outcome, cause: r._value, region: r.region, sessions: 1}}))
  |> group(columns: ["outcome", "cause", "region"])
  |> sum(column: "sessions")
  |> group()
  |> sort(columns: ["sessions"], desc: true)"""
    return (
        dressed(
            table.Panel(),
            "Causes by region",
            "Outcomes with what caused them, the most frequent first.",
            flux.shown(
                query,
                outcome="r.outcome",
                region="r.region",
                sessions="r.sessions",
                cause="r.cause",
            ),
            size=(6, 8),
            unit="short",
        )
        .mappings([outcomes()])
        .override_by_name("outcome", [prop("custom.cellOptions", {"type": "color-text"})])
        .override_by_name("cause", [prop("unit", "string")])
    )


def _slowest() -> table.Panel:
    fields = ["wait_welcomed_ms", "lag_ms", *PHASES, "session_id", "cause", "worker", "room", *IDS]
    shown = {phase: f"r.{phase}_ms" for phase in Phase}
    ids = {name: f"r.{name}" for name in IDS}
    rows = f"""{flux.wide(flux.sessions(fields))}
  |> map(fn: (r) => ({{r with failed: if r.outcome == "{Finding.OK}" then 1 else 0}}))
  |> sort(columns: ["wait_welcomed_ms"], desc: true)
  |> sort(columns: ["failed"])
  |> limit(n: {SLOWEST})"""
    query = flux.shown(
        rows,
        session="r.session_id",
        outcome="r.outcome",
        waited="r.wait_welcomed_ms",
        region="r.region",
        **ids,
        **shown,
        cause="r.cause",
        engine="r.engine",
        our_worker="r.worker",
        room="r.room",
        lag="r.lag_ms",
    )
    return (
        dressed(
            table.Panel(),
            f"The {SLOWEST} slowest sessions",
            "Failed ones first, then the longest waits, with the ids by which the target's own logs can be "
            "searched: room, dispatch, job, agent worker (worker_id) and participants. lag: how late the "
            "generator's own loop was at worst while the session ran; shorter phases blame nobody.",
            query,
            size=(24, 9),
            unit="ms",
            thresholds=steps((5_000, WARN), (30_000, BAD)),
        )
        .mappings([outcomes()])
        .override_by_name("outcome", [prop("custom.cellOptions", {"type": "color-text"})])
        .override_by_name("waited", [prop("custom.cellOptions", {"type": "color-text"})])
    )


def _start_errors() -> histogram.Panel:
    query = f"""{flux.sessions(["start_error_ms"])}
  |> keep(columns: ["_time", "region", "_value"])
  |> group()
  |> pivot(rowKey: ["_time"], columnKey: ["region"], valueColumn: "_value")
  |> drop(columns: ["_time"])"""
    return (
        dressed(
            histogram.Panel(),
            "Start error of each session, by region",
            "How many requests left so far from their planned start. In a true burst all stand at the left.",
            query,
            size=(10, 12),
            unit="ms",
            color=BY_NAME,
        )
        .combine(False)
        .fill_opacity(60)
        .legend(legend())
        .tooltip(tooltip())
    )
