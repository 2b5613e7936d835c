"""Locust master and workers as processes of their own, each worker with a region."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from conftest import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Finished, Running

pytestmark = pytest.mark.real


class Fleet:
    """A master and its workers."""

    def __init__(self, start: Callable[..., Running], runs: Path) -> None:
        self._start = start
        self._runs = runs
        self._shared = ("--run-dir", str(runs))
        self._port = str(free_port())
        self.workers: list[Running] = []

    def worker(self, region: str, env_extra: dict[str, str] | None = None) -> Running:
        options = ("--worker", "--master-host", "127.0.0.1", "--master-port", self._port)
        running = self._start(
            *options, "--region", region, *self._shared, headless=False, env_extra=env_extra or {}
        )
        self.workers.append(running)
        return running

    def master(
        self, users: int, workers: int, *options: str, env_extra: dict[str, str] | None = None
    ) -> Running:
        binding = ("--master-bind-host", "127.0.0.1", "--master-bind-port", self._port)
        sized = ("-u", str(users), "-r", str(users), "--expect-workers", str(workers))
        running = self._start(
            "--master",
            *binding,
            *sized,
            "--agent-name",
            "welcome",
            *self._shared,
            *options,
            env_extra=env_extra,
        )
        running.runs = self._runs
        return running

    def finish(self, master: Running, timeout_s: float = 90.0) -> tuple[Finished, list[int]]:
        """The master's end, and the exit codes of the workers, in their order."""
        done = master.finish(timeout_s)
        return done, [worker.finish(30).code for worker in self.workers]


@pytest.fixture
def fleet(start: Callable[..., Running], tmp_path: Path) -> Fleet:
    return Fleet(start, tmp_path / "shared")


def regions(done: Finished) -> Counter[str]:
    return Counter(record["region"] for record in done.records)


def test_each_region_gets_its_users(fleet: Fleet) -> None:
    for region in ("us-east", "us-east", "eu", "ap"):
        fleet.worker(region)
    master = fleet.master(24, 4, "--region-users", "us-east=12,eu=9,ap=3")
    done, codes = fleet.finish(master)
    assert (done.code, done.outcomes, codes) == (0, {"ok": 24}, [0, 0, 0, 0]), done.stdout + done.stderr
    assert regions(done) == {"us-east": 12, "eu": 9, "ap": 3}
    assert sorted(worker["sessions"] for worker in done.summary["workers"]) == [3, 6, 6, 9]
    assert [record["ordinal"] for record in done.records] == list(range(24))
    rows = done.summary["regions"]
    assert [(row["region"], row["workers"], row["sessions"], row["outcomes"]) for row in rows] == [
        ("ap", 1, 3, {"ok": 3}),
        ("eu", 1, 9, {"ok": 9}),
        ("us-east", 2, 12, {"ok": 12}),
    ]
    for row in rows:
        assert row["marks"]["first_audio"]["n"] == row["start_error_ms"]["n"] == row["sessions"]
        assert (row["silent"], row["bottleneck"] is None, row["lag_ms"] is None) == (0, False, False)
        assert 0 < row["clock_uncertainty_ms"] < 50
    # One clock for all of them here, so that the offset is none.
    assert all(abs(row["clock_offset_ms"][end]) < 50 for row in rows for end in ("min", "max"))
    assert "By region, the slowest first" in done.stdout


def test_a_region_without_a_worker_refuses_the_run(fleet: Fleet) -> None:
    fleet.worker("eu")
    done, _ = fleet.finish(fleet.master(4, 1, "--region-users", "eu=3,ap=1"))
    assert done.code == 12
    assert "--region-users ap=1: no worker has that region; there are: eu" in done.stderr
    assert done.run_dirs == []


def test_a_lost_worker_has_its_users_made_nowhere_else(fleet: Fleet) -> None:
    """Locust by itself would make them again on the other worker where it is asked to rebalance."""
    fleet.worker("eu")
    lost = fleet.worker("us")
    master = fleet.master(
        20,
        2,
        "--enable-rebalancing",
        "--metadata",
        '{"lk": {"fault": "slow_welcome", "delay_ms": 6000}}',
        "--watch",
        "6",
    )
    master.wait_for_text("users are ready: T0 of burst 1")
    os.kill(lost.process.pid, signal.SIGKILL)
    done, codes = fleet.finish(master)
    assert (done.code, codes[0]) == (11, 0)
    assert {r["region"] for r in done.records if "generator_lost" in r["findings"]} == {"us"}
    assert done.outcomes == {"generator_lost": 10, "ok": 10}
    assert regions(done) == {"eu": 10, "us": 10}
    eu, us = done.summary["regions"]
    assert (eu["silent"], us["silent"], us["cpu_s"], us["clock_offset_ms"]) == (0, 1, None, None)
    assert "All 10 generator_lost are of us, which had 10 of 20 sessions." in done.stdout
    pattern = r"worker \S+ \(us\) was lost: no heartbeat for 10 s"
    assert [reason for reason in done.summary["void_reasons"] if re.fullmatch(pattern, reason)]
    assert re.findall(r"\((\d+) total users\)", done.stderr) == ["20", "10"]


def test_a_worker_that_joins_late_gets_no_users(fleet: Fleet) -> None:
    fleet.worker("eu")
    master = fleet.master(
        10, 1, "--metadata", '{"lk": {"fault": "slow_welcome", "delay_ms": 6000}}', "--watch", "4"
    )
    master.wait_for_text("users are ready: T0 of burst 1")
    fleet.worker("us")
    master.wait_for_text("(us) joined in mid-run: it takes part from the next run on")
    done, codes = fleet.finish(master)
    assert (done.code, done.outcomes, codes) == (0, {"ok": 10}, [0, 0]), done.stdout + done.stderr
    assert regions(done) == {"eu": 10}


def test_another_version_is_refused_and_the_run_goes_on_without_it(fleet: Fleet, tmp_path: Path) -> None:
    # The package as it is, but for its version.
    shadow = tmp_path / "other"
    shadow.mkdir()
    (shadow / "sitecustomize.py").write_text("import lk_users.version\nlk_users.version.VERSION = '0.0.1'\n")
    master = fleet.master(6, 1)
    other = fleet.worker("eu", {"PYTHONPATH": str(shadow)})
    line = "runs lk-users 0.0.1, the master"
    master.wait_for_text(line)
    assert other.process.wait(20) == 12
    assert re.search(
        r"^lk-users: worker \S+ runs lk-users 0\.0\.1, the master \S+: use one version$",
        other.output(),
        re.MULTILINE,
    )
    fleet.worker("us")
    done, codes = fleet.finish(master)
    assert (done.code, done.outcomes, codes) == (0, {"ok": 6}, [12, 0]), done.stdout + done.stderr
    assert regions(done) == {"us": 6}
