"""A run folder as points, and what becomes of them when they are sent again. The database is scripted."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from builders import RUN_ID, T0_WALL_NS, never_assigned, queued_session, trailer, welcomed, write_run

from lk_users.cli import main
from lk_users.clock import NS_PER_MS
from lk_users.replay import replay
from lk_users.report.folder import RunInfo, append_account, merge, read_bursts
from lk_users.report.make import draft, make_report
from lk_users.report.points import points_of
from lk_users.sinks.influx import Answer, Outcome
from lk_users.sinks.jsonl import Journal, journal_path

if TYPE_CHECKING:
    from pathlib import Path

LIVE = b"lk_live,run=r parked=1i 5\n"


class Scripted:
    """Takes what ``bad`` does not name, until it has answered ``answers`` times."""

    def __init__(self, bad: bytes = b"\0", answers: int = 10**9) -> None:
        self.lines: list[bytes] = []
        self._bad = bad
        self._answers = answers

    def write(self, body: bytes) -> Answer:
        self._answers -= 1
        if self._answers < 0:
            return Answer(Outcome.UNAVAILABLE, "connection refused")
        if self._bad in body:
            return Answer(Outcome.REFUSED, "HTTP 422: partial write")
        self.lines += body.splitlines(keepends=True)
        return Answer(Outcome.TAKEN)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three sessions of one worker; a spool with one point, and one that a kill cut."""
    folder = tmp_path / "run"
    write_run(folder, [welcomed(0), welcomed(1), never_assigned(2)], workers={"w1": ("eu", 0, 3)})
    make_report(folder)
    (folder / "spool").mkdir()
    (folder / "spool" / "w1.lp").write_bytes(LIVE + b"lk_live,run=r par")
    return folder


def send(run: Path, database: Scripted):  # type: ignore[no-untyped-def]
    return replay(run, database)  # type: ignore[arg-type]


def test_all_of_a_run_is_sent_and_its_spool_goes(run: Path) -> None:
    database = Scripted()
    done = send(run, database)
    assert (done.run_id, done.sessions, done.spooled, done.written, done.is_whole) == (RUN_ID, 3, 1, 8, True)
    kinds = [line.split(b",")[0].decode() for line in database.lines]
    assert kinds == ["lk_run", "lk_run", "lk_worker", *["lk_session"] * 3, "lk_run", "lk_live"]
    assert not (run / "spool").exists()
    again = Scripted()
    send(run, again)
    assert again.lines == database.lines[:-1]


def test_without_its_report_it_is_the_same(run: Path) -> None:
    first, second = Scripted(), Scripted()
    send(run, first)
    (run / "summary.json").unlink()
    send(run, second)
    assert second.lines == first.lines[:-1]


def test_the_end_is_when_the_last_outcome_stood(run: Path) -> None:
    found = draft(run)
    *_, end = points_of(found.info, found.merged, found.summary)
    assert end.tags == {"run": RUN_ID, "event": "end"}
    assert end.time_ns == T0_WALL_NS + never_assigned(2).decided_ns
    assert end.fields["text"] == "SLO_FAILED; missed: count(lost) == 0"


def test_a_wrong_point_costs_no_other_and_keeps_the_spool(run: Path) -> None:
    database = Scripted(bad=b"ordinal=1i")
    done = send(run, database)
    assert (done.written, dict(done.refused), done.stopped) == (7, {"HTTP 422: partial write": 1}, "")
    assert len(database.lines) == 7
    assert (run / "spool" / "w1.lp").exists()


def test_a_database_that_goes_away_keeps_the_spool(run: Path) -> None:
    done = send(run, Scripted(answers=0))
    assert (done.written, done.stopped, done.is_whole) == (0, "connection refused", False)
    assert (run / "spool" / "w1.lp").exists()


