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

from lk_users.compare.rules import compare
from lk_users.compare.sides import read_side
from lk_users.compare.words import ALIKE, SLOWER, sentence, verdict
from lk_users.local.stack import AGENT_NAME, Stack
from lk_users.record import Phase

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


def judge(folder: Path) -> bool:
    """Prints each answer; is it right in at least 9 of 10 equal pairs and in all slowed ones?"""
    alike: list[bool] = []
    slower: list[bool] = []
    for slow in sorted(folder.glob("*-slow")):
        runs = {kind: next(folder.glob(f"{slow.name.split('-')[0]}-{kind}/*/")) for kind in KINDS}
        first, again, late = (read_side(name, [run]) for name, run in zip("ABC", runs.values(), strict=True))
        for other, right, told in ((again, ALIKE, alike), (late, SLOWER, slower)):
            differences = compare(first, other)
            moved = {found.name for found in differences if found.kind == "phase" and found.differs}
            told.append(verdict(differences) == right and (right == ALIKE or Phase.ACCEPT_TO_JOIN in moved))
            print(f"{slow.name.split('-')[0]}: {sentence(first, other, differences)}")
    print(f"\n{sum(alike)} of {len(alike)} equal pairs within noise")
    print(f"{sum(slower)} of {len(slower)} agents slowed by {DELAY_MS} ms found, in accept_to_join")
    return bool(alike) and 10 * sum(alike) >= 9 * len(alike) and all(slower)


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
    return 0 if judge(found.folder) else 1


if __name__ == "__main__":
    sys.exit(main())
