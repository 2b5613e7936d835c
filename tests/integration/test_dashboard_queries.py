"""Every query of every dashboard, asked of a real InfluxDB that has a real run, as Grafana would ask it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Finished, Running, free_port
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write.point import Point
from influxdb_client.client.write_api import SYNCHRONOUS

from grafana.__main__ import FOLDER
from grafana.ask import ALL, View, rows
from lk_users.clock import NS_PER_MS
from lk_users.outcome import Finding, Verdict
from lk_users.record import Mark, Phase, Record
from lk_users.sinks import points
from lk_users.stats import mark_samples_ns, percentile, phase_samples_ns, start_errors_ns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from influxdb_client.client.query_api import QueryApi

    from lk_users.local.influxd import Influxd
    from lk_users.local.stack import Stack

pytestmark = pytest.mark.real

NAMES = ("burst", "generator", "runs")
BOARDS: Mapping[str, Any] = {
    name: json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) for name in NAMES
}
PANELS = [(name, panel) for name in NAMES for panel in BOARDS[name]["panels"]]
QUERIES = (
    [
        pytest.param(name, target["query"], id=f"{name}: {panel['title']} {target['refId']}")
        for name, panel in PANELS
        for target in panel["targets"]
    ]
    + [
        pytest.param(name, one["query"]["query"], id=f"{name}: variable {one['name']}")
        for name in NAMES
        for one in BOARDS[name]["templating"]["list"]
    ]
    + [
        pytest.param(name, one["target"]["query"], id=f"{name}: annotation {one['name']}")
        for name in NAMES
        for one in BOARDS[name]["annotations"]["list"]
    ]
)
every_query = pytest.mark.parametrize(("name", "query"), QUERIES)
REGIONS = {"us-east": 40, "eu": 20}
# Of eight users one waits for an agent that stays silent, and one for an agent whose worker says no.
FATES = (None, None, "silent", None, "reject", None, None, None)
EMPTY = ("nowhere", datetime(2020, 1, 1, tzinfo=UTC))


class Measured:
    """A run in the database, and what is known of it."""

    def __init__(self, api: QueryApi, summary: dict[str, Any], records: Sequence[Record]) -> None:
        self.api = api
        self.summary = summary
        self.records = records
        self.run = summary["run_id"]
        self.t0 = datetime.fromtimestamp(records[0].intended_wall_ns / 1e9, UTC)

    def view(self, **values: list[str]) -> View:
        """All of the run, and an hour around it."""
        everything = {name: [ALL] for name in ("burst", "region", "agent", "engine")} | {"run": [self.run]}
        hour = timedelta(hours=1)
        return View(self.t0 - hour, self.t0 + hour, everything | values)

    def ask(self, query: str, view: View | None = None) -> list[dict[str, Any]]:
        """The rows of its one table; [] of none."""
        tables = rows(self.api, view or self.view(), query)
        assert len(tables) <= 1, "a panel shows one table"
        return tables[0] if tables else []

    def panel(self, name: str, title: str, target: int = 0, view: View | None = None) -> list[dict[str, Any]]:
        (panel,) = [one for one in BOARDS[name]["panels"] if one["title"] == title] or [
            one for one in BOARDS[name]["panels"] if one["title"].startswith(title)
        ]
        return self.ask(panel["targets"][target]["query"], view)


def write(influxd: Influxd, point: points.Point) -> None:
    with InfluxDBClient(influxd.url, influxd.token, org=influxd.org) as client:
        made = Point.from_dict(
            {
                "measurement": point.measurement,
                "tags": point.tags,
                "fields": point.fields,
                "time": point.time_ns,
            },
        )
        client.write_api(write_options=SYNCHRONOUS).write(influxd.bucket, record=made)


@pytest.fixture(scope="module")
def finished(stack: Stack, influxd: Influxd, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A burst of 60 in two regions, in which a quarter gets no welcome, and which wrote its points itself.
    Beside it stand sessions of a baseline and a control, which are in no figure."""
    folder = tmp_path_factory.mktemp("dashboards")
    fates = folder / "fates.jsonl"
    fates.write_text("".join(json.dumps({"lk": {"fault": fate} if fate else {}}) + "\n" for fate in FATES))
    port = str(free_port())
    started: list[Running] = []

    def begin(*options: str) -> Running:
        out = folder / f"process{len(started)}"
        out.mkdir()
        started.append(Running(list(options), stack.env() | influxd.env(), folder / "runs", out))
        return started[-1]

    users = sum(REGIONS.values())
    try:
        for region in REGIONS:
            begin("--worker", "--master-host", "127.0.0.1", "--master-port", port, "--region", region)
        master = begin(
            "--master", "--headless", "--only-summary", "--master-bind-host", "127.0.0.1",
            "--master-bind-port", port, "--expect-workers", str(len(REGIONS)),
            "-u", str(users), "-r", str(users), "--agent-name", "welcome", "--dispatch", "room",
            "--region-users", ",".join(f"{region}={n}" for region, n in REGIONS.items()),
            "--metadata", f"@{fates}", "--session-timeout", "20",
        )  # fmt: skip
        done = master.finish(120)
        assert done.code == 10, done.stdout + done.stderr
        for record in map(Record.from_dict, done.records):
            for burst, role in ((0, "baseline"), (2, "control")):
                marks_ns = {name: 7 * at_ns for name, at_ns in record.marks_ns.items()}
                beside = replace(record, burst=burst, role=role, marks_ns=marks_ns)
                if record.ordinal < 3:
                    write(influxd, points.session_point(beside))
        return done
    finally:
        for process in started:
            process.kill()