def test_users_that_start_when_they_are_spawned_have_a_worker_point_too(tmp_path: Path) -> None:
    write_run(tmp_path, [], workers={"w1": ("eu", 0, 2)}, trailers=False, release="free")
    (tmp_path / "bursts.jsonl").unlink()
    journal = Journal(tmp_path, "w1", "eu")
    for ordinal in range(2):
        journal.record(welcomed(ordinal, intended_wall_ns=T0_WALL_NS + (5 - ordinal) * NS_PER_MS))
    journal.trailer(trailer("w1", "eu", intended=2, recorded=2))
    journal.close()
    info = RunInfo.read(tmp_path)
    merged = merge(tmp_path, info, info.run_settings())
    found = [point for point in points_of(info, merged, draft(tmp_path).summary) if "worker" in point.tags]
    assert [point.time_ns for point in found] == [T0_WALL_NS + 4 * NS_PER_MS]


def test_a_burst_that_was_lost_before_its_t0_has_no_point_of_it(run: Path) -> None:
    shared = read_bursts(run)[0]
    (run / "bursts.jsonl").unlink()
    replace(shared, t0_wall_ns=0).append(run)
    found = draft(run)
    points = list(points_of(found.info, found.merged, found.summary))
    assert [point.tags["event"] for point in points if "event" in point.tags] == ["start", "end"]
    assert min(point.time_ns for point in points) > 0


def test_a_journal_that_was_cut_in_mid_line_replays_whole(tmp_path: Path) -> None:
    rng = random.Random(3)
    records = [queued_session(rng, ordinal) for ordinal in range(20)]
    write_run(tmp_path, records, workers={"w1": ("eu", 0, 20)}, trailers=False)
    path = journal_path(tmp_path, "w1")
    path.write_bytes(path.read_bytes()[:-40])
    database = Scripted()
    assert send(tmp_path, database).sessions == 20
    sessions = [line for line in database.lines if line.startswith(b"lk_session")]
    assert len(sessions) == 20
    assert [b"outcome=generator_lost" in line for line in sessions] == [False] * 19 + [True]


@pytest.mark.parametrize(
    ("url", "token", "fault"),
    [
        ("", "t", "--influx-url/LK_INFLUX_URL: not given"),
        ("nowhere", "t", "--influx-url nowhere: must be http"),
        ("http://127.0.0.1:9", "", "INFLUX_TOKEN is not set"),
    ],
)
def test_what_can_be_known_to_fail_is_refused(
    url: str, token: str, fault: str, run: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("LK_INFLUX_URL", url)
    monkeypatch.setenv("INFLUX_TOKEN", token)
    assert main(["replay", str(run)]) == 12
    assert fault in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INFLUX_TOKEN", "t")
    assert main(["replay", str(tmp_path), "--influx-url", "http://127.0.0.1:9"]) == 12
    assert "no run folder" in capsys.readouterr().err


def test_the_summary_adds_up_what_became_of_all_points(tmp_path: Path) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)})
    first = {"accepted": 4, "written": 4, "spooled": 0, "dropped": {}, "why": ""}
    last = {
        "accepted": 9,
        "written": 5,
        "spooled": 3,
        "dropped": {"HTTP 400: x": 1},
        "why": "connection refused",
    }
    journal = Journal(tmp_path, "w1", "eu")
    # The last word on the last burst counts from the run's start.
    journal.trailer(trailer("w1", "eu", burst=0, intended=1, recorded=1, sinks={"influx": first}))
    journal.trailer(trailer("w1", "eu", burst=1, sinks={"influx": last}))
    journal.close()
    append_account(tmp_path, "master", {"accepted": 2, "written": 2, "spooled": 0, "dropped": {}, "why": ""})
    make_report(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["sinks"]["influx"] == {
        "accepted": 11,
        "written": 7,
        "spooled": 3,
        "dropped": {"HTTP 400: x": 1},
        "why": "connection refused",
    }
    text = (tmp_path / "summary.md").read_text()
    assert "3 points could not be written to InfluxDB (connection refused) and lie in spool/" in text
    assert "1 point for InfluxDB was dropped: HTTP 400: x (1)." in text


def test_a_run_without_a_database_says_nothing_of_one(tmp_path: Path) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)})
    make_report(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["sinks"] == {}
    assert "InfluxDB" not in (tmp_path / "summary.md").read_text()
