"""Real master and workers whose clocks are off, or are set while they run: by libfaketime, in the process."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from test_regions import fleet  # noqa: F401

if TYPE_CHECKING:
    from conftest import Running
    from test_regions import Fleet

pytestmark = pytest.mark.real

# The subject is the clocks, not how busy this machine is.
PATIENT = (
    "--max-stall",
    "60000",
    "--max-start-error",
    "60000",
    "--welcome-timeout",
    "60",
    "--session-timeout",
    "60",
)
SLOW = (*PATIENT, "--metadata", '{"lk": {"fault": "slow_welcome", "delay_ms": 6000}}')


def library() -> str:
    """Fails where it is missing."""
    for found in sorted(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1")):
        return str(found)
    pytest.fail("libfaketime is missing: apt-get install faketime")


def off_by(seconds: str) -> dict[str, str]:
    """A wall clock that is off; durations stay true."""
    return {"LD_PRELOAD": library(), "FAKETIME": seconds, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def settable(path: Path, *, monotonic: bool = False) -> dict[str, str]:
    """Clocks that are off by what stands in the file; ``monotonic``: all of them, else the wall clock."""
    path.write_text("+0\n")
    environ = {
        "LD_PRELOAD": library(),
        "FAKETIME_TIMESTAMP_FILE": str(path),
        # Read again each second, not at each look at the clock.
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_RESET": "1",
    }
    return environ if monotonic else {**environ, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def set_in_mid_run(master: Running, path: Path, seconds: str) -> None:
    master.wait_for_text("0 heard the welcome, 0 failed")
    # Once media is up: OpenSSL's DTLS repeats by the wall clock, so that one that is set back before costs
    # sessions their media.
    time.sleep(3)
    path.write_text(f"{seconds}\n")


def void_lines(summary: dict[str, object]) -> list[str]:
    reasons = summary["void_reasons"]
    assert isinstance(reasons, list)
    return [re.sub(r"worker \S+ \(", "worker X (", str(reason)) for reason in reasons]


def test_wall_clocks_that_are_off_by_seconds_change_nothing(fleet: Fleet) -> None:  # noqa: F811
    fleet.worker("eu", off_by("+3s"))
    fleet.worker("us", off_by("-7s"))
    fleet.worker("ap")
    done, codes = fleet.finish(fleet.master(9, 3, *PATIENT))
    assert (done.code, done.outcomes, codes) == (0, {"ok": 9}, [0, 0, 0]), done.stdout + done.stderr
    workers = {worker["region"]: worker for worker in done.summary["workers"]}
    for worker in workers.values():
        assert (worker["clock_steps"], worker["wall_step_ms"]) == (0, 0.0)
        # One kernel's monotonic clock for all: whatever is not 0 is error, and within what is stated.
        assert abs(worker["clock_offset_ms"]) <= worker["clock_uncertainty_ms"] < 250
    # The clock of display is the master's in every record.
    assert len({record["intended_wall_ns"] for record in done.records}) == 1


@pytest.mark.parametrize(("by", "told"), [("+3", "+3.0 s"), ("-7", "-7.0 s")])
def test_a_worker_s_wall_clock_that_is_set_voids_the_run(
    fleet: Fleet,  # noqa: F811
    tmp_path: Path,
    by: str,
    told: str,
) -> None:
    path = tmp_path / "clock"
    fleet.worker("eu", settable(path))
    fleet.worker("us")
    master = fleet.master(8, 2, *SLOW)
    set_in_mid_run(master, path, by)
    done, codes = fleet.finish(master)
    assert (done.code, codes) == (11, [0, 0]), done.stdout + done.stderr
    assert void_lines(done.summary) == [
        f"worker X (eu): its wall clock was set by {told} during the run; times of day are wrong"
    ]
    assert sum(done.outcomes.values()) == 8


def test_the_master_s_wall_clock_that_is_set_voids_the_run(fleet: Fleet, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "clock"
    fleet.worker("eu")
    master = fleet.master(4, 1, *SLOW, env_extra=settable(path))
    set_in_mid_run(master, path, "+3")
    done, codes = fleet.finish(master)
    assert (done.code, codes) == (11, [0]), done.stdout + done.stderr
    assert void_lines(done.summary) == [
        "master (local): its wall clock was set by +3.0 s during the run; times of day are wrong"
    ]


def test_a_worker_s_monotonic_clock_that_moves_voids_the_run(fleet: Fleet, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "clock"
    fleet.worker("eu", settable(path, monotonic=True))
    fleet.worker("us")
    master = fleet.master(8, 2, *SLOW)
    set_in_mid_run(master, path, "+3")
    done, codes = fleet.finish(master)
    assert (done.code, codes) == (11, [0, 0]), done.stdout + done.stderr
    assert (
        "worker X (eu): its clock moved by 3.0 s against the master's during the run; "
        "its T0 and start errors are not to be trusted"
    ) in void_lines(done.summary)
    (moved,) = (worker for worker in done.summary["workers"] if worker["region"] == "eu")
    assert moved["clock_steps"] == 1
    assert 2900 < moved["clock_moved_ms"] <= 3100
    assert not [line for line in void_lines(done.summary) if "(us)" in line]
