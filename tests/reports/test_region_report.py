from __future__ import annotations

import json
import random
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from builders import (
    RUN_ID,
    marks_ns,
    never_assigned,
    queued_session,
    record,
    settings,
    trailer,
    welcomed,
    write_run,
)

from lk_users.health import Lag
from lk_users.outcome import ExitCode, Verdict
from lk_users.record import Mark
from lk_users.report import console, junit, markdown, region_words
from lk_users.report.folder import Merged, RunInfo
from lk_users.report.make import make_report
from lk_users.report.regions import median_interval, tail
from lk_users.report.summary import summarize
from lk_users.verdict import Judgement

if TYPE_CHECKING:
    from pathlib import Path

    from lk_users.health import Trailer
    from lk_users.record import Record

INFO = RunInfo(run_id=RUN_ID, started="2026-03-01T11:59:50Z", settings={"agent-name": "a"}, users=2)
PASSED = Judgement(Verdict.PASS, ExitCode.PASS, (), ())
FAILED = Judgement(Verdict.SLO_FAILED, ExitCode.SLO_FAILED, (), ())


def summary_of(
    records: list[Record], *trailers: Trailer, judgement: Judgement = PASSED, **options: str
) -> dict[str, Any]:
    merged = Merged(tuple(records), trailers, (), len(records), (), (), ())
    return summarize(INFO, settings(max(1, len(records)), **options), merged, judgement)


def of(region: str, first: int, waits_ms: list[float], **changes: Any) -> list[Record]:
    """Sessions that joined after 50 ms and all but 50 ms of whose wait was the agent's way into the room."""
    return [
        welcomed(
            first + n,
            wait,
            region=region,
            worker=f"w-{region}",
            marks_ns=marks_ns({Mark.FIRED: 1, Mark.CONNECTED: 50, Mark.WELCOMED: wait}),
            created_at_ns=1_000_000,
            started_at_ns=round((wait - 49) * 1_000_000),
            **changes,
        )
        for n, wait in enumerate(waits_ms)
    ]


def around(ms: float, n: int = 40, width: float = 20.0) -> list[float]:
    return [ms + width * (i / (n - 1) - 0.5) for i in range(n)]


# The rows


def test_each_region_has_the_figures_of_its_own_sessions_and_workers() -> None:
    records = [*of("us", 0, [100, 300]), *of("eu", 2, [500]), never_assigned(3, region="eu", worker="w-eu")]
    lag = {"asyncio": Lag(1, 2, 30), "gevent": Lag(0, 3, 10)}
    words_ = [
        trailer(
            "w-us", "us", clock_offset_ms=-3000.5, clock_uncertainty_ms=12.0, lag=lag, cpu_s=0.5, rss_mb=80
        ),
        trailer("w-eu", "eu", clock_offset_ms=7.25, clock_uncertainty_ms=40.0, start_lag=lag, cpu_s=0.25),
        trailer("w2-eu", "eu", clock_offset_ms=9.0, clock_uncertainty_ms=41.0, cpu_s=0.25, rss_mb=90),
    ]
    summary = summary_of(records, *words_)
    eu, us = summary["regions"]
    assert (eu["region"], eu["workers"], eu["sessions"], eu["silent"]) == ("eu", 2, 2, 0)
    assert eu["outcomes"] == {"never_assigned": 1, "ok": 1}
    assert eu["groups"]["lost"] == 1
    assert eu["clock_offset_ms"] == {"min": 7.25, "max": 9.0}
    assert (eu["clock_uncertainty_ms"], eu["cpu_s"], eu["cpu_ms_per_session"], eu["rss_mb"]) == (
        41,
        0.5,
        250,
        90,
    )
    assert (eu["lag_ms"], eu["start_lag_ms"]) == (None, {"p50": 1, "p95": 3, "max": 30})
    assert eu["start_error_ms"] == {"n": 2, "p50": 1, "p99": 5, "max": 5}
    assert us["clock_offset_ms"] == {"min": -3000.5, "max": -3000.5}
    assert us["lag_ms"] == {"p50": 1, "p95": 3, "max": 30}
    assert us["bottleneck"] == {"phase": "server_queue", "share": 0.75}
    assert us["marks"]["welcomed"] == {
        "n": 2, "censored": 0, "p50": 100, "p90": 300, "p99": 300, "max": 300,
    }  # fmt: skip
    for row in (eu, us):
        assert row["marks"].keys() == summary["marks"].keys()
        assert row["phases"].keys() == summary["phases"].keys()
        assert row["marks"]["welcomed"].keys() == summary["marks"]["welcomed"].keys()
        assert row["phases"]["speak"].keys() == summary["phases"]["speak"].keys()


