"""``lk-users cleanup``: the rooms of a run that died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import open_rooms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from conftest import Running

    from lk_users.local.stack import Stack

pytestmark = pytest.mark.real


def cleanup(run_dir: Path, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lk_users.cli", "cleanup", str(run_dir)]
    return subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_rooms_of_a_killed_run_are_deleted(start: Callable[..., Running], stack: Stack) -> None:
    waiting = ("--agent-name", "welcome", "--metadata", '{"lk": {"fault": "ignore"}}')
    running = start("-u", "4", "-r", "4", *waiting)
    running.wait_for_text("4 wait")
    running.signal(signal.SIGKILL)
    running.process.wait()
    (run_dir,) = running.runs.iterdir()

    rooms = [f"lk-{run_dir.name}-b1-{ordinal}" for ordinal in range(4)]
    assert sorted(open_rooms(stack, rooms)) == rooms

    elsewhere = cleanup(run_dir, {**stack.env(), "LIVEKIT_URL": "ws://127.0.0.1:1"})
    assert elsewhere.returncode == 12
    (line,) = elsewhere.stderr.splitlines()
    against = f"that run was against {stack.server.url}, but LIVEKIT_URL is ws://127.0.0.1:1"
    assert line == f"lk-users: {run_dir}: {against}"
    assert sorted(open_rooms(stack, rooms)) == rooms

    first, second = cleanup(run_dir, stack.env()), cleanup(run_dir, stack.env())
    assert (first.returncode, first.stdout) == (0, "4 rooms of the run, 4 still open and now deleted\n")
    assert open_rooms(stack, rooms) == ()
    assert (second.returncode, second.stdout) == (0, "4 rooms of the run, 0 still open and now deleted\n")
