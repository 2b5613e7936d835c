"""The dashboards as they are checked in: what the code makes, whole, and asking for what there is."""

from __future__ import annotations

import json
import math
import random
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from builders import RUN_ID, burst_round, never_assigned, queued_session, trailer, welcomed, write_run
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.cog.runtime import DataqueryConfig, register_dataquery_variant
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana import panels
from grafana.__main__ import FOLDER, texts
from grafana.ask import ALL, View
from lk_users.health import Lag
from lk_users.report.make import make_report
from lk_users.sinks import points
from lk_users.stats import percentile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

NAMES = ("burst", "generator", "runs")
BOARDS: Mapping[str, Any] = {
    name: json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) for name in NAMES
}
SOURCE = re.compile(r"fn: \(r\) => (r\._measurement ==.*)\)\n  \|> filter\(fn: (.*)\)")
LIVE_FIELDS = {
    "parked", "in_flight", "joined", "agents", "welcomed", "failed", "lag_ms", "queued", "spooled",
}  # fmt: skip
each_board = pytest.mark.parametrize("name", NAMES)
each_panel = pytest.mark.parametrize(
    "panel", [pytest.param(p, id=f"{name}: {p['title']}") for name in NAMES for p in BOARDS[name]["panels"]]
)


def queries(board: Mapping[str, Any]) -> Iterator[str]:
    for panel in board["panels"]:
        yield from (target["query"] for target in panel["targets"])
    yield from (variable["query"]["query"] for variable in board["templating"]["list"])
    yield from (annotation["target"]["query"] for annotation in board["annotations"]["list"])


def test_what_is_checked_in_is_what_the_code_makes() -> None:
    made = texts()
    assert sorted(made) == sorted(path.name for path in FOLDER.iterdir())
    for name, text in made.items():
        checked_in = (FOLDER / name).read_text(encoding="utf-8")
        assert text == checked_in, f"{name}: make it again by `python -m grafana`"


@each_board
def test_grafanas_schema_knows_every_key(name: str) -> None:
    """Read by the SDK and written again, nothing is lost: it drops what the schema does not have."""
    register_default_plugins()
    register_dataquery_variant(DataqueryConfig(panels.SOURCE_TYPE, from_json_hook=panels.FluxQuery.from_json))
    board = BOARDS[name]
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
    assert again == board
    assert board["schemaVersion"] == 42


@each_board
def test_panels_have_numbers_of_their_own_and_lie_side_by_side(name: str) -> None:
    numbers = [panel["id"] for panel in BOARDS[name]["panels"]]
    assert numbers == list(range(1, len(numbers) + 1))
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for cell in (
            (place["x"] + right, place["y"] + down)
            for right in range(place["w"])
            for down in range(place["h"])
        ):
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]
    # No holes: every row of the grid is full.
    height = 1 + max(y for _, y in taken)
    assert len(taken) == 24 * height


@each_panel
def test_every_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    source = {"type": "influxdb", "uid": "lk-users-influxdb"}
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["title"]
    assert len(panel["description"]) > 30
    assert panel["description"].endswith(".")
    assert defaults["unit"]
    assert defaults["noValue"]
    assert defaults["color"]["mode"]
    steps = defaults["thresholds"]["steps"]
    assert [step["value"] for step in steps] == sorted((s["value"] for s in steps), key=lambda v: v or 0)
    assert steps[0]["value"] is None
    assert panel["datasource"] == source
    assert [target["datasource"] for target in panel["targets"]] == [source] * len(panel["targets"])
    assert [target["refId"] for target in panel["targets"]] == list("ABCD"[: len(panel["targets"])])


@each_board
def test_titles_are_told_apart(name: str) -> None:
    titles = [panel["title"] for panel in BOARDS[name]["panels"]]
    assert len(titles) == len(set(titles))


@each_board
def test_every_variable_is_there_and_used(name: str) -> None:
    board = BOARDS[name]
    there = {variable["name"] for variable in board["templating"]["list"]}
    used = {match[1] for query in queries(board) for match in re.finditer(r"\$\{(\w+)(?::\w+)?\}", query)}
    assert used == there
    # A link hands on what the other dashboard knows.
    text = json.dumps(board["panels"])
    for uid, variable in re.findall(r"/d/([\w-]+)\?var-(\w+)=", text):
        target = next(other for other in BOARDS.values() if other["uid"] == uid)
        assert variable in {one["name"] for one in target["templating"]["list"]}


@each_board
def test_a_variable_of_several_values_is_asked_for_as_an_expression(name: str) -> None:
    several = {one["name"] for one in BOARDS[name]["templating"]["list"] if one["multi"]}
    for query in queries(BOARDS[name]):
        for variable in several:
            bare = query.replace(f"=~ /^${{{variable}:regex}}$/", "")
            assert f"${{{variable}" not in bare