def test_one_region_has_its_row_and_nobody_is_told() -> None:
    summary = summary_of(of("eu", 0, around(300)), trailer("w-eu"))
    (row,) = summary["regions"]
    assert (row["sessions"], row["marks"], row["phases"]) == (40, summary["marks"], summary["phases"])
    assert summary["regions_compared"] == {"wait": None, "failures": []}
    assert region_words.lines(summary) == []
    assert region_words.console_rows(summary) == []
    assert "region, the slowest" not in console.text(summary)
    assert "## By region" not in markdown.text(summary)


def test_a_worker_that_left_no_last_word_is_in_no_figure_of_health(tmp_path: Path) -> None:
    rng = random.Random(3)
    places = {"w1": ("eu", 0, 20), "w2": ("eu", 20, 20), "w3": ("us", 40, 20)}
    owner = [name for name, (_, _, count) in places.items() for _ in range(count)]
    records = [queued_session(rng, n, worker=owner[n], region=places[owner[n]][0]) for n in range(60)]
    write_run(tmp_path, [one for one in records if one.ordinal < 35], workers=places)
    for name in ("w2", "w3"):
        path = tmp_path / "workers" / f"{name}.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if '"kind":"trailer"' not in line))
    assert make_report(tmp_path).verdict is Verdict.VOID
    summary = json.loads((tmp_path / "summary.json").read_text())
    eu, us = summary["regions"]
    assert (eu["workers"], eu["silent"], eu["sessions"]) == (2, 1, 40)
    assert eu["outcomes"] == {"generator_lost": 5, "ok": 35}
    assert (eu["cpu_s"], eu["cpu_ms_per_session"]) == (2.1, 105)
    assert us["outcomes"] == {"generator_lost": 20}
    assert (us["workers"], us["silent"], us["cpu_s"], us["cpu_ms_per_session"]) == (1, 1, None, None)
    assert (us["clock_offset_ms"], us["clock_uncertainty_ms"], us["lag_ms"]) == (None, None, None)
    assert (us["start_error_ms"]["n"], us["start_error_ms"]["p99"], us["bottleneck"]) == (0, None, None)
    told = region_words.lines(summary)
    assert (
        told[0] == "The regions' waits can't be compared: too few users of too few regions came far enough."
    )
    assert told[1:] == [
        "20 of 25 generator_lost are of us, which had 20 of 60 sessions.",
        "Workers that left no last word are in no figure of lag, CPU or clocks: 1 of eu, 1 of us.",
    ]
    before = [(tmp_path / name).read_bytes() for name in ("summary.json", "summary.md", "junit.xml")]
    make_report(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in ("summary.json", "summary.md", "junit.xml")] == before


# Who waited longer


def wait_of(*records: Record, **health: Any) -> tuple[dict[str, Any], str]:
    names = sorted({one.region for one in records})
    summary = summary_of(list(records), *(trailer(f"w-{name}", name, **health) for name in names))
    return summary["regions_compared"]["wait"], region_words.lines(summary)[0]


def test_a_region_that_waited_longer_is_named_with_phase_and_length() -> None:
    wait, said = wait_of(*of("us", 0, around(1100)), *of("eu", 40, around(1900)), *of("ap", 80, around(1500)))
    assert wait == {
        "mark": "welcomed",
        "slowest": "eu",
        "fastest": "us",
        "slowest_p50_ms": 1899.744,
        "fastest_p50_ms": 1099.744,
        "difference_ms": 800.0,
        "least_ms": 109.974,
        "chance": False,
        "slower": True,
        "phase": "server_queue",
        "phase_difference_ms": 800.0,
    }
    assert said == (
        "eu waited 800 ms longer than us (welcomed p50 1.90 s against 1.10 s), most of it in the server's "
        "queue (server_queue: +800 ms)."
    )


def test_a_place_in_a_queue_is_not_taken_for_the_region() -> None:
    said = region_words.lines(summary_of([*of("us", 0, around(1100)), *of("eu", 40, around(1900))]))
    assert said[1].startswith("A queue is in order of arrival: a few ms at T0 can put a whole region last.")
    joins = [
        replace(one, marks_ns={**one.marks_ns, Mark.CONNECTED: 900_000_000}, started_at_ns=600_000_000)
        for one in of("eu", 40, around(1900))
    ]
    wait, said_first = wait_of(*of("us", 0, around(1100)), *joins)
    assert wait["phase"] != "server_queue"
    assert "queue" not in said_first