@pytest.fixture(scope="module")
def measured(influxd: Influxd, finished: Finished) -> Iterator[Measured]:
    with InfluxDBClient(influxd.url, influxd.token, org=influxd.org, timeout=60_000) as client:
        records = [Record.from_dict(record) for record in finished.records]
        yield Measured(client.query_api(), finished.summary, records)


# --- shape ------------------------------------------------------------------------------------------


@every_query
def test_every_query_has_an_answer(measured: Measured, name: str, query: str) -> None:
    found = measured.ask(query)
    assert found
    assert all(row.keys() == found[0].keys() for row in found)


@pytest.mark.parametrize(
    ("name", "panel"),
    [
        pytest.param(name, panel, id=f"{name}: {panel['title']}")
        for name, panel in PANELS
        if len(panel["targets"]) == 1 and any(t["id"] == "organize" for t in panel.get("transformations", ()))
    ],
)
def test_columns_are_those_that_the_panel_puts_in_order(
    measured: Measured, name: str, panel: dict[str, Any]
) -> None:
    (order,) = (t["options"]["indexByName"] for t in panel["transformations"] if t["id"] == "organize")
    # A phase that no session of the run has is no column.
    without = {phase.value for phase in Phase if not measured.summary["phases"][phase]["n"]}
    assert measured.panel(name, panel["title"])[0].keys() == order.keys() - without


@every_query
def test_an_empty_database_is_no_error(measured: Measured, name: str, query: str) -> None:
    run, moment = EMPTY
    view = View(moment, moment + timedelta(hours=1), {**measured.view().values, "run": [run]})
    assert measured.ask(query, view) == []


@every_query
def test_one_session_is_no_error(measured: Measured, influxd: Influxd, name: str, query: str) -> None:
    """One that got nowhere: most fields are not there."""
    record = measured.records[0]
    bare = Record.from_dict(
        {
            "run_id": "one", "session_id": "one-1", "burst": 1, "ordinal": 0, "worker": "w", "region": "eu",
            "engine": "listen", "agent_name": "", "dispatch": "api", "order": "dispatch-first", "room": "r",
            "intended_wall_ns": record.intended_wall_ns, "deadline_ns": 20 * 10**9, "decided_ns": 10**9,
            "findings": {"dispatch_failed": "refused"}, "schema": 1,
        }
    )  # fmt: skip
    write(influxd, points.session_point(bare))
    view = measured.view(run=["one"], agent=["(unnamed)"])
    for row in measured.ask(query, view):
        assert row


