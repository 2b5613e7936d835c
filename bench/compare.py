"""Does `lk-users compare` tell a slower agent from chance? Pairs of small bursts against one embedded stack.

    python bench/compare.py make FOLDER [--pairs 10] [--users 50] [--dispatch room]
    python bench/compare.py judge FOLDER

A pair is three bursts, one right after the other: two of the same setting, and one whose agent joins 300 ms
late on request. ``make`` adds pairs to what FOLDER has, so that it can be done in pieces; ``judge`` compares
the first of each pair with the second ("within noise" is right) and with the third ("slower" is right).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from lk_users.local.stack import AGENT_NAME, Stack

LOCUSTFILE: Final = Path(__file__).parent.parent / "locustfiles" / "burst.py"
DELAY_MS: Final = 300
SLOW: Final = ("--metadata", json.dumps({"lk": {"fault": "slow_join", "delay_ms": DELAY_MS}}))
KINDS: Final = {"first": (), "again": (), "slow": SLOW}


def make(folder: Path, pairs: int, users: int, dispatch: str) -> None:
    done = len(list(folder.glob("*-slow")))
    with Stack() as up:
        for number in range(done + 1, done + pairs + 1):
            for kind, options in KINDS.items():
                code = burst(up, folder / f"{number:02}-{kind}", users, "--dispatch", dispatch, *options)
                print(f"pair {number}, {kind}: exit code {code}", flush=True)


def burst(up: Stack, folder: Path, users: int, *options: str) -> int:
    command = [
        sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary",
        "-u", str(users), "-r", str(users), "--agent-name", AGENT_NAME, "--run-dir", str(folder), *options,
    ]  # fmt: skip
    environ = {**os.environ, **up.env()}
    quiet = subprocess.DEVNULL
    return subprocess.run(command, env=environ, stdout=quiet, stderr=quiet, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description="pairs of bursts for lk-users compare")
    parser.add_argument("what", choices=("make", "judge"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--dispatch", default="room")
    found = parser.parse_args()
    if found.what == "make":
        make(found.folder, found.pairs, found.users, found.dispatch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
