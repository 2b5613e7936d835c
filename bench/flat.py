"""Bursts in a row over several workers: is each as true as the first, and does nothing pile up?

    python bench/flat.py [--users 600] [--workers 4] [--bursts 5] [--start-error 25]

600 over four workers, five times: 3,000 records. For the largest single burst: ``--users 2000 --bursts 1
--start-error 50``. Prints what every worker holds two seconds after its last word on each burst but the last:
handles, threads and resident memory.

Handles and threads must be the same after every burst but the first: the sockets of a burst's users stay
bound until the burst after the next begins, so that no port is used again while the server may remember it.
Memory may grow by 15 % from the second burst to the last: the lag meters keep an hour of samples (28 kB a
second), and the allocator gives pages back as it likes. Ends with 1 where any of that, p99 of the start error
or the number of records is not as it should be.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
from fleet import Ended, Fleet
from links import Links
from regions import p99

from lk_users.local.stack import Stack

if TYPE_CHECKING:
    from fleet import Part

MEMORY: Final = 1.15
SETTLE_S: Final = 2.0
REST_S: Final = 5.0
POLL_S: Final = 0.1
TAIL_BYTES: Final = 32_768


@dataclass(frozen=True)
class Held:
    """What one process holds."""

    handles: int
    threads: int
    rss_mb: float

    @classmethod
    def of(cls, pid: int) -> Held:
        process = psutil.Process(pid)
        with process.oneshot():
            return cls(process.num_fds(), process.num_threads(), process.memory_info().rss / (1 << 20))


def _has_last_word(part: Part, burst: int) -> bool:
    """On that burst; of its journal only the end is read, since this is asked all the time."""
    for path in part.node.runs.glob("*/workers/*.jsonl"):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
        if last.startswith(b'{"kind":"trailer"') and b'"burst": %d,' % burst in last:
            return True
    return False


def _wait_for_last_word(part: Part, burst: int) -> None:
    while not _has_last_word(part, burst):
        time.sleep(POLL_S)


def run(
    users: int, workers: int, bursts: int, stack: Stack, folder: Path, links: Links, *options: str
) -> tuple[Ended, list[list[Held]]]:
    """The run, and what each worker held after each burst but the last, with which it ends."""
    after: list[list[Held]] = []
    with Fleet(folder, stack.env(), links) as fleet:
        for _ in range(workers):
            fleet.add("here")
        fleet.lead(users, "--bursts", str(bursts), "--burst-interval", f"{REST_S:g}", *options)
        for number in range(1, bursts):
            for part in fleet.parts:
                _wait_for_last_word(part, number)
            time.sleep(SETTLE_S)
            after.append([Held.of(part.node.process.pid) for part in fleet.parts])
        ended = fleet.finish(timeout_s=300.0)
        ended.text += "".join(f"\n--- {part.region}\n{part.node.text()}" for part in fleet.parts)
        return ended.read(), after


def main() -> int:
    parser = argparse.ArgumentParser(description="bursts in a row: true, and flat")
    parser.add_argument("--users", type=int, default=600)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--bursts", type=int, default=5)
    parser.add_argument("--start-error", type=float, default=25.0, help="ms, p99")
    parser.add_argument("options", nargs="*", help="after --: options as Locust takes them")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(say=lambda text: None) as stack,
        Links() as links,
    ):
        ended, after = run(
            arguments.users, arguments.workers, arguments.bursts, stack, Path(folder) / "run", links,
            *arguments.options,
        )  # fmt: skip
    good = True
    for number, held in enumerate([*after, []], 1):
        mine = [record for record in ended.records if record["burst"] == number]
        error_ms = p99([r["marks_ns"]["fired"] / 1e6 for r in mine if "fired" in r["marks_ns"]] or [0.0])
        good &= len(mine) == arguments.users and error_ms <= arguments.start_error
        heard = sum("welcomed" in record["marks_ns"] for record in mine)
        print(f"burst {number}: {len(mine)} records, {heard} welcomed, start error p99 {error_ms:.1f} ms")
        for worker, one in enumerate(held):
            print(f"    worker {worker}: {one.handles} handles, {one.threads} threads, {one.rss_mb:.0f} MB")
    for worker in range(arguments.workers):
        later = [held[worker] for held in after[1:]]
        if later:
            good &= len({(one.handles, one.threads) for one in later}) == 1
            good &= later[-1].rss_mb <= MEMORY * later[0].rss_mb
    print(f"exit {ended.code}, {ended.summary['outcomes']}", *ended.reasons, sep="\n    ")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