# --- values -----------------------------------------------------------------------------------------


def ms(value: float | None) -> float | None:
    """As ``summary.json`` has it: to the microsecond."""
    return None if value is None else round(value, 3)


def ranks(samples_ns: Sequence[int]) -> dict[str, float | None]:
    """Percentiles of ascending samples as the report takes them, in ms."""
    percents = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    found = {name: percentile(samples_ns, percent) for name, percent in percents.items()}
    return {name: None if ns is None else ms(ns / NS_PER_MS) for name, ns in found.items()}


def test_verdict_and_t0(measured: Measured) -> None:
    assert measured.panel("burst", "Verdict") == [{"verdict": measured.summary["verdict"]}]
    (run,) = measured.panel("burst", "Start, T0 and end")
    assert run["asked"] == "60 users for agent welcome"
    assert run["verdict"] == "SLO_FAILED; missed: count(lost) == 0"
    t0 = datetime.fromisoformat(measured.summary["bursts"][0]["t0"])
    assert abs(run["T0"] - t0) < timedelta(milliseconds=1)
    assert run["started"] < run["T0"] < run["until"]
    ended = datetime.fromisoformat(measured.summary["wall"]["ended"])
    assert abs(run["until"] - ended - timedelta(seconds=1)) < timedelta(milliseconds=1)


