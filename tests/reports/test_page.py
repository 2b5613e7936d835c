"""report.html, as far as no browser is needed: what it says, and that it says it safely."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from builders import never_assigned, queued_session, record, welcomed, write_run
from target import Target
from test_limit_report import write_search
from test_round_report import three
from test_round_report import write as write_rounds

from lk_users.cli import main
from lk_users.clock import NS_PER_MS
from lk_users.record import Mark, Phase
from lk_users.report import aside, words
from lk_users.report.aside import PageMaker
from lk_users.report.make import make_report
from lk_users.report.page import charts, looks, searches, timeline
from lk_users.report.page.canvas import steps
from lk_users.report.page.write import script_json, write_page
from lk_users.stats import percentile, phase_samples_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lk_users.record import Record

HOSTILE = "<script>alert('room')</script>"


class Reader(HTMLParser):
    """What a browser would run, load and show."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._inside[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self._inside[-1:] != ["style"]:
            self.text += data

    @property
    def items(self) -> dict[str, dict[str, Any]]:
        """The charts by name, as the page's script gets them."""
        return {one["name"]: one for one in json.loads(self.scripts[1])}


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., tuple[Reader, dict[str, Any]]]:
    """``page(records, **options)``: the page of a run and its summary."""

    def make(records: Sequence[Record], **options: Any) -> tuple[Reader, dict[str, Any]]:
        write_run(tmp_path, records, workers={"w1": ("eu", 0, len(records))}, **options)
        make_report(tmp_path)
        text = write_page(tmp_path).read_text(encoding="utf-8")
        return Reader(text), json.loads((tmp_path / "summary.json").read_text())

    return make


def mixed(count: int = 40) -> list[Record]:
    rng = random.Random(5)
    return [never_assigned(n) if n % 10 == 9 else queued_session(rng, n) for n in range(count)]


def test_it_says_what_the_summary_says(page: Callable[..., tuple[Reader, dict[str, Any]]]) -> None:
    found, summary = page(mixed())
    for line in (words.headline(summary), words.session_line(summary), *words.trust_lines(summary)):
        assert line in found.text
    for line in words.time_lines(summary):
        assert line.replace("`", "") in found.text
    for phase in summary["phases"].values():
        assert words.duration(phase["p99"]) in found.text
    assert set(found.items) == {"shares", "marks", "phases", "timeline", "outcomes", "start-error"}
    assert all(item["rows"] > 0 for item in found.items.values())
    assert found.items["timeline"]["rows"] == 40


def test_it_loads_nothing(page: Callable[..., tuple[Reader, dict[str, Any]]]) -> None:
    """No address in any tag, and a policy under which a browser would refuse one."""
    found, _ = page(mixed(3))
    assert not [tags for tags in found.tags if tags[0] in ("link", "img", "iframe", "object", "embed")]
    addresses = [
        attrs[name] for _, attrs in found.tags for name in ("src", "href", "action") if name in attrs
    ]
    assert all(str(address).startswith("#") for address in addresses)
    (policy,) = (attrs["content"] for _, attrs in found.tags if attrs.get("http-equiv"))
    assert str(policy).startswith("default-src 'none'; ")
    assert "http" not in str(policy)
    assert not re.search(r"@import|url\(", "".join(found.scripts[1:]))


def test_text_of_others_stays_text(page: Callable[..., tuple[Reader, dict[str, Any]]]) -> None:
    hostile = never_assigned(0, room=HOSTILE, findings={"never_assigned": f"</script>{HOSTILE}"})
    found, _ = page([hostile, welcomed(1)], watch="1")
    assert [tag for tag, _ in found.tags].count("script") == 3
    assert HOSTILE in found.text
    assert HOSTILE in json.dumps(found.items)
    assert "alert" not in found.scripts[2]
    assert script_json(HOSTILE).count("<") == 0
    assert json.loads(script_json(HOSTILE)) == HOSTILE


def test_made_again_it_has_the_same_bytes(tmp_path: Path) -> None:
    write_run(tmp_path, mixed(12), workers={"w1": ("eu", 0, 12)})
    made = []
    for _ in range(2):
        assert main(["report", str(tmp_path)]) == 10
        made.append((tmp_path / "report.html").read_bytes())
    assert made[0] == made[1]


