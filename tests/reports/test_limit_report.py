"""A search's result in summary.json and in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from builders import OPTIONS, RUN_ID, T0_WALL_NS, settings, trailer
from target import Target

from lk_users.batches import BatchCourse
from lk_users.courses import course_of
from lk_users.health import Lag
from lk_users.ladder import LadderCourse
from lk_users.outcome import ExitCode
from lk_users.report import limit_words
from lk_users.report.folder import BurstInfo, RunInfo, WorkerShare
from lk_users.report.limits import search_of, sections
from lk_users.report.make import ending, make_report
from lk_users.sinks.jsonl import Journal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lk_users.course import RoundResult

SLO = "p99(agent_joined) <= 4s; count(lost) == 0"


def of_ladder(target: Target, users: int = 160, slo: str = SLO, **options: str) -> dict[str, Any]:
    chosen = settings(users, course="ladder", slo=slo, **options)
    return sections(search_of(chosen, target.play(LadderCourse(chosen))))


def of_batches(target: Target, users: int = 600, slo: str = SLO, **options: str) -> dict[str, Any]:
    chosen = settings(users, course="batches", slo=slo, **options)
    return sections(search_of(chosen, target.play(BatchCourse(chosen))))


def test_another_run_has_neither() -> None:
    assert sections(search_of(settings(100), ())) == {
        "ladder": None, "batch_search": None, "judged_burst": None,
    }  # fmt: skip
    assert limit_words.lines({"ladder": None, "batch_search": None}) == []
    assert limit_words.rows({"ladder": None, "batch_search": None}) == []
    assert limit_words.slo_rows({"ladder": None, "batch_search": None}) == []


def test_the_shape_of_a_ladder() -> None:
    summary = of_ladder(Target(jobs_per_s=10), repeats="2")
    ladder = summary["ladder"]
    assert summary["batch_search"] is None
    assert {name: ladder[name] for name in ("limit", "low", "high", "confidence", "repeats", "stopped")} == {
        "limit": 38, "low": 38, "high": 39, "confidence": 0.5, "repeats": 2, "stopped": "",
    }  # fmt: skip
    assert ladder["sizes"] == [10, 20, 40, 80, 160]
    assert ladder["climbs"] == [
        {"repeat": 1, "limit": 38, "failed": 39},
        {"repeat": 2, "limit": 38, "failed": 39},
    ]
    assert ladder["probes"][1] == {"burst": 2, "ok": True, "agent_joined_ms": 250.0}
    slo = ladder["rungs"][0].pop("slo")[0]
    assert (slo["text"], slo["value"], slo["ok"]) == ("p99(agent_joined) <= 4s", 1150, True)
    assert ladder["rungs"][0] == {
        "users": 10,
        "repeat": 1,
        "burst": 1,
        "ok": True,
        "lost": 0,
        "agent_joined_ms": {
            "n": 10,
            "censored": 0,
            "p50": 650.0,
            "p90": 1050.0,
            "p99": 1150.0,
            "max": 1150.0,
        },
        "welcomed_ms": {"n": 10, "censored": 0, "p50": 700.0, "p90": 1100.0, "p99": 1200.0, "max": 1200.0},
    }


def test_the_shape_of_a_batch_search() -> None:
    search = of_batches(Target(jobs_per_s=25))["batch_search"]
    assert (search["users"], search["way"], search["repeats"], search["stopped"]) == (600, "search", 1, "")
    assert search["plan"] == {
        "batch_size": 25,
        "batch_delay_s": 1.0,
        "planned_ms": 23000.0,
        "all_in_ms": 24260.0,
        "lost": 0,
        "agent_joined_ms": {
            "n": 600, "censored": 0, "p50": 730.0, "p90": 1130.0, "p99": 1210.0, "max": 1210.0,
        },
        "welcomed_ms": {"n": 600, "censored": 0, "p50": 780.0, "p90": 1180.0, "p99": 1260.0, "max": 1260.0},
        "bursts": [3],
    }  # fmt: skip
    assert search["at_once"] == search["cells"][0]
    assert (search["at_once"]["batch_size"], search["at_once"]["batch_delay_s"]) == (600, 0.0)
    assert search["at_once"]["planned_ms"] == 0
    assert [cell["burst"] for cell in search["cells"]] == [1, 3, 5, 7, 9]
    assert [probe["burst"] for probe in search["probes"]] == [0, 2, 4, 6, 8]


def test_all_in_is_null_where_a_user_got_no_welcome() -> None:
    search = of_batches(Target(jobs_per_s=25, dead_at=(1,)), users=50)["batch_search"]
    assert search["cells"][0]["all_in_ms"] is None
    assert search["cells"][0]["lost"] == 50


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        (of_ladder(Target(10), repeats="1"), "38 users at once meet the SLOs, 39 do not"),
        (of_ladder(Target(1000), users=20), "20 users at once meet the SLOs; more were not asked for"),
        (of_ladder(Target(1), repeats="1"), "not even 10 users at once meet the SLOs"),
        (of_ladder(Target(1000), users=1), "1 user at once meet the SLOs; more were not asked for"),
        (of_ladder(Target(10, void_at=(2,))), "no limit was found"),
        (
            of_batches(Target(25)),
            "600 users in batches of 25 every 1 s meet the SLOs: p99 1.21 s to the agent, all in 24.3 s",
        ),
        (of_batches(Target(1000)), "600 users at once meet the SLOs: p99 843 ms to the agent, all in 899 ms"),
        (
            of_batches(Target(25), users=60, slo="max(welcomed) < 1 ms"),
            "none of 7 plans for 60 users met the SLOs",
        ),
    ],
)
def test_the_first_sentence(summary: dict[str, Any], expected: str) -> None:
    section = summary["ladder"] or summary["batch_search"]
    assert section["text"] == expected


def test_what_is_said_beside() -> None:
    assert limit_words.lines(of_ladder(Target(10), repeats="3")) == [
        "Limits of 3 climbs: 38, 38, 38. With 75 % confidence it is from 38 to 39.",
        "Before each burst one user alone found the target idle, after at most 250 ms.",
        "The SLOs and times shown are of burst 41, 38 users.",
    ]
    assert limit_words.lines(of_ladder(Target(1000), users=20, repeats="5"))[0] == (
        "Limits of 5 climbs: 20, 20, 20, 20, 20. With 94 % confidence it is 20 or more."
    )
    assert limit_words.lines(of_ladder(Target(10, busy_rounds=2), users=10, repeats="2")) == [
        "Limits of 2 climbs: 10, 10. With 50 % confidence it is 10 or more.",
        "Before each burst one user alone found the target idle, after at most 250 ms; 2 probes before "
        "found it busy.",
        "The SLOs and times shown are of burst 5, 10 users.",
    ]
    assert limit_words.lines(of_ladder(Target(10), repeats="1"))[0] == (
        "One climb says nothing about chance: --repeats 3 gives an interval."
    )
    assert limit_words.lines(of_batches(Target(25))) == [
        "All at once it is p99 24.0 s to the agent, 19.8 times as much, and all in 24.3 s.",
        "Before each burst one user alone found the target idle, after at most 250 ms.",
        "The SLOs and times shown are of burst 3, 600 users in batches of 25 every 1 s.",
    ]


def test_a_row_is_the_worst_of_its_bursts() -> None:
    rows = limit_words.rows(of_ladder(Target(10), repeats="2"))
    assert rows[:2] == [
        ("users", "met", "agent there p50", "p99", "welcomed p99", "no welcome"),
        ("10", "1 of 1", "650 ms", "1.15 s", "1.20 s", "0"),
    ]
    assert rows[-1] == ("40", "0 of 2", "2.15 s", "4.15 s", "4.20 s", "0")
    rows = limit_words.rows(of_batches(Target(25), batch_sizes="25", batch_delays="1,2"))
    assert rows[1:] == [
        ("25", "1 s", "1 of 1", "730 ms", "1.21 s", "1.26 s", "24.3 s", "0"),
        ("25", "2 s", "1 of 1", "730 ms", "1.21 s", "1.26 s", "47.3 s", "0"),
    ]


def test_every_slo_of_every_burst() -> None:
    rows = limit_words.slo_rows(of_ladder(Target(10), repeats="1"))
    assert rows[0] == ("burst", "users", "repeat", "p99(agent_joined) <= 4s", "count(lost) == 0")
    assert rows[3] == ("5", "40", "1", "4.15 s (missed)", "0")
    rows = limit_words.slo_rows(of_batches(Target(25)))
    assert [row[:3] for row in rows[:3]] == [
        ("burst", "plan", "repeat"), ("1", "at once", "1"), ("3", "in batches of 25 every 1 s", "1"),
    ]  # fmt: skip


def write_search(run_dir: Path, target: Target, users: int, keep: int | None = None, **options: str) -> None:
    """A run folder as a search leaves it; ``keep``: of its rounds only the first so many."""
    info = RunInfo(
        run_id=RUN_ID,
        started="2026-03-01T11:59:50Z",
        settings={**OPTIONS, "slo": SLO, **options},
        users=users,
        target={"url": "ws://127.0.0.1:7880", "key": "devk…"},
    )
    run_dir.mkdir(parents=True)
    info.write(run_dir)
    done: Sequence[RoundResult] = target.play(course_of(info.run_settings()))[:keep]
    journal = Journal(run_dir, "w1", "eu")
    for result in done:
        count = result.round.users
        share = WorkerShare(worker="w1", region="eu", first=0, count=count)
        BurstInfo(
            burst=result.number, round=result.round, t0_wall_ns=T0_WALL_NS, intended=count, workers=(share,)
        ).append(run_dir)
        for one in result.records:
            journal.record(one)
        stall_ms = 5000.0 if result.void_reasons else 10.0
        lag = {"asyncio": Lag(1.0, 2.0, stall_ms)}
        journal.trailer(
            trailer("w1", "eu", burst=result.number, intended=count, recorded=count, lag=lag, start_lag=lag)
        )
    journal.close()


def made(run_dir: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


def test_a_ladder_from_disk(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    write_search(run_dir, Target(10), 160, course="ladder", repeats="2")
    assert make_report(run_dir).exit_code is ExitCode.PASS
    first = (run_dir / "summary.json").read_bytes()
    summary = made(run_dir)
    assert summary["ladder"] == of_ladder(Target(10), repeats="2")["ladder"]
    assert summary["batch_search"] is None
    assert summary["void_reasons"] == []
    # SLOs and times are of the burst at the limit alone, and not of bursts of all sizes.
    assert summary["slo"][0] == {**summary["slo"][0], "text": "p99(agent_joined) <= 4s", "value": 3950}
    assert summary["marks"]["agent_joined"]["n"] == 38
    judged = [rung for rung in summary["ladder"]["rungs"] if rung["burst"] == summary["judged_burst"]]
    assert [rung["users"] for rung in judged] == [38]
    # Of all bursts: what became of the sessions, and how true each was.
    assert summary["sessions"]["recorded"] == sum(rung["users"] for rung in summary["ladder"]["rungs"])
    assert [burst["sessions"] for burst in summary["bursts"]][:3] == [10, 20, 40]
    make_report(run_dir)
    assert (run_dir / "summary.json").read_bytes() == first


def test_the_ending_says_the_limit_first(tmp_path: Path) -> None:
    write_search(tmp_path / "run", Target(10), 160, course="ladder", repeats="1")
    make_report(tmp_path / "run")
    lines = ending(tmp_path / "run").splitlines()
    assert lines[0] == "PASS: 38 users at once meet the SLOs, 39 do not (exit code 0)"
    assert "  users     met  agent there p50     p99  welcomed p99  no welcome" in lines
    assert "     40  0 of 1           2.15 s  4.15 s        4.20 s           0" in lines
    page = (tmp_path / "run" / "summary.md").read_text()
    assert page.startswith("# PASS: 38 users at once meet the SLOs, 39 do not (exit code 0)")
    assert "| 40 | 0 of 1 | 2.15 s | 4.15 s | 4.20 s | 0 |" in page
    assert "| 5 | 40 | 1 | 4.15 s (missed) | 0 |" in page


@pytest.mark.parametrize(
    ("jobs_per_s", "users", "options", "code", "headline"),
    [
        (
            1, 160, {"course": "ladder"}, ExitCode.SLO_FAILED,
            "SLO_FAILED: not even 10 users at once meet the SLOs (exit code 10)",
        ),
        (
            25, 600, {"course": "batches"}, ExitCode.PASS,
            "PASS: 600 users in batches of 25 every 1 s meet the SLOs: p99 1.21 s to the agent, all in "
            "24.3 s (exit code 0)",
        ),
        (
            1, 60, {"course": "batches", "batch_sizes": "20", "batch_delays": "1"}, ExitCode.SLO_FAILED,
            "SLO_FAILED: none of 1 plan for 60 users met the SLOs (exit code 10)",
        ),
    ],
)  # fmt: skip
def test_exit_codes(
    tmp_path: Path, jobs_per_s: float, users: int, options: dict[str, str], code: ExitCode, headline: str
) -> None:
    given: dict[str, Any] = {name.replace("_", "-"): value for name, value in options.items()}
    write_search(tmp_path / "run", Target(jobs_per_s), users, **given)
    assert make_report(tmp_path / "run").exit_code is code
    assert ending(tmp_path / "run").splitlines()[0] == headline


def test_a_void_burst_voids_the_run_and_keeps_what_was_found(tmp_path: Path) -> None:
    write_search(tmp_path / "run", Target(10, void_at=(7,)), 160, course="ladder")
    assert make_report(tmp_path / "run").exit_code is ExitCode.VOID
    summary = made(tmp_path / "run")
    stall = "worker w1 (eu): its asyncio loop stalled for 5000 ms (--max-stall 1000)"
    assert summary["ladder"]["stopped"].startswith(f"burst 7 (30 users) was void: {stall}")
    assert summary["ladder"]["stopped"] in summary["void_reasons"]
    assert [rung["users"] for rung in summary["ladder"]["rungs"]] == [10, 20, 40]
    assert summary["ladder"]["limit"] is None


def test_a_run_that_was_killed_is_void(tmp_path: Path) -> None:
    write_search(tmp_path / "run", Target(10), 160, keep=7, course="ladder")
    assert make_report(tmp_path / "run").exit_code is ExitCode.VOID
    summary = made(tmp_path / "run")
    assert summary["void_reasons"] == ["the run ended before its search did"]
    assert ending(tmp_path / "run").startswith("VOID: ")


def test_probes_are_no_baseline_that_a_burst_is_compared_with(tmp_path: Path) -> None:
    write_search(tmp_path / "run", Target(10, dead_at=(0,)), 160, course="ladder", repeats="1")
    make_report(tmp_path / "run")
    text = " ".join(ending(tmp_path / "run").split())
    assert "Already alone" not in text
    assert "Alone" not in text
    assert "1 probe before found it busy" in text
