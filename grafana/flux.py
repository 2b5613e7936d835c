"""The Flux of the dashboards: what every query begins with, and the figures that more than one needs. Pure.

Grafana replaces ``${run}`` and the like in the browser, ``v.…`` in its server. Names of measurements, tags
and fields are those of :mod:`lk_users.sinks.points`.

Percentiles are nearest rank, as everywhere in this project: Flux's ``exact_selector`` takes the value at
``ceil(q · n)``, and in floating point that is the exact rank for p50, p90 and p99 of any n up to 200,000.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from lk_users.course import Role
from lk_users.sinks.points import LIVE, RUN, SESSION, WORKER

if TYPE_CHECKING:
    from collections.abc import Sequence

RANGE: Final = "from(bucket: v.defaultBucket)\n  |> range(start: v.timeRangeStart, stop: v.timeRangeStop)"
ALL_REGIONS: Final = "(all)"
RANKS: Final = (("p50", "0.5"), ("p90", "0.9"), ("p99", "0.99"), ("max", "1.0"))
RANKED: Final = MappingProxyType({name: f"r.{name}" for name, _ in RANKS})
RUNNING: Final = "running"
# Of events of runs, one row a run: start, first T0 and end, and the texts of start and end.
RUN_TIMES: Final = """  |> group(columns: ["run"])
  |> sort(columns: ["_time"])
  |> reduce(
      identity: {first: 0, t0: 0, until: 0, asked: "", told: ""},
      fn: (r, accumulator) => ({
          first: if accumulator.first == 0 then int(v: r._time) else accumulator.first,
          t0: if r.event == "t0" and accumulator.t0 == 0 then int(v: r._time) else accumulator.t0,
          until: if r.event == "end" then int(v: r._time) else accumulator.until,
          asked: if r.event == "start" then r._value else accumulator.asked,
          told: if r.event == "end" then r._value else accumulator.told,
      }),
  )
  |> group()"""
RUN_COLUMNS: Final = MappingProxyType(
    {
        "T0": "time(v: if r.t0 == 0 then r.first else r.t0)",
        "started": "time(v: r.first)",
        # Grafana's time range ends before its last moment.
        "until": "if r.until == 0 then v.timeRangeStop else time(v: r.until + 1000000000)",
    }
)
RUN_TEXTS: Final = MappingProxyType(
    {"asked": "r.asked", "verdict": f'if r.told == "" then "{RUNNING}" else r.told'}
)
# A worker's id is its host and 32 digits: six of them tell it from the others. Imports ``regexp``.
WORKER_NAME: Final = 'r.region + ": " + regexp.findString(r: /^.*_[0-9a-f]{6}|.*/, v: r.worker)'
# A variable of several values is a regular expression; one of a single value stands for itself.
ONE_RUN: Final = 'r.run == "${run}"'
RUNS: Final = "r.run =~ /^${run:regex}$/"
REGION: Final = "r.region =~ /^${region:regex}$/"
# Baseline and control stand beside the burst in the reports, and are in none of its figures.
ASKED: Final = f'r.role == "{Role.BURST}"'
WHO: Final = f"{REGION} and r.agent =~ /^${{agent:regex}}$/ and r.engine =~ /^${{engine:regex}}$/"


def sessions(fields: Sequence[str], *, runs: str = ONE_RUN) -> str:
    """Points of a burst's sessions: one table for each field and set of tags."""
    burst = " and r.burst =~ /^${burst:regex}$/" if runs == ONE_RUN else ""
    return _filtered(SESSION, f"{runs}{burst} and {ASKED} and {WHO}", fields)


def workers(fields: Sequence[str], *, runs: str = ONE_RUN) -> str:
    """Last words of workers."""
    return _filtered(WORKER, f"{runs} and {REGION}", fields)


def live(fields: Sequence[str]) -> str:
    """What workers said once a second."""
    return _filtered(LIVE, f"{ONE_RUN} and {REGION}", fields)


def events(fields: Sequence[str], *, event: str = "", runs: str = ONE_RUN) -> str:
    """Start, T0s and end of runs; of one kind where ``event`` is given."""
    kind = f' and r.event == "{event}"' if event else ""
    return _filtered(RUN, f"{runs}{kind}", fields)


