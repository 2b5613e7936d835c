"""A search for a limit against a real server and an agent whose limit is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lk_users.local.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Finished

    Burst = Callable[..., Finished]

JOBS_PER_S = 10.0


@pytest.fixture(scope="module")
def paced() -> Iterator[Stack]:
    """Its agent starts ten jobs a second."""
    with Stack(jobs_per_s=JOBS_PER_S, say=lambda line: None) as up:
        yield up


def test_a_ladder_finds_the_limit_of_the_paced_agent(burst: Burst, paced: Stack) -> None:
    # The n-th of a burst waits (n - 1) * 100 ms longer than one alone, who waits some 250 ms: 9 within 1.1 s.
    done = burst(
        16, "--course", "ladder", "--ladder-sizes", "4,8,16", "--repeats", "1", "--dispatch", "room",
        "--slo", "p99(agent_joined) <= 1100 ms", env=paced.env(),
    )  # fmt: skip
    ladder = done.summary["ladder"]
    assert done.code == 0, done.stdout + done.stderr
    assert 7 <= ladder["limit"] <= 10
    assert ladder["high"] in (ladder["limit"] + 1, None)
    assert [rung["users"] for rung in ladder["rungs"]][:3] == [4, 8, 16]
    assert [rung["ok"] for rung in ladder["rungs"]][:3] == [True, True, False]
    # One probe before each burst, and each record is of one of them.
    assert len(ladder["probes"]) >= len(ladder["rungs"])
    assert len(done.records) == sum(rung["users"] for rung in ladder["rungs"]) + len(ladder["probes"])
    for rung in ladder["rungs"]:
        mine = [record for record in done.records if record["burst"] == rung["burst"]]
        assert len(mine) == rung["users"] == rung["agent_joined_ms"]["n"]
    assert f"PASS: {ladder['limit']} users at once meet the SLOs" in done.stdout

    # From disk it is the same.
    command = [sys.executable, "-m", "lk_users.cli", "report", str(done.run_dir)]
    again = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert again.returncode == 0, again.stderr
    assert json.loads((done.run_dir / "summary.json").read_text()) == done.summary


def test_batches_find_a_plan_and_none_where_there_is_none(burst: Burst, paced: Stack) -> None:
    # 12 at once: the last after 1.1 s more. Fours every 0.4 s wait for their batch alone: 0.3 s more.
    options = ("--course", "batches", "--batch-sizes", "4", "--dispatch", "room")
    done = burst(12, *options, "--slo", "p99(agent_joined) <= 900 ms", env=paced.env())
    search = done.summary["batch_search"]
    assert done.code == 0, done.stdout + done.stderr
    assert not search["at_once"]["ok"]
    assert search["plan"]["batch_size"] == 4
    assert search["plan"]["agent_joined_ms"]["p99"] <= 900
    assert search["plan"]["all_in_ms"] >= search["plan"]["planned_ms"]
    assert "PASS: 12 users in batches of 4 every" in done.stdout

    done = burst(4, *options, "--batch-delays", "0", "--slo", "p99(agent_joined) <= 10 ms", env=paced.env())
    assert done.code == 10, done.stdout + done.stderr
    assert done.summary["batch_search"]["plan"] is None
    assert "SLO_FAILED: none of 1 plan for 4 users met the SLOs" in done.stdout
