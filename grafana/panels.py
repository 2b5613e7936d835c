"""What all panels and dashboards have in common: data source, query, look, variables, annotations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar

from grafana_foundation_sdk.builders import barchart, stat
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common, dashboard

from grafana import flux
from lk_users.outcome import OPEN, OURS, OUTCOMES, Finding, Verdict
from lk_users.sinks.points import RUN, SESSION

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCE_TYPE: Final = "influxdb"
# As provisioned in provisioning/datasources/influxdb.yaml.
SOURCE_UID: Final = "lk-users-influxdb"
# A table or curve of a large burst is more than Grafana's default, ten times a panel's width in pixels.
MAX_POINTS: Final = 20_000
# Names out of Grafana's palette: each has a shade for the light and one for the dark theme.
GOOD, WARN, BAD, OURS_COLOR, CALM = "green", "orange", "red", "purple", "blue"
BY_NAME: Final = dashboard.FieldColorModeId.PALETTE_CLASSIC_BY_NAME
RUNNING: Final = flux.RUNNING
PHASES_ARE: Final = (
    "How long each part of a session took. dispatch_api: request written to dispatch answered. user_join: to "
    "the user in the room. media_setup: to its peer connection up. server_queue: from storing the dispatch "
    "to offering the job to the worker that took it. accept_to_join: to the agent in the room. agent_start: "
    "to its microphone. speak: to its first audible frame."
)
# In a link: the time range of a row's run.
SPAN: Final = "from=${__data.fields.started.numeric}&to=${__data.fields.until.numeric}"
GENERATOR: Final = "lk-users-generator"
BURST: Final = "lk-users-burst"
RUNS: Final = "lk-users-runs"


class PanelBuilder(Protocol):
    """What the SDK's panels share."""

    def build(self) -> dashboard.Panel: ...
    def id(self, id_val: int) -> Self: ...
    def title(self, title: str) -> Self: ...
    def description(self, description: str) -> Self: ...
    def datasource(self, datasource: common.DataSourceRef) -> Self: ...
    def with_target(self, target: Builder[Dataquery]) -> Self: ...
    def with_transformation(self, transformation: dashboard.DataTransformerConfig) -> Self: ...
    def unit(self, unit: str) -> Self: ...
    def decimals(self, decimals: float) -> Self: ...
    def height(self, h: int) -> Self: ...
    def span(self, w: int) -> Self: ...
    def no_value(self, no_value: str) -> Self: ...
    def max_data_points(self, max_data_points: float) -> Self: ...
    def thresholds(self, thresholds: Builder[dashboard.ThresholdsConfig]) -> Self: ...
    def color_scheme(self, color: Builder[dashboard.FieldColor]) -> Self: ...
    def override_by_name(self, name: str, properties: list[dashboard.DynamicConfigValue]) -> Self: ...
    def override_by_regexp(self, regexp: str, properties: list[dashboard.DynamicConfigValue]) -> Self: ...
    def mappings(self, mappings: list[Any]) -> Self: ...


_P = TypeVar("_P", bound=PanelBuilder)
_T = TypeVar("_T")


def source() -> common.DataSourceRef:
    """The provisioned InfluxDB."""
    return common.DataSourceRef(type_val=SOURCE_TYPE, uid=SOURCE_UID)


@dataclass
class FluxQuery(Dataquery):
    """A query as Grafana's InfluxDB data source takes it where the language is Flux; the SDK has none."""

    query: str
    ref_id: str = "A"

    def to_json(self) -> dict[str, object]:
        return {"datasource": source(), "query": self.query, "refId": self.ref_id}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(data["query"], data["refId"])


class Built(Builder[_T]):
    """A value where the SDK wants what builds it."""

    def __init__(self, value: _T) -> None:
        self._value = value

    def build(self) -> _T:
        return self._value