def _filtered(measurement: str, tags: str, fields: Sequence[str]) -> str:
    wanted = " or ".join(f'r._field == "{field}"' for field in fields)
    return (
        f'{RANGE}\n  |> filter(fn: (r) => r._measurement == "{measurement}" and {tags})\n'
        f"  |> filter(fn: (r) => {wanted})"
    )


def wide(rows: str) -> str:
    """One table with one row a point: its tags, ``_time``, and a column for each field."""
    return (
        f'{rows}\n  |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")\n  |> group()'
    )


def spread(
    rows: str, by: Sequence[str], *, totals: Sequence[str] | None = None, happened: str | None = None
) -> str:
    """One row for each value of ``by``: n, p50, p90, p99 and max of ``_value``, which is a number.

    ``totals``: also over all regions, as region ``(all)``, for each value of these alone. ``happened``:
    further rows to count, in a column of that name.
    """
    parted = f"tables |> group(columns: {names(by)})"
    if totals is not None:
        parted = (
            f"union(tables: [\n  {parted},\n  tables |> group(columns: {names(totals)})"
            f' |> set(key: "region", value: "{ALL_REGIONS}") |> group(columns: {names(by)}),\n])'
        )
    figures = [
        'grouped |> count() |> named(figure: "n")',
        *(
            f'grouped |> quantile(q: {q}, method: "exact_selector") |> named(figure: "{name}")'
            for name, q in RANKS
        ),
    ]
    if happened is not None:
        figures.append(f'{happened}\n  |> parted() |> count() |> named(figure: "happened")')
    return (
        f"parted = (tables=<-) => {parted}\n"
        f"named = (tables=<-, figure) => tables\n  |> keep(columns: {names((*by, '_value'))})\n"
        "  |> map(fn: (r) => ({r with _value: float(v: r._value), figure: figure}))\n"
        f"grouped = {rows}\n  |> parted()\n"
        f"union(tables: [\n  {_lines(figures)},\n])\n"
        "  |> group()\n"
        f'  |> pivot(rowKey: {names(by)}, columnKey: ["figure"], valueColumn: "_value")'
    )


def field_names(column: str, prefix: str = "") -> str:
    """What a field is about, ``<prefix><name>_ms``, in a column of its own. Imports ``strings``."""
    bare = 'strings.trimSuffix(v: r._field, suffix: "_ms")'
    if prefix:
        bare = f'strings.trimPrefix(v: {bare}, prefix: "{prefix}")'
    return f"  |> map(fn: (r) => ({{r with {column}: {bare}}}))"


def in_order(column: str, values: Sequence[str], *, then: Sequence[str] = ()) -> str:
    """Rows in the order of ``values``, which ``column`` has. Imports ``dict``."""
    places = ", ".join(f'"{value}": {place}' for place, value in enumerate(values))
    return (
        f"  |> map(fn: (r) => ({{r with place: dict.get(dict: [{places}], key: r.{column}, default: 99)}}))\n"
        f"  |> sort(columns: {names(('place', *then))})"
    )


@dataclass(frozen=True)
class Table:
    """A query that gives one table of known columns. Flux gives them in any order: the panel orders them."""

    query: str
    columns: tuple[str, ...]


def shown(rows: str, /, *, imports: Sequence[str] = (), **columns: str) -> Table:
    """``rows`` with these columns alone: name → expression over ``r``."""
    pairs = ", ".join(f'"{name}": {value}' for name, value in columns.items())
    return Table(importing(imports, f"{rows}\n  |> map(fn: (r) => ({{{pairs}}}))"), tuple(columns))


def importing(packages: Sequence[str], query: str) -> str:
    """``query`` with the packages of Flux that it uses."""
    return (
        "".join(f'import "{package}"\n' for package in sorted(packages)) + ("\n" if packages else "") + query
    )


def names(values: Sequence[str]) -> str:
    """A list of texts."""
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


def _lines(items: Sequence[str]) -> str:
    return ",\n  ".join(items)