def test_no_one_phase() -> None:
    slow = [replace(one, started_at_ns=0) for one in of("eu", 40, around(1900))]
    wait, said = wait_of(*of("us", 0, around(1100)), *slow)
    assert (wait["slower"], wait["phase"], wait["phase_difference_ms"]) == (True, None, None)
    assert said.endswith("(welcomed p50 1.90 s against 1.10 s), in no one phase.")


@pytest.mark.parametrize(
    ("fast", "slow", "slower"),
    [
        (around(300), around(399), False),  # below 100 ms
        (around(300), around(400), True),
        (around(2000), around(2190), False),  # below a tenth
        (around(2000), around(2200), True),
        (around(10_000, width=20_000), around(12_000, width=20_000), False),  # chance
        (around(10_000, width=20_000), around(18_000, width=20_000), True),
        (around(300, n=5), around(900, n=5), False),  # too few to compare
        (around(300, n=6), around(900, n=6), True),
    ],
)
def test_the_threshold(fast: list[float], slow: list[float], slower: bool) -> None:
    wait, said = wait_of(*of("us", 0, fast), *of("eu", 100, slow))
    assert bool(wait and wait["slower"]) is slower
    assert ("eu waited" in said) is slower


def test_two_seconds_of_chance_are_called_that() -> None:
    wait, said = wait_of(
        *of("us", 0, around(10_000, width=20_000)), *of("eu", 40, around(12_000, width=20_000))
    )
    assert (wait["chance"], wait["slower"]) == (True, False)
    assert said == (
        "The regions waited alike: welcomed p50 9.74 s (us) to 11.7 s (eu), which chance explains."
    )


def test_what_our_own_lag_or_clocks_may_have_added_is_no_difference() -> None:
    regions = [*of("us", 0, around(300)), *of("eu", 40, around(450))]
    assert wait_of(*regions)[0]["slower"]
    late = wait_of(*regions, lag={"asyncio": Lag(0, 150, 200)})
    assert (late[0]["least_ms"], late[0]["slower"]) == (150.8, False)
    assert late[1] == "The regions waited alike: welcomed p50 300 ms (us) to 450 ms (eu)."
    unsure = wait_of(*regions, clock_uncertainty_ms=80.0)
    assert (unsure[0]["least_ms"], unsure[0]["slower"]) == (160.0, False)


def test_a_median_at_the_deadline_is_compared_by_what_came_before() -> None:
    lost = [
        never_assigned(n, region="ap", marks_ns=marks_ns({Mark.FIRED: 1, Mark.CONNECTED: 700}))
        for n in range(40, 80)
    ]
    wait, said = wait_of(*of("us", 0, around(300)), *lost)
    assert (wait["mark"], wait["difference_ms"], wait["phase"]) == ("connected", 650, None)
    assert said.startswith("ap waited 650 ms longer than us (user in the room p50 700 ms against 50 ms)")


@pytest.mark.parametrize(
    ("n", "low", "high"),
    [(6, 0, 5), (7, 0, 6), (9, 1, 7), (20, 5, 14), (100, 39, 60)],
)
def test_ranks_of_the_interval(n: int, low: int, high: int) -> None:
    assert median_interval(range(n)) == (low, high)


# Whose the failures are


def failing(region: str, first: int, ok: int, failed: int, outcome: str = "media_failed") -> list[Record]:
    good = of(region, first, around(300, n=max(ok, 2))[:ok])
    return good + [
        record(first + ok + n, region=region, worker=f"w-{region}", findings={outcome: "no path"})
        for n in range(failed)
    ]


def failures_of(*records: Record) -> list[str]:
    return region_words._failure_lines(summary_of(list(records)))


def test_failures_of_one_region_are_said_to_be() -> None:
    records = [*failing("us", 0, 100, 0), *failing("ap", 100, 60, 40)]
    assert failures_of(*records) == ["All 40 media_failed are of ap, which had 100 of 200 sessions."]
    one_more = [*failing("us", 0, 99, 1), *failing("ap", 100, 60, 40)]
    assert failures_of(*one_more) == ["40 of 41 media_failed are of ap, which had 100 of 200 sessions."]


def test_failures_that_chance_puts_there_are_not() -> None:
    assert failures_of(*failing("us", 0, 100, 0), *failing("ap", 100, 97, 3)) == []
    assert failures_of(*failing("us", 0, 80, 20), *failing("ap", 100, 75, 25)) == []
    assert failures_of(*failing("us", 0, 0, 50), *failing("ap", 50, 0, 50)) == []