def test_the_link_to_a_run_shows_all_of_it(measured: Measured) -> None:
    """Its ends are in whole milliseconds, and the last moment of a range is not in it."""
    (run,) = measured.panel("burst", "Start, T0 and end")
    start, stop = (
        run[end].replace(microsecond=run[end].microsecond // 1000 * 1000) for end in ("started", "until")
    )
    zoomed = View(start, stop, measured.view().values)
    assert measured.panel("burst", "Verdict", view=zoomed) == [{"verdict": measured.summary["verdict"]}]
    assert measured.panel("burst", "Sessions", view=zoomed)[0]["sessions"] == 60
    assert measured.panel("burst", "Start, T0 and end", view=zoomed)[0]["started"] == run["started"]


def test_sessions_and_outcomes(measured: Measured) -> None:
    summary = measured.summary
    assert measured.panel("burst", "Sessions") == [
        {
            "sessions": summary["sessions"]["recorded"],
            "ok": summary["outcomes"]["ok"],
            "welcomed": summary["marks"]["welcomed"]["n"],
            "lost": summary["groups"]["lost"],
        }
    ]
    assert summary["groups"]["lost"] >= 10
    assert measured.panel("burst", "Outcomes") == [summary["outcomes"]]
    causes: dict[str, dict[str, int]] = {}
    for row in measured.panel("burst", "Causes"):
        of = causes.setdefault(row["outcome"], {})
        cause = row["cause"] or ""
        of[cause] = of.get(cause, 0) + row["sessions"]
    assert causes.pop("ok") == {"": summary["outcomes"]["ok"]}
    assert causes == summary["causes"]


@pytest.mark.parametrize("board", ["burst", "generator"])
def test_start_error(measured: Measured, board: str) -> None:
    (row,) = measured.panel(board, "Start error")
    summary = measured.summary["start_error_ms"]
    assert {name: ms(value) for name, value in row.items()} == {n: summary[n] for n in ("p50", "p99", "max")}


def test_marks(measured: Measured) -> None:
    (row,) = measured.panel("burst", "Wait for the welcome")
    wanted = measured.summary["marks"]["welcomed"]
    assert {name: ms(value) for name, value in row.items()} == {
        name: wanted[name] for name in ("p50", "p90", "p99", "max")
    }
    table = measured.panel("burst", "Marks by region")
    assert [row["mark"] for row in table] == [mark for mark in Mark for _ in range(1 + len(REGIONS))]
    for row in table:
        mark, region = row.pop("mark"), row.pop("region")
        found = {name: ms(value) for name, value in row.items()}
        if region == "(all)":
            wanted = measured.summary["marks"][mark]
            assert found == {"happened": wanted["n"], "never": wanted["censored"]} | {
                name: wanted[name] for name in ("p50", "p90", "p99", "max")
            }
            continue
        mine = [record for record in measured.records if record.region == region]
        happened = sum(mark in record.marks_ns for record in mine)
        assert found == {"happened": happened, "never": REGIONS[region] - happened} | ranks(
            mark_samples_ns(mine, Mark(mark))
        )


def test_phases(measured: Measured) -> None:
    table = measured.panel("burst", "Phases by region")
    # One that no session has is in no row: this run has no backend of the users' own.
    had = [phase for phase in Phase if measured.summary["phases"][phase]["n"]]
    assert set(Phase) - set(had) == {Phase.SESSION_API}
    assert [row["phase"] for row in table] == [phase for phase in had for _ in range(1 + len(REGIONS))]
    whole = {}
    for row in table:
        phase, region = row["phase"], row["region"]
        found = {name: ms(row[name]) for name in ("n", "p50", "p90", "p99", "max")}
        mine = [record for record in measured.records if region in ("(all)", record.region)]
        samples = phase_samples_ns(mine, Phase(phase))
        assert found == {"n": len(samples), **ranks(samples)}
        if region == "(all)":
            whole[phase] = found
            wanted = measured.summary["phases"][phase]
            assert found == {name: wanted[name] for name in found}
    bars = measured.panel("burst", "Phases: where")
    assert [row["phase"] for row in bars] == had
    for row in bars:
        assert {name: ms(row[name]) for name in ("p50", "p90", "p99")} == {
            name: whole[row["phase"]][name] for name in ("p50", "p90", "p99")
        }


def test_curves_end_with_all_that_came_so_far(measured: Measured) -> None:
    found = measured.panel("burst", "How far they had come")
    xs = [row["since T0"] for row in found]
    assert xs == sorted(set(xs))
    marks = {
        "dispatch answered": "dispatched",
        "user in the room": "connected",
        "agent in the room": "agent_joined",
        "agent heard": "first_audio",
    }
    for name, mark in marks.items():
        counts = [row[name] for row in found if row[name] is not None]
        assert counts == sorted(counts)
        assert counts[-1] == measured.summary["marks"][mark]["n"]


def test_every_session_has_its_place(measured: Measured) -> None:
    found = measured.panel("burst", "Every session")
    assert [row["rank"] for row in found] == list(range(1, 61))
    waits = [ms(row["welcomed"]) for row in found]
    assert waits == [ms(ns / NS_PER_MS) for ns in mark_samples_ns(measured.records, Mark.WELCOMED)]
    joined = [row for row in found if row["agent in the room"] is not None]
    assert len(joined) == measured.summary["marks"]["agent_joined"]["n"]


def test_the_timeline_goes_through_each_sessions_marks(measured: Measured) -> None:
    found = measured.panel("burst", "Timeline")
    by_id = {record.session_id: record for record in measured.records}
    mine: dict[str, list[tuple[str, float]]] = {}
    for row in found:
        since_s = (row["time"] - measured.t0).total_seconds()
        mine.setdefault(row["session"], []).append((row["state"], since_s))
    assert mine.keys() == by_id.keys()
    for session, states in mine.items():
        record = by_id[session]
        assert [at for _, at in states] == sorted(at for _, at in states)
        last, at_s = states[-1]
        assert last == ("has its welcome" if record.welcomed else "got no welcome")
        reached_ns = record.marks_ns.get(Mark.WELCOMED, record.deadline_ns)
        assert at_s == pytest.approx(reached_ns / 1e9, abs=0.001)
    # The slowest come first.
    waits = [by_id[session].marks_ns.get(Mark.WELCOMED, 20 * 10**9) for session in mine]
    assert waits == sorted(waits, reverse=True)


def test_joins_are_all_there(measured: Measured) -> None:
    found = measured.panel("burst", "Joins")
    sums: dict[str, float] = {}
    for row in found:
        for name, value in row.items():
            if name != "_time":
                sums[name] = sums.get(name, 0) + (value or 0)
    assert sums == {
        f"{region}: {who}": sum(r.region == region and mark in r.marks_ns for r in measured.records)
        for region in REGIONS
        for who, mark in (("users", Mark.CONNECTED), ("agents", Mark.AGENT_JOINED))
    }


def test_the_slowest_are_those_of_the_summary(measured: Measured) -> None:
    found = measured.panel("burst", "The 10 slowest")
    wanted = measured.summary["slowest"]
    assert len(found) == len(wanted) == 10
    keys = (
        "outcome",
        "cause",
        "job_id",
        "dispatch_id",
        "room_sid",
        "participant_sid",
        "agent_sid",
        "worker_id",
    )
    by_id = {one["session_id"]: one for one in wanted}
    # Of equal waits each has its own order.
    assert {row["session"] for row in found} <= {
        one.session_id for one in measured.records if not one.welcomed
    }
    for row in found:
        if row["session"] in by_id:
            assert {name: row[name] or "" for name in keys} == {n: by_id[row["session"]][n] for n in keys}
    assert [row["waited"] for row in found] == sorted((row["waited"] for row in found), reverse=True)


def test_start_errors_are_one_a_session(measured: Measured) -> None:
    found = measured.panel("burst", "Start error of each session")
    values = sorted(value for row in found for value in row.values() if value is not None)
    assert values == pytest.approx([ns / NS_PER_MS for ns in start_errors_ns(measured.records)])


def test_where_they_are_adds_up_over_workers(measured: Measured) -> None:
    found = measured.panel("burst", "Who is where now")
    assert max(row["there"] for row in found) == 60
    for name in ("in the room", "agent seen", "welcomed", "failed"):
        counts = [row[name] for row in found]
        assert counts == sorted(counts), name
    last = found[-1]
    assert last["in the room"] == measured.summary["marks"]["connected"]["n"]
    assert last["agent seen"] == measured.summary["marks"]["agent_seen"]["n"]
    assert last["welcomed"] == measured.summary["marks"]["welcomed"]["n"]
    # The last of them failed with the end of the burst, of which workers tell no more.
    assert 0 < last["failed"] <= measured.summary["groups"]["lost"]


def test_who_says_nothing_for_a_second_is_still_there(measured: Measured, influxd: Influxd) -> None:
    """A busy worker's word comes late: its users are where they were meanwhile."""
    start = measured.t0.replace(microsecond=0)
    said = {
        "w1": {0: (40, 0), 1: (40, 10), 2: (40, 30), 4: (40, 40)},
        "w2": {1: (20, 0), 4: (20, 20), 5: (0, 20)},
    }
    for worker, by_second in said.items():
        for second, (there, welcomed) in by_second.items():
            figures = {"parked": there, "in_flight": there, "joined": there, "agents": 0, "failed": 0}
            at_ns = round((start.timestamp() + second + 0.2) * 1e9)
            write(influxd, points.live_point("late", "eu", worker, figures | {"welcomed": welcomed}, at_ns))
    found = measured.panel("burst", "Who is where now", view=measured.view(run=["late"]))
    assert [row["there"] for row in found] == [40, 60, 60, 60, 40]
    assert [row["welcomed"] for row in found] == [0, 10, 30, 60, 60]


def test_what_workers_say_each_second_is_a_line_of_each(measured: Measured) -> None:
    for title, figures in (("Loop lag by worker", ("",)), ("Sink queue", (" queued", " spooled"))):
        found = measured.panel("generator", title)
        names = {name for name in found[0] if name != "_time"}
        assert {name.split(": ")[0] for name in names} == set(REGIONS)
        assert len(names) == len(REGIONS) * len(figures)
        assert all(name.endswith(figures) for name in names)
        assert all(
            value is None or value >= 0 for row in found for name, value in row.items() if name in names
        )


def test_workers(measured: Measured) -> None:
    summary = {worker["id"]: worker for worker in measured.summary["workers"]}
    found = measured.panel("generator", "Workers")
    assert [row["region"] for row in found] == sorted(REGIONS)
    for row in found:
        wanted = summary[row["worker"]]
        assert row["recorded"] == wanted["sessions"] == REGIONS[row["region"]]
        for name in ("clock_offset_ms", "clock_uncertainty_ms", "cpu_s", "read_cpu_s", "rss_mb"):
            assert row[name] == pytest.approx(wanted[name], abs=0.001), name
        for window in ("lag", "start_lag"):
            for figure in ("p95", "max"):
                worst = max(row[f"{window}_{loop}_{figure}_ms"] for loop in ("asyncio", "gevent"))
                assert worst == wanted[f"{window}_ms"][figure]
    (lag,) = measured.panel("generator", "Loop lag, worst")
    assert lag["longest stall"] == max(worker["lag_ms"]["max"] for worker in summary.values())
    assert lag["lag p95"] == max(worker["lag_ms"]["p95"] for worker in summary.values())
    (cpu,) = measured.panel("generator", "CPU a session")
    assert cpu["burst"] == pytest.approx(1000 * sum(w["cpu_s"] for w in summary.values()) / 60, abs=0.1)
    (clock,) = measured.panel("generator", "Clock uncertainty, worst")
    assert clock["uncertainty"] == max(worker["clock_uncertainty_ms"] for worker in summary.values())


@pytest.mark.parametrize(
    ("title", "figure"),
    [
        ("Longest stall", "lag_asyncio_max_ms"),
        ("CPU by", "cpu_s"),
        ("Clock uncertainty by", "clock_uncertainty_ms"),
    ],
)
def test_each_worker_has_its_bar(measured: Measured, title: str, figure: str) -> None:
    bars = measured.panel("generator", title)
    table = {row["region"]: row for row in measured.panel("generator", "Workers")}
    assert len(bars) == len(REGIONS)
    for row in bars:
        region, worker = row["worker"].split(": ")
        assert table[region]["worker"].startswith(worker)
        assert row[figure] == table[region][figure]


def test_start_error_of_each_worker(measured: Measured) -> None:
    for row in measured.panel("generator", "Start error by worker"):
        mine = [record for record in measured.records if record.region == row["worker"].split(": ")[0]]
        wanted = ranks(start_errors_ns(mine))
        assert {name: ms(row[name]) for name in ("p50", "p99", "max")} == {
            name: wanted[name] for name in ("p50", "p99", "max")
        }


def test_runs(measured: Measured) -> None:
    summary = measured.summary
    (waits,), (fates,), (times,), (texts,) = (measured.panel("runs", "All runs", n) for n in range(4))
    welcomed = summary["marks"]["welcomed"]
    assert {name: ms(waits[name]) for name in ("p50", "p90", "p99", "max")} == {
        name: welcomed[name] for name in ("p50", "p90", "p99", "max")
    }
    assert waits["sessions"] == summary["sessions"]["recorded"]
    assert {name: fates[name] for name in ("lost", "duplicate", "ours")} == {
        name: summary["groups"][name] for name in ("lost", "duplicate", "ours")
    }
    assert texts == {
        "run": measured.run,
        "verdict": summary["verdict"],
        "version": summary["versions"]["lk-users"],
        "dispatch": "room",
        "bottleneck": summary["bottleneck"]["phase"],
    }
    assert times["run"] == waits["run"] == fates["run"] == measured.run
    (size,) = measured.panel("runs", "Size of the run")
    assert (size["sessions"], ms(size["p99"])) == (60, welcomed["p99"])
    (moment,) = measured.panel("runs", "Welcome, run after run")
    assert ms(moment["p90"]) == welcomed["p90"]
    assert abs(moment["time"] - measured.t0) < timedelta(milliseconds=1)
    (losses,) = measured.panel("runs", "Losses")
    assert losses == fates
    (phases,) = measured.panel("runs", "Phases, run against run")
    had = [name for name in Phase if summary["phases"][name]["n"]]
    assert {name: ms(phases[name]) for name in had} == {name: summary["phases"][name]["p50"] for name in had}
    (regions,) = measured.panel("runs", "Welcome by region")
    for region in REGIONS:
        mine = [record for record in measured.records if record.region == region]
        assert ms(regions[region]) == ranks(mark_samples_ns(mine, Mark.WELCOMED))["p99"]
    (verdicts,) = measured.panel("runs", "Verdicts")
    assert verdicts == {"ended": 1, **{v.value: int(v == summary["verdict"]) for v in Verdict}}


# --- variables --------------------------------------------------------------------------------------


def test_a_variable_chooses(measured: Measured) -> None:
    def sessions(**values: list[str]) -> int:
        found = measured.panel("burst", "Sessions", view=measured.view(**values))
        return int(found[0]["sessions"]) if found else 0

    assert sessions(region=["eu"]) == 20
    assert sessions(region=["us-east"]) == 40
    assert sessions(region=["eu", "us-east"]) == 60
    assert sessions(agent=["welcome"], engine=["listen"], burst=["1"]) == 60
    # Not by a part of its name, and not by what it would be as an expression.
    assert sessions(region=["us"]) == sessions(agent=["wel.*"]) == sessions(engine=["sdk"]) == 0


def test_variables_offer_what_there_is(measured: Measured) -> None:
    offered = {
        one["name"]: [row["_value"] for row in measured.ask(one["query"]["query"])]
        for one in BOARDS["burst"]["templating"]["list"]
    }
    assert measured.run in offered.pop("run")
    assert offered == {
        "burst": ["1"],
        "region": sorted(REGIONS),
        "agent": ["welcome"],
        "engine": ["listen"],
    }


def test_annotations_stand_at_t0_and_end(measured: Measured) -> None:
    for one in BOARDS["burst"]["annotations"]["list"]:
        (mark,) = measured.ask(one["target"]["query"])
        assert mark["tags"] == measured.run
        if one["name"] == "T0":
            assert mark["text"] == "T0 of burst 1: 60 sessions"
            assert abs(mark["time"] - measured.t0) < timedelta(milliseconds=1)
        else:
            assert mark["text"].startswith("SLO_FAILED")


# --- ranks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 9, 10, 11, 50, 99, 100, 101, 200, 600, 1000])
def test_the_database_takes_the_rank_that_we_take(measured: Measured, n: int) -> None:
    # Not in order, and no two alike.
    values = [float(7919 * i % 104_729) for i in range(1, n + 1)]
    listed = ", ".join(f"{{_value: {value}}}" for value in values)
    for q, percent in (("0.5", 50), ("0.9", 90), ("0.99", 99), ("1.0", 100)):
        query = f'import "array"\narray.from(rows: [{listed}]) |> quantile(q: {q}, method: "exact_selector")'
        ((row,),) = rows(measured.api, measured.view(), query)
        assert row["_value"] == percentile(sorted(values), percent)


def test_outcomes_of_the_run_are_those_that_were_asked_for(measured: Measured) -> None:
    """Else the rest of this file would compare nothing with nothing."""
    outcomes = measured.summary["outcomes"]
    assert outcomes[Finding.WELCOME_MISSING] >= 5
    assert sum(outcomes.get(name, 0) for name in (Finding.REJECTED, Finding.NEVER_ASSIGNED)) >= 5