def _steps(above: Sequence[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    found = [dashboard.Threshold(value, color) for value, color in above]
    return dashboard.ThresholdsConfig(dashboard.ThresholdsMode.ABSOLUTE, found)


def steps(*above: tuple[float, str], base: str = GOOD) -> Builder[dashboard.ThresholdsConfig]:
    """Thresholds: ``base`` from the bottom, then each color from its value on."""
    return Built(_steps([(None, base), *above]))


def dressed(
    panel: _P,
    title: str,
    description: str,
    *queries: str | flux.Table,
    size: tuple[int, int],
    unit: str,
    thresholds: Builder[dashboard.ThresholdsConfig] | None = None,
    color: dashboard.FieldColorModeId = dashboard.FieldColorModeId.THRESHOLDS,
    empty: str = "no data yet",
) -> _P:
    """A panel with all that each must have. ``size``: columns of 24, and rows."""
    width, height = size
    panel = (
        panel.title(title)
        .description(description)
        .datasource(source())
        .unit(unit)
        .span(width)
        .height(height)
        .no_value(empty)
        .max_data_points(MAX_POINTS)
        .thresholds(thresholds or steps(base=CALM))
        .color_scheme(builders.FieldColor().mode(color))
    )
    for number, query in enumerate(queries):
        text = query.query if isinstance(query, flux.Table) else query
        panel = panel.with_target(Built[Dataquery](FluxQuery(text, chr(ord("A") + number))))
    (first, *more) = queries
    if isinstance(first, flux.Table) and not more:
        panel = panel.with_transformation(in_order(first.columns))
    return panel


def figures(
    title: str,
    description: str,
    query: str | flux.Table,
    *,
    size: tuple[int, int],
    unit: str,
    thresholds: Builder[dashboard.ThresholdsConfig] | None = None,
) -> stat.Panel:
    """Some figures side by side, out of the one row that ``query`` gives."""
    return (
        dressed(stat.Panel(), title, description, query, size=size, unit=unit, thresholds=thresholds)
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.VALUE)
        .text_mode(common.BigValueTextMode.VALUE_AND_NAME)
        .justify_mode(common.BigValueJustifyMode.AUTO)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    )


class LineBuilder(PanelBuilder, Protocol):
    """What the SDK's panels with lines share."""

    def draw_style(self, draw_style: common.GraphDrawStyle) -> Self: ...
    def line_width(self, line_width: float) -> Self: ...
    def fill_opacity(self, fill_opacity: float) -> Self: ...
    def show_points(self, show_points: common.VisibilityMode) -> Self: ...
    def legend(self, legend: Builder[common.VizLegendOptions]) -> Self: ...
    def tooltip(self, tooltip: Builder[common.VizTooltipOptions]) -> Self: ...
    def min(self, min_val: float) -> Self: ...


_L = TypeVar("_L", bound=LineBuilder)


def lined(
    panel: _L,
    title: str,
    description: str,
    query: str | flux.Table,
    *,
    size: tuple[int, int],
    unit: str,
    thresholds: Builder[dashboard.ThresholdsConfig] | None = None,
    empty: str = "no data yet",
) -> _L:
    """A line for each column of what ``query`` gives; points where a line has but one."""
    return (
        dressed(
            panel,
            title,
            description,
            query,
            size=size,
            unit=unit,
            thresholds=thresholds,
            color=BY_NAME,
            empty=empty,
        )
        .min(0)
        .draw_style(common.GraphDrawStyle.LINE)
        .line_width(2)
        .fill_opacity(8)
        .show_points(common.VisibilityMode.AUTO)
        .legend(legend())
        .tooltip(tooltip())
    )


def steps_of(*above: tuple[float | None, str]) -> dict[str, object]:
    """Thresholds as an override has them."""
    return _steps(above).to_json()


def transform(name: str, **options: object) -> dashboard.DataTransformerConfig:
    """A transformation that Grafana makes of the rows."""
    return dashboard.DataTransformerConfig(id_val=name, options=options)


def in_order(columns: Sequence[str]) -> dashboard.DataTransformerConfig:
    """Columns in this order."""
    places = {name: place for place, name in enumerate(columns)}
    return transform("organize", excludeByName={}, indexByName=places, renameByName={})


def fixed(color: str) -> dashboard.DynamicConfigValue:
    """Always of this color."""
    return dashboard.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})


def prop(name: str, value: object) -> dashboard.DynamicConfigValue:
    """One property of an override."""
    return dashboard.DynamicConfigValue(name, value)


def as_words(words: dict[str, tuple[str, str]]) -> dashboard.ValueMap:
    """Values shown as text in a color: value → (text, color)."""
    return dashboard.ValueMap(
        {
            value: dashboard.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(words.items())
        }
    )


def outcome_color(outcome: Finding) -> str:
    """By whose doing it is: nobody's, ours, open, theirs."""
    if outcome is Finding.OK:
        return GOOD
    if outcome in OURS:
        return OURS_COLOR
    return WARN if outcome in OPEN else BAD


def outcomes() -> dashboard.ValueMap:
    return as_words({outcome.value: (outcome.value, outcome_color(outcome)) for outcome in OUTCOMES})


def verdicts() -> dashboard.ValueMap:
    return as_words(
        {
            Verdict.PASS.value: (Verdict.PASS.value, GOOD),
            Verdict.SLO_FAILED.value: (Verdict.SLO_FAILED.value, BAD),
            Verdict.VOID.value: (Verdict.VOID.value, OURS_COLOR),
            RUNNING: (RUNNING, CALM),
        }
    )