def test_a_run_that_ended_before_its_first_session(tmp_path: Path) -> None:
    write_run(tmp_path, [], workers={"w1": ("eu", 0, 1)})
    (tmp_path / "bursts.jsonl").unlink()
    make_report(tmp_path)
    found = Reader(write_page(tmp_path).read_text(encoding="utf-8"))
    assert found.items == {}
    assert "VOID" in found.text
    assert "No session of this run was recorded." in found.text


@pytest.mark.parametrize("count", [1, 7, 600, 1777, 5000])
def test_the_line_of_a_distribution_passes_its_percentiles(count: int) -> None:
    rng = random.Random(count)
    ordered = sorted(rng.uniform(1, 1000) for _ in range(count))
    values, shares = steps(ordered)
    assert len(values) <= 1001
    for percent in (50, 90, 99, 100):
        reached = next(value for value, share in zip(values, shares, strict=True) if share >= percent - 1e-9)
        assert reached == percentile(ordered, percent)


def test_charts_show_the_figures_of_the_summary(tmp_path: Path) -> None:
    records = mixed()
    write_run(tmp_path, records, workers={"w1": ("eu", 0, len(records))})
    make_report(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    shares = charts.shares(summary)
    outcomes = charts.outcomes(summary)
    assert shares is not None
    assert outcomes is not None
    assert column(shares.plot, "value") == [p["share"] for p in summary["phases"].values() if p["n"]]
    assert column(outcomes.plot, "value") == [4, 36]
    phases = charts.phases(summary, records)
    assert phases is not None
    longest = max(phase_samples_ns(records, Phase.SERVER_QUEUE)) / NS_PER_MS
    assert summary["phases"]["server_queue"]["max"] == round(longest, 3)
    assert max(map(max, columns(phases.plot, "x"))) == pytest.approx(longest)


def columns(plot: Any, name: str) -> list[list[Any]]:
    found = [line.data_source.data for line in plot.renderers]
    return [list(data[name]) for data in found if name in data]


def column(plot: Any, name: str) -> list[Any]:
    return columns(plot, name)[0]


def test_a_row_of_the_timeline() -> None:
    """The server's stamps are placed by the agent's join, and each phase ends where the next begins."""
    one = queued_session(random.Random(1), 3)
    spans = timeline.spans_ns(one)
    joined_ns = one.marks_ns[Mark.AGENT_JOINED]
    assert spans[Phase.ACCEPT_TO_JOIN][1] == joined_ns
    assert spans[Phase.SERVER_QUEUE][1] == spans[Phase.ACCEPT_TO_JOIN][0]
    assert spans[Phase.SPEAK] == (one.marks_ns[Mark.AGENT_TRACK], one.marks_ns[Mark.FIRST_AUDIO])
    assert all(end - start == one.phases_ns[phase] for phase, (start, end) in spans.items())
    assert timeline.spans_ns(record(0)) == {}


def test_rows_of_the_timeline_begin_at_their_burst() -> None:
    batches = [record(n, intended_wall_ns=record(0).intended_wall_ns + n * 10) for n in range(3)]
    later = [replace(one, burst=1, intended_wall_ns=one.intended_wall_ns + 500) for one in batches]
    never = record(9, burst=1, intended_wall_ns=0)
    assert timeline.starts_ns([*batches, *later, never]) == [0, 10, 20, 0, 10, 20, 0]


def test_a_process_of_its_own_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "_MODULE", "lk_users.no_such_module")
    assert "No module named lk_users.no_such_module" in PageMaker(tmp_path).make()


def test_a_process_that_can_not_be_started_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    maker = PageMaker(tmp_path)
    maker.begin()
    assert "no python" in maker.make()


def test_a_process_that_begins_early_makes_the_page_of_what_is_there_in_the_end(tmp_path: Path) -> None:
    maker = PageMaker(tmp_path)
    maker.begin()
    maker.begin()
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)})
    make_report(tmp_path)
    assert maker.make() == ""
    made = (tmp_path / "report.html").read_bytes()
    assert write_page(tmp_path).read_bytes() == made


def test_a_process_whose_page_nobody_wants_any_more_ends(tmp_path: Path) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)})
    make_report(tmp_path)
    command = [sys.executable, "-P", "-m", "lk_users.report.page.write", str(tmp_path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert not (tmp_path / "report.html").exists()


def test_no_page_of_an_earlier_report_stays(tmp_path: Path) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)})
    (tmp_path / "report.html").write_text("of an earlier report")
    make_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def summary_of(run_dir: Path) -> dict[str, Any]:
    make_report(run_dir)
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return found