@each_board
def test_nothing_is_of_one_theme(name: str) -> None:
    """Named colors have a shade for light and one for dark."""
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(", json.dumps(BOARDS[name])) == []


@each_board
def test_t0_and_end_are_marked(name: str) -> None:
    marks = {one["name"]: one["target"]["query"] for one in BOARDS[name]["annotations"]["list"]}
    assert set(marks) == {"T0", "end"}
    assert 'r.event == "t0"' in marks["T0"]
    assert 'r.event == "end"' in marks["end"]
    assert all("time: r._time, text: r._value" in query for query in marks.values())


def written(tmp_path: Path) -> dict[str, set[str]]:
    """Measurement → fields and tags that are ever written."""
    rng = random.Random(1)
    heard = queued_session(rng, 0, participant_sid="PA_1")
    text = {
        **heard.marks_ns,
        **dict.fromkeys(("agent_active", "agent_ready", "agent_speaking", "first_text"), 1),
    }
    text["text_matched"] = 1
    backed = welcomed(4, marks_ns={"fired": 1, "session_created": 2, "welcomed": 3}, order="session-first")
    records = [heard, queued_session(rng, 1, marks_ns=text), welcomed(2), never_assigned(3), backed]
    write_run(tmp_path, records, workers={"w1": ("eu", 0, 5)})
    make_report(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    lag = {"asyncio": Lag(), "gevent": Lag()}
    every = [
        *map(points.session_point, records),
        points.worker_point(RUN_ID, trailer(lag=lag, start_lag=lag), 1),
        points.start_point(RUN_ID, 4, "welcome", 1),
        points.t0_point(RUN_ID, 1, burst_round(4), 4, 1),
        points.end_point(summary, 1),
        points.live_point(RUN_ID, "eu", "w1", dict.fromkeys(LIVE_FIELDS, 0), 1),
    ]
    names: dict[str, set[str]] = {}
    for point in every:
        names.setdefault(point.measurement, set()).update(point.fields, point.tags)
    return names


@each_board
def test_what_is_asked_for_is_written(name: str, tmp_path: Path) -> None:
    names = written(tmp_path)
    asked = 0
    for query in queries(BOARDS[name]):
        # Each source in a query: its measurement and tags, then its fields.
        for tags, fields in re.findall(
            r"fn: \(r\) => (r\._measurement ==.*)\)\n  \|> filter\(fn: (.*)\)", query
        ):
            (measurement,) = re.findall(r'_measurement == "(\w+)"', tags)
            wanted = set(re.findall(r'_field == "(\w+)"', fields)) | set(re.findall(r"r\.([a-z]\w*)", tags))
            assert wanted <= names[measurement], wanted - names[measurement]
            asked += len(wanted)
    assert asked > 20


def view(**values: list[str]) -> View:
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    return View(moment, moment, values, bucket="b", window="2s")


def test_a_query_is_filled_in_as_grafana_does() -> None:
    query = "from(bucket: v.defaultBucket) |> range(start: v.timeRangeStart) |> window(every: v.windowPeriod)"
    assert view().filled(query) == (
        'from(bucket: "b") |> range(start: 2026-03-01T12:00:00+00:00) |> window(every: 2s)'
    )
    assert view(run=["a.b"]).filled('"${run}" /^${run:regex}$/') == '"a.b" /^a\\.b$/'
    assert view(agent=["(unnamed)", "a/b"]).filled("${agent:regex}") == r"(\(unnamed\)|a\/b)"
    assert view(agent=[ALL]).filled("${agent:regex}") == ".*"


def test_a_variable_that_is_not_there_is_no_empty_text() -> None:
    with pytest.raises(KeyError, match="agent"):
        view().filled("${agent:regex}")


@pytest.mark.parametrize(("percent", "q"), [(50, 0.5), (90, 0.9), (99, 0.99), (100, 1.0)])
def test_fluxs_rank_is_ours(percent: int, q: float) -> None:
    """``exact_selector`` takes rank ``ceil(q · n)``, in floating point."""
    for n in (*range(1, 1001), *range(1100, 200_001, 1100)):
        assert percentile(range(1, n + 1), percent) == math.ceil(q * n)


def test_the_token_comes_from_the_environment() -> None:
    text = (FOLDER.parent / "provisioning" / "datasources" / "influxdb.yaml").read_text()
    assert f"uid: {panels.SOURCE_UID}\n" in text
    values = dict(re.findall(r"^ +(url|organization|defaultBucket|token): (.*)$", text, re.MULTILINE))
    assert values == {
        "url": "${LK_INFLUX_URL}",
        "organization": "${LK_INFLUX_ORG}",
        "defaultBucket": "${LK_INFLUX_BUCKET}",
        "token": "${INFLUX_TOKEN}",
    }
