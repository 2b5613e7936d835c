"""A master that dies: its workers finish what they began, keep it, and nobody takes the run for a verdict."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import free_port, open_rooms

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Running

    from lk_users.local.stack import Stack

    Start = Callable[..., Running]

pytestmark = pytest.mark.real

USERS = 4


def test_a_worker_without_its_master_finishes_and_the_run_is_void(
    start: Start, stack: Stack, tmp_path: Path
) -> None:
    port, runs = str(free_port()), str(tmp_path / "runs")
    # Two of the agents come and welcome; two never do, and their users wait longer than the master lives.
    lines = tmp_path / "jobs.jsonl"
    lines.write_text('{"lk": {"fault": "none"}}\n{"lk": {"fault": "ignore"}}\n')
    master = start(
        "--master", "--expect-workers", "1", "--master-bind-host", "127.0.0.1", "--master-bind-port", port,
        "-u", str(USERS), "-r", str(USERS), "--agent-name", "welcome", "--session-timeout", "20",
        "--metadata", f"@{lines}", "--run-dir", runs,
    )  # fmt: skip
    worker = start("--worker", "--master-port", port, "--run-dir", runs, headless=False)
    master.wait_for_text("2 heard the welcome, 0 failed, 2 wait")
    master.signal(signal.SIGKILL)
    master.process.wait()
    # 20 s from T0 for the sessions, 8 s of reads for jobs that stay empty, and the clean-up.
    assert worker.process.wait(50) == 11, worker.output()
    assert "Traceback" not in worker.output()
    assert "the master is gone" in worker.output()

    (run_dir,) = (tmp_path / "runs").iterdir()
    report = subprocess.run(
        [sys.executable, "-m", "lk_users.cli", "report", str(run_dir)], capture_output=True, check=False
    )
    assert report.returncode == 11
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["verdict"], summary["exit_code"]) == ("VOID", 11)
    (reason,) = summary["void_reasons"]
    assert "its master was gone for 10 s; it finished its sessions alone" in reason
    assert summary["outcomes"] == {"never_assigned": 2, "ok": 2}
    assert (summary["sessions"]["intended"], summary["sessions"]["recorded"]) == (USERS, USERS)
    records = [json.loads(line) for line in (run_dir / "records.jsonl").read_text().splitlines()]
    # They were read and cleaned up like any others.
    assert sum(bool(record["job_id"]) for record in records) == 2
    assert open_rooms(stack, [record["room"] for record in records]) == ()