def legend(*, right: bool = False) -> Builder[common.VizLegendOptions]:
    return (
        common_builders.VizLegendOptions()
        .show_legend(True)
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.RIGHT if right else common.LegendPlacement.BOTTOM)
        .calcs([])
    )


def tooltip() -> Builder[common.VizTooltipOptions]:
    return (
        common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.NONE)
    )


# --- dashboards -----------------------------------------------------------------------------------


def board(uid: str, title: str, description: str, *, several: bool = False) -> builders.Dashboard:
    """An empty dashboard with its variables, annotations and the way to the others. ``several``: over runs;
    else of one, burst by burst."""
    made = (
        builders.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["lk-users"])
        .time("now-30m", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(
            builders.DashboardLink("lk-users")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags(["lk-users"])
            .include_vars(True)
            .keep_time(True)
        )
        .annotation(_annotation("T0", "t0", "blue"))
        .annotation(_annotation("end", "end", "purple"))
    )
    for variable in _variables(several=several):
        made = made.with_variable(variable)
    return made


def barred(panel: barchart.Panel, field: str) -> barchart.Panel:
    """Bars side by side, a group for each value of ``field``, from the top down."""
    return (
        panel.x_field(field)
        .orientation(common.VizOrientation.HORIZONTAL)
        .show_value(common.VisibilityMode.AUTO)
        .stacking(common.StackingMode.NONE)
        .group_width(0.8)
        .bar_width(0.9)
        .legend(legend())
        .tooltip(tooltip())
    )


def filled(made: builders.Dashboard, panels: Sequence[PanelBuilder]) -> builders.Dashboard:
    """The dashboard with these panels, from left to right and down, numbered."""
    for number, panel in enumerate(panels, 1):
        made = made.with_panel(Built(panel.id(number).build()))
    return made


def _annotation(name: str, event: str, color: str) -> builders.AnnotationQuery:
    runs = flux.RUNS
    query = (
        f"{flux.events(['text'], event=event, runs=runs)}\n"
        "  |> group()\n"
        "  |> map(fn: (r) => ({time: r._time, text: r._value, tags: r.run}))"
    )
    return (
        builders.AnnotationQuery()
        .name(name)
        .datasource(source())
        .enable(True)
        .icon_color(color)
        .target(Built[Dataquery](FluxQuery(query, "Anno")))
    )


def _variables(*, several: bool) -> list[builders.QueryVariable]:
    """What a dashboard is filtered by."""
    runs = flux.RUNS if several else flux.ONE_RUN
    burst = [] if several else [_tag_variable("burst", "Burst", runs=runs, measurement=SESSION)]
    return [
        _run_variable(several=several),
        *burst,
        _tag_variable("region", "Region", runs=runs),
        _tag_variable("agent", "Agent", runs=runs, measurement=SESSION),
        _tag_variable("engine", "Engine", runs=runs, measurement=SESSION),
    ]


def _run_variable(*, several: bool) -> builders.QueryVariable:
    """The runs of the shown time, the latest first: their ids begin with their start."""
    query = _values("run", f'r._measurement == "{RUN}"')
    variable = (
        _variable("run", "Run", query)
        .description("Runs that began in the shown time; the latest is first.")
        .sort(dashboard.VariableSort.ALPHABETICAL_DESC)
    )
    return _with_all(variable) if several else variable


def _tag_variable(name: str, label: str, *, runs: str, measurement: str = "") -> builders.QueryVariable:
    """The values of a tag in the chosen runs."""
    asked = f"{flux.ASKED} and " if measurement == SESSION else ""
    kind = f'r._measurement == "{measurement}" and {asked}' if measurement else ""
    variable = _variable(name, label, _values(name, f"{kind}{runs}"))
    return _with_all(variable.sort(dashboard.VariableSort.ALPHABETICAL_ASC))


def _with_all(variable: builders.QueryVariable) -> builders.QueryVariable:
    everything = dashboard.VariableOption(selected=True, text=["All"], value=["$__all"])
    return variable.multi(True).include_all(True).all_value(".*").current(everything)


def _variable(name: str, label: str, query: str) -> builders.QueryVariable:
    return (
        builders.QueryVariable(name)
        .label(label)
        .datasource(source())
        .query({"query": query, "refId": f"variable-{name}"})
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
    )


def _values(tag: str, predicate: str) -> str:
    return (
        'import "influxdata/influxdb/schema"\n\n'
        f'schema.tagValues(bucket: v.defaultBucket, tag: "{tag}", predicate: (r) => {predicate}, '
        "start: v.timeRangeStart, stop: v.timeRangeStop)"
    )