def test_less_than_half_of_them_is_no_concentration() -> None:
    rest = [one for n in range(4) for one in failing(f"r{n}", 100 * n, 20, 5)]
    assert failures_of(*failing("ap", 900, 5, 19), *rest) == []
    assert len(failures_of(*failing("ap", 900, 5, 20), *rest)) == 1


@pytest.mark.parametrize(
    ("least", "drawn", "marked", "total", "probability"),
    [
        (2, 2, 2, 4, Fraction(1, 6)),
        (1, 2, 2, 4, Fraction(5, 6)),
        (0, 2, 2, 4, Fraction(1)),
        (0, 3, 2, 4, Fraction(1)),
        (3, 5, 5, 5, Fraction(1)),
        (10, 10, 10, 20, Fraction(1, 184_756)),
    ],
)
def test_tail(least: int, drawn: int, marked: int, total: int, probability: Fraction) -> None:
    assert tail(least, drawn, marked, total) == probability


# The files


def three(judgement: Judgement = FAILED) -> dict[str, Any]:
    records = [*of("us", 0, around(1100)), *of("eu", 40, around(1900)), *failing("ap", 80, 20, 20)]
    words_ = [trailer(f"w-{name}", name, cpu_s=0.4, clock_offset_ms=-4000) for name in ("us", "eu", "ap")]
    return summary_of(records, *words_, judgement=judgement)


def test_console_shows_the_slowest_first() -> None:
    lines = console.text(three()).splitlines()
    at = lines.index("By region, the slowest first")
    assert lines[at + 1].startswith("  - ")
    table = [line.split("  ") for line in lines[at + 1 :] if line.startswith("  ") and "  - " not in line]
    names = [line.split()[0] for line in lines[at:] if line.startswith(("  region", "  ap", "  eu", "  us"))]
    assert names == ["region", "ap", "eu", "us"] or names == ["region", "eu", "us", "ap"], table
    assert "  - All 20 media_failed are of ap, which had 40 of 120 sessions." in lines
    assert max(map(len, lines)) <= console.WIDTH


def test_console_counts_the_regions_that_do_not_fit() -> None:
    text = console.text(summary_of([one for n in range(7) for one in of(f"r{n}", 40 * n, around(300 + n))]))
    assert "  and 3 more, in summary.md" in text.splitlines()


def test_markdown_sets_regions_side_by_side() -> None:
    text = markdown.text(three())
    section = text.split("## By region\n\n")[1].split("\n\n## ")[0].splitlines()
    rows = {line.split(" | ")[0].strip("| "): line for line in section if line.startswith("|")}
    assert section[0].startswith("- eu waited 800 ms longer than us ")
    assert "|  | ap | eu | us |" in section
    assert rows["sessions"] == "| sessions | 40 | 40 | 40 |"
    assert rows["ok"] == "| ok | 20 | 40 | 40 |"
    assert rows["media_failed"] == "| media_failed | 20 | 0 | 0 |"
    assert rows["welcomed p50, p99 (never)"].endswith("| 1.90 s, 1.91 s (0) | 1.10 s, 1.11 s (0) |")
    assert rows["clock ±"] == "| clock ± | 0.4 ms | 0.4 ms | 0.4 ms |"
    assert rows["clock offset, least to most"].endswith("| -4.000 s to -4.000 s |")
    assert rows["CPU a session"] == "| CPU a session | 10 ms | 10 ms | 10 ms |"


def test_junit_says_how_an_outcome_is_spread() -> None:
    root = ET.fromstring(junit.text(three()))
    (case,) = root.findall(".//testcase[@name='media_failed']")
    assert (case.findtext("failure") or "").endswith("By region: ap 20 of 40, eu 0 of 40, us 0 of 40.")
    alone = ET.fromstring(junit.text(summary_of(failing("ap", 0, 2, 2), judgement=FAILED)))
    assert "By region" not in ET.tostring(alone, encoding="unicode")


def test_support_is_told_only_what_makes_a_difference() -> None:
    assert region_words.telling(three())[2:] == [
        "All 20 media_failed are of ap, which had 40 of 120 sessions."
    ]
    heard = [*of("us", 0, around(300)), *of("eu", 40, around(310))]
    alike = summary_of(heard, trailer("w-us", "us"), trailer("w-eu", "eu"))
    assert region_words.lines(alike) == ["The regions waited alike: welcomed p50 300 ms (us) to 310 ms (eu)."]
    assert region_words.telling(alike) == []