def test_burst_baseline_and_control_side_by_side(tmp_path: Path) -> None:
    write_rounds(tmp_path, three())
    summary = summary_of(tmp_path)
    found = Reader(write_page(tmp_path).read_text(encoding="utf-8"))
    assert found.items["rounds"]["rows"] == 3
    assert "it is the burst, not the load." in found.text
    # Of the baseline and the control no session is in any other chart.
    assert found.items["timeline"]["rows"] == summary["sessions"]["recorded"] == 20
    chart = charts.rounds(summary)
    assert chart is not None
    names, to_s = (column(chart.plot, name) for name in ("name", "to"))
    assert names == [
        "0 baseline: 1 alone", "1 burst: 20 at the same instant", "2 control: 20 spread over 5 s",
    ]  # fmt: skip
    assert to_s == [one["marks"]["welcomed"]["max"] / 1000 for one in summary["rounds"]]


def test_a_ladder(tmp_path: Path) -> None:
    write_search(tmp_path / "run", Target(jobs_per_s=10), 160, course="ladder", repeats="2")
    summary = summary_of(tmp_path / "run")
    chart = searches.ladder(summary)
    assert chart is not None
    rungs = summary["ladder"]["rungs"]
    met, missed = (
        list(zip(*xy, strict=True))
        for xy in zip(columns(chart.plot, "x"), columns(chart.plot, "y"), strict=True)
    )
    for dots, ok in ((met, True), (missed, False)):
        shown = [(one["users"], one["agent_joined_ms"]["p99"] / 1000) for one in rungs if one["ok"] is ok]
        assert dots == shown
    assert chart.rows == len(rungs)
    found = Reader(write_page(tmp_path / "run").read_text(encoding="utf-8"))
    assert {"ladder", "timeline", "phases"} <= set(found.items)
    assert "rounds" not in found.items
    passed = [mark for name, mark in summary["marks"].items() if name in looks.MARK_NAMES and mark["n"]]
    assert found.items["marks"]["rows"] == len(passed) * (summary["ladder"]["limit"] + 1)
    # All figures are of the burst that is judged, and the timeline has every burst.
    assert found.items["timeline"]["rows"] == summary["sessions"]["recorded"] > summary["ladder"]["limit"]


@pytest.mark.parametrize("way", ["search", "grid"])
def test_batches(tmp_path: Path, way: str) -> None:
    asked: dict[str, Any] = {"batch-sizes": "10,50", "batch-delays": "0.5,1"} if way == "grid" else {}
    write_search(tmp_path / "run", Target(jobs_per_s=30), 300, course="batches", **asked)
    summary = summary_of(tmp_path / "run")
    search = summary["batch_search"]
    assert search["way"] == way
    chart = searches.plans(summary)
    assert chart is not None
    tried = [*search["cells"]]
    if search["at_once"] and search["at_once"] not in tried:
        tried.insert(0, search["at_once"])
    drawn = sorted(
        (x, y)
        for xy in list(zip(columns(chart.plot, "x"), columns(chart.plot, "y"), strict=True))[:2]
        for x, y in zip(*xy, strict=True)
    )
    assert drawn == sorted((one["planned_ms"] / 1000, one["agent_joined_ms"]["p99"] / 1000) for one in tried)
    boxes = searches.grid(summary)
    if way == "search":
        assert boxes is None
        return
    assert boxes is not None
    said = dict(
        zip(
            zip(column(boxes.plot, "size"), column(boxes.plot, "delay"), strict=True),
            column(boxes.plot, "said"),
            strict=True,
        )
    )
    for cell in search["cells"]:
        shown = said[str(cell["batch_size"]), f"{cell['batch_delay_s']:g} s"]
        assert shown == f"{'✓' if cell['ok'] else '✕'} {words.duration(cell['agent_joined_ms']['p99'])}"


def test_each_phase_has_a_colour_of_its_own() -> None:
    assert set(looks.PHASE_COLORS) == set(Phase)
    assert len({*looks.PHASE_COLORS.values(), looks.WAITING}) == len(Phase) + 1
    assert {*timeline.USERS, *timeline.AGENTS} == set(Phase)
