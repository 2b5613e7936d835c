"""``lk-users calibrate``, small: measured, kept with its machine, and used by size, preflight and a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from conftest import FOREIGN

from lk_users.capacity import FILE
from lk_users.local.server import find_or_build
from lk_users.machine import Identity
from lk_users.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from conftest import Finished

    from lk_users.local.stack import Stack

pytestmark = pytest.mark.real


def lk_users(environ: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    done = subprocess.run(
        [sys.executable, "-m", "lk_users.cli", *arguments], env={**clean, **environ}, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def rewrite(kept: Path, **changes: Any) -> None:
    """As if another capacity, or another machine's, had been measured."""
    data = json.loads(kept.read_text())
    for name, value in changes.items():
        part = "capacity" if name in data["capacity"] else "machine"
        data[part][name] = value
    kept.write_text(json.dumps(data))


def test_a_small_calibration_and_who_uses_it(
    stack: Stack, burst: Callable[..., Finished], tmp_path: Path
) -> None:
    binary = str(find_or_build(None, lambda line: None))
    place = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    kept = tmp_path / "cache" / "lk-users" / FILE
    code, out, err = lk_users({**place, "LK_SERVER_BINARY": binary}, "calibrate", "--users", "50")
    assert code == 0, out + err
    header, row, *said = out.splitlines()
    assert header.split()[:3] == ["users", "start", "error"]
    assert row.split()[0] == "50"
    assert "One process on this machine carries at least 50 users at one instant." in " ".join(said)
    assert said[-1] == f"Kept in {kept}"
    data = json.loads(kept.read_text())
    assert data["machine"] == {
        "cpu": Identity.here().cpu, "cores": Identity.here().cores, "kernel": os.uname().release,
        "python": sys.version.split()[0], "version": VERSION,
    }  # fmt: skip
    capacity = data["capacity"]
    assert (capacity["users"], capacity["limited_by"]) == (50, "asked")
    # A user costs 10 ms of CPU, and the process its start.
    assert 2 < capacity["cpu_ms"] < 100
    assert 0 < capacity["start_error_ms"] <= 25
    assert 0 < capacity["stall_ms"] <= 500

    rewrite(kept, users=4, limited_by="generator")
    _, sized, _ = lk_users(place, "size", "-u", "8")
    assert "a process of it carries 4 users" in sized
    run = ("-u", "5", "--agent-name", "welcome", "--run-dir", str(tmp_path / "runs"))
    code, told, _ = lk_users({**place, **stack.env()}, "preflight", *run)
    assert code == 0
    assert "each with 5 users (calibrated to 4): its loop may lag" in told
    done = burst(5, "--baseline", "0", env={**stack.env(), **place})
    assert (done.code, done.outcomes) == (0, {"ok": 5}), "a warning is no verdict"
    assert "5 users in one process, and this machine was calibrated to 4" in done.stderr

    rewrite(kept, kernel="0.0.1")
    _, sized, _ = lk_users(place, "size", "-u", "8")
    assert "calibration ignored: it is of kernel '0.0.1'" in sized
    done = burst(5, "--baseline", "0", env={**stack.env(), **place})
    assert done.code == 0
    assert "calibrated" not in done.stderr
    assert "calibration ignored: it is of kernel '0.0.1'" in done.stderr


def test_bad_input(tmp_path: Path) -> None:
    place = {"XDG_CACHE_HOME": str(tmp_path)}
    code, out, err = lk_users(place, "calibrate", "--users", "few")
    assert (code, out, err) == (12, "", "lk-users: --users few: must be a whole number of at least 1\n")
    missing = str(tmp_path / "no-server")
    code, out, err = lk_users(place, "calibrate", "--users", "5", "--server-binary", missing)
    assert (code, out, missing in err) == (12, "", True), err
