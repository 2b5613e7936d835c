"""One T0 over regions that are far apart and whose wall clocks are wrong: how true is it, seen from outside?

    python bench/regions.py [--users 600] [--runs 1] [--faketime]

Master and two workers in each of three regions, each region a network namespace. A worker reaches the master
over a TCP proxy (20, 80, 200 ms round trip, 10 % jitter); API and media go straight to the server. Wall
clocks: right, 3 s ahead, 7 s behind, as Python sees them; with ``--faketime`` as any code does, which costs
so much CPU (some 30 ms of each 100, for nothing but timers) that it takes more than two cores.

Two figures: the start error as the workers see it, each by its own clock, and the true one: when the kernel
saw each dispatch request leave its region, against the master's T0. All processes have one kernel, so both
are one clock. Ends with 1 where p99 is beyond 15 ms or 25 ms, where a request is further off than its
worker's stated uncertainty allows, or where a session has no record.

Needs root and iproute2.
"""

from __future__ import annotations

import argparse
import glob
import json
import math
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fleet import Ended, Fleet
from links import Links, round_trip
from towns import SERVER, Lacking, Towns, Watch

from lk_users.local.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKERS: Final = 2
SEEN_MS: Final = 15.0
TRUE_MS: Final = 25.0
# From the moment that a worker takes for its write to the kernel's stamp: a write of all 100 requests of
# one worker is in the figures of both; this is a system call and a veth.
STAMP_MS: Final = 5.0


@dataclass(frozen=True)
class Region:
    """``rtt_s``: to the master; ``wall_s``: how far its wall clock is ahead."""

    name: str
    rtt_s: float
    wall_s: int


REGIONS: Final = (Region("us", 0.02, 0), Region("eu", 0.08, 3), Region("ap", 0.2, -7))
JITTER: Final = 0.1
SHIFTED: Final = """
import time
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + {shift_s}
time.time_ns = lambda: _time_ns() + {shift_s} * 10**9
"""


@dataclass(frozen=True)
class Truth:
    """Start errors of one worker's sessions in ms: as it saw them, and as they were; its stated clock
    uncertainty, and how far its estimate of the master's clock really was off."""

    worker: str
    region: str
    seen_ms: tuple[float, ...]
    true_ms: tuple[float, ...]
    uncertainty_ms: float
    clock_error_ms: float

    @property
    def beyond_ms(self) -> float:
        """By how much a request left later than its worker said, or before T0 at all, beyond what its clock's
        uncertainty allows for. Earlier than said, but after T0, is no fault: a worker that loses its core
        between write and stamp says too much."""
        gaps = (max(true - seen, -true) for true, seen in zip(self.true_ms, self.seen_ms, strict=True))
        return max(gaps, default=math.inf) - self.uncertainty_ms


def wrong_clock(shift_s: int, folder: Path) -> dict[str, str]:
    """The environment in which a Python process's wall clock is off; ``folder``: where that is written."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(SHIFTED.format(shift_s=shift_s))
    return {"PYTHONPATH": str(folder)}


def faketime(shift_s: int, folder: Path) -> dict[str, str]:
    """The same for the whole of a process, C libraries too. Raises Lacking."""
    libraries = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")  # noqa: PTH207
    if not libraries:
        raise Lacking("needs faketime (Debian: faketime); without --faketime it does without")
    return {
        "LD_PRELOAD": libraries[0], "FAKETIME": f"{shift_s:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # With its shared memory each look at a clock waits for every other thread's.
        "FAKETIME_DISABLE_SHM": "1",
    }  # fmt: skip


def run(
    users: int, folder: Path, *options: str, workers: int = WORKERS, by_faketime: bool = False
) -> tuple[Ended, list[Truth]]:
    """One burst. Raises Lacking where this machine can't do it."""
    if shutil.which("ip") is None:
        raise Lacking("needs `ip` (Debian: iproute2)")
    wrong = faketime if by_faketime else wrong_clock
    with (
        Towns(len(REGIONS)) as towns,
        Stack(say=lambda text: None, server_extra=towns.server_extra) as stack,
        Links() as links,
        Watch(towns.towns, stack.server.port) as watch,
    ):
        environ = {**stack.env(), "LIVEKIT_URL": f"ws://{SERVER}:{stack.server.port}"}
        with Fleet(folder, environ, links) as fleet:
            for region, town in zip(REGIONS, towns.towns, strict=True):
                clock = wrong(region.wall_s, folder / f"clock-{region.name}") if region.wall_s else {}
                way = round_trip(region.rtt_s, jitter=JITTER)
                for _ in range(workers):
                    fleet.add(region.name, way, env=clock, prefix=town.prefix, host=town.near)
            fleet.lead(users, *options)
            ended = fleet.finish(300)
            ended.text += "".join(f"\n--- {part.region}\n{part.node.text()}" for part in fleet.parts)
        return ended.read(), truths(ended, watch.sent_ns)


