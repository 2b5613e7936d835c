"""One Locust run against the embedded stack, and what it left."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lk_users.clock import NS_PER_S
from lk_users.local import stack
from lk_users.record import Mark, Record

LOCUSTFILE: Final = Path(__file__).parent.parent / "locustfiles" / "burst.py"


@dataclass(frozen=True)
class Run:
    """``summary``, ``records`` and ``text``: its summary.json, records.jsonl and summary.md; ``code``: its
    exit code; ``wall_s``: how long it took, with the stack's start."""

    summary: dict[str, Any]
    records: list[Record]
    text: str
    code: int
    wall_s: float

    @property
    def last_welcome_s(self) -> float:
        """From the session's T0; 0 if nobody heard one."""
        return max((record.marks_ns.get(Mark.WELCOMED, 0) for record in self.records), default=0) / NS_PER_S


def run(users: int, *options: str, udp_port: bool = False, locustfile: Path = LOCUSTFILE) -> Run:
    """A burst of so many. ``options``: as Locust takes them. KEEP=DIR in the environment keeps its folder
    there."""
    with tempfile.TemporaryDirectory() as passing:
        kept = os.environ.get("KEEP")
        if kept:
            Path(kept).mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(dir=kept) if kept else passing
        command = [
            sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--only-summary",
            "--baseline", "0",
            "-u", str(users), "-r", str(users), "--agent-name", stack.AGENT_NAME, "--run-dir", folder,
            *options,
        ]  # fmt: skip
        quiet = ["sh", "-c", f"exec {shlex.join(command)} >/dev/null 2>&1"]
        started_s = time.monotonic()
        code = stack.run(quiet, udp_port=udp_port, say=lambda line: None)
        wall_s = time.monotonic() - started_s
        (left,) = (found.parent for found in Path(folder).glob("*/summary.json"))
        return Run(
            summary=json.loads((left / "summary.json").read_text()),
            records=[Record.from_json(line) for line in (left / "records.jsonl").read_text().splitlines()],
            text=(left / "summary.md").read_text(),
            code=code,
            wall_s=wall_s,
        )