def truths(ended: Ended, sent_ns: dict[tuple[int, int], int]) -> list[Truth]:
    """Of each worker; sessions whose request the watcher did not see are left out."""
    lines = (ended.run_dir / "bursts.jsonl").read_text().splitlines()
    zeros_ns = {burst["burst"]: burst["t0_wall_ns"] for burst in map(json.loads, lines)}
    found = []
    for worker in ended.summary["workers"]:
        mine = [
            record
            for record in ended.records
            if record["worker"] == worker["id"]
            and "fired" in record["marks_ns"]
            and (record["burst"], record["ordinal"]) in sent_ns
        ]
        truth = Truth(
            worker=worker["id"],
            region=worker["region"],
            seen_ms=tuple(record["marks_ns"]["fired"] / 1e6 for record in mine),
            true_ms=tuple(
                (sent_ns[record["burst"], record["ordinal"]] - zeros_ns[record["burst"]]) / 1e6
                for record in mine
            ),
            uncertainty_ms=worker["clock_uncertainty_ms"],
            clock_error_ms=worker["clock_offset_ms"],
        )
        found.append(truth)
    return found


def p99(values: Sequence[float]) -> float:
    """Nearest rank, of absolute values."""
    ordered = sorted(map(abs, values))
    return ordered[max(1, math.ceil(0.99 * len(ordered))) - 1]


def report(users: int, ended: Ended, found: list[Truth]) -> bool:
    """Print the figures: are all as they should be?"""
    sessions = ended.summary["sessions"]
    seen = [value for truth in found for value in truth.seen_ms]
    true = [value for truth in found for value in truth.true_ms]
    print(
        f"{sessions['recorded']} of {sessions['intended']} recorded, {ended.summary['outcomes']}, exit "
        f"{ended.code}; requests seen from outside: {len(true)}"
    )
    print(f"    start error as the workers see it: p99 {p99(seen):.1f}, max {max(map(abs, seen)):.1f} ms")
    print(f"    true start error, all workers: p99 {p99(true):.1f}, max {max(map(abs, true)):.1f} ms")
    for truth in found:
        print(
            f"    {truth.region}: {len(truth.true_ms)} sessions, seen p99 {p99(truth.seen_ms):.1f}, true p99 "
            f"{p99(truth.true_ms):.1f} ms; clock off by {truth.clock_error_ms:+.2f} ms, stated "
            f"±{truth.uncertainty_ms:.2f} ms; beyond that {truth.beyond_ms:+.2f} ms"
        )
    for reason in ended.reasons:
        print(f"    {reason}")
    sys.stdout.flush()
    return (
        sessions["recorded"] == sessions["intended"] == len(true) == users
        and p99(seen) <= SEEN_MS
        and p99(true) <= TRUE_MS
        and all(abs(truth.clock_error_ms) <= truth.uncertainty_ms for truth in found)
        and all(truth.beyond_ms <= STAMP_MS for truth in found)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="one T0 over three regions")
    parser.add_argument("--users", type=int, default=600)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--faketime", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="also what every process printed")
    arguments = parser.parse_args()
    good = []
    try:
        for _ in range(arguments.runs):
            with tempfile.TemporaryDirectory() as folder:
                ended, found = run(arguments.users, Path(folder) / "run", by_faketime=arguments.faketime)
            if arguments.verbose:
                print(ended.text)
            good.append(report(arguments.users, ended, found))
    except Lacking as exc:
        print(f"bench/regions.py: {exc}", file=sys.stderr)
        return 12
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
