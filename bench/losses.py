"""What a run comes to when a part of it is lost: master, six workers in three regions, against the embedded
stack.

    python bench/losses.py [--only LOSS] [--users 600]

Each loss hits the last worker, in region ``ap``; users need some seconds to be welcomed, so there is time to
lose something. A line has: the loss, records of how many intended, outcomes by region, exit code and the
first reason, and the seconds from the loss to the end of the run. Ends with 1 where a session has no record,
or where the end took longer than a session may by more than 15 s.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from fleet import Ended, Fleet
from links import STRAIGHT, Links, Way, round_trip

from lk_users.local.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REGIONS: Final = ("us", "us", "eu", "eu", "ap", "ap")
SESSION_TIMEOUT_S: Final = 30.0
# The agent comes and speaks, but takes its time.
SLOW_WELCOME: Final = '{"lk": {"fault": "slow_welcome", "delay_ms": 6000}}'
OPTIONS: Final = (
    "--metadata", SLOW_WELCOME, "--session-timeout", f"{SESSION_TIMEOUT_S:g}", "--welcome-timeout", "20",
)  # fmt: skip
# What two cores that carry server, agents and 600 users need so that all of them are welcomed if nothing is
# lost: by ``api`` the last agents come after half a minute.
ROOMY_TIMEOUT_S: Final = 60.0
ROOMY: Final = ("--mic", "none", "--session-timeout", f"{ROOMY_TIMEOUT_S:g}")
GRACE_S: Final = 15.0


@dataclass(frozen=True)
class Loss:
    """One way to lose a part. ``act`` gets the fleet once the master is started, and returns when it is
    done; ``ways``: the last worker's link; ``merge``: the report is made from all machines' journals."""

    act: Callable[[Fleet], None]
    way: Way = STRAIGHT
    options: tuple[str, ...] = ()
    merge: bool = False


def _parked(fleet: Fleet) -> None:
    assert fleet.master is not None
    fleet.master.wait_for(lambda: "users parked" in fleet.master.text())  # type: ignore[union-attr]


def _building(fleet: Fleet) -> None:
    fleet.parts[-1].node.wait_for(lambda: fleet.parts[-1].has_share)


def _running(fleet: Fleet, after_s: float = 1.5) -> None:
    fleet.wait_for_t0()
    time.sleep(1.0 + after_s)


def _kill(when: Callable[[Fleet], None]) -> Callable[[Fleet], None]:
    def act(fleet: Fleet) -> None:
        when(fleet)
        fleet.parts[-1].node.signal(signal.SIGKILL)

    return act


def _stop(when: Callable[[Fleet], None], for_s: float) -> Callable[[Fleet], None]:
    """``for_s``: 0 for good."""

    def act(fleet: Fleet) -> None:
        when(fleet)
        fleet.parts[-1].node.signal(signal.SIGSTOP)
        if for_s:
            time.sleep(for_s)
            fleet.parts[-1].node.signal(signal.SIGCONT)

    return act


def _dark(when: Callable[[Fleet], None], for_s: float, *, up: bool = True) -> Callable[[Fleet], None]:
    """``up``: what the worker sends is held up, too."""

    def act(fleet: Fleet) -> None:
        when(fleet)
        fleet.parts[-1].link.darken(up=up)
        time.sleep(for_s)
        fleet.parts[-1].link.lighten()

    return act


def _cut(when: Callable[[Fleet], None], for_s: float) -> Callable[[Fleet], None]:
    """``for_s``: 0 for good."""

    def act(fleet: Fleet) -> None:
        when(fleet)
        fleet.parts[-1].link.cut()
        if for_s:
            time.sleep(for_s)
            fleet.parts[-1].link.heal()

    return act


def _kill_master(fleet: Fleet) -> None:
    _running(fleet)
    assert fleet.master is not None
    fleet.master.signal(signal.SIGKILL)


LOSSES: Final[Mapping[str, Loss]] = MappingProxyType(
    {
        "nothing": Loss(_running),
        "killed-parked": Loss(_kill(_parked), options=("-r", "10")),
        "killed-building": Loss(_kill(_building)),
        "killed-at-t0": Loss(_kill(Fleet.wait_for_t0)),
        "killed-after-t0": Loss(_kill(_running)),
        "master-killed": Loss(_kill_master, merge=True),
        "cut-for-good": Loss(_cut(_running, 0)),
        "cut-for-good-merged": Loss(_cut(_running, 0), merge=True),
        "cut-2s": Loss(_cut(_running, 2)),
        "dark-3s": Loss(_dark(_running, 3)),
        "dark-3s-before-t0": Loss(_dark(_building, 3)),
        "t0-late": Loss(_dark(_building, 3, up=False)),
        "dark-7s": Loss(_dark(_running, 7)),
        "dark-14s": Loss(_dark(_running, 14)),
        "slow": Loss(_running, round_trip(0.4, rate=20_000)),
        "stopped-3s-before-t0": Loss(_stop(_building, 3)),
        "stopped-3s-across-t0": Loss(_stop(Fleet.wait_for_t0, 3)),
        "stopped-3s-after-t0": Loss(_stop(_running, 3)),
        "stopped-for-good": Loss(_stop(_running, 0)),
    }
)


def lose(
    loss: Loss, users: int, regions: tuple[str, ...], stack: Stack, folder: Path, links: Links, *options: str
) -> Ended:
    """One run in which that is lost. ``seconds`` of the result: from the loss to the master's end, or to the
    last worker's where the master is the loss."""
    with Fleet(folder, stack.env(), links) as fleet:
        for number, region in enumerate(regions):
            fleet.add(region, loss.way if number == len(regions) - 1 else STRAIGHT)
        fleet.lead(users, *OPTIONS, *loss.options, *options)
        loss.act(fleet)
        started_s = time.monotonic()
        stopped = loss is LOSSES["stopped-for-good"]
        ended = fleet.finish(worker_timeout_s=5 if stopped else 60)
        if loss is LOSSES["master-killed"]:
            ended.seconds = time.monotonic() - started_s
        ended.text += "".join(f"\n--- {part.region}\n{part.node.text()}" for part in fleet.parts)
        if loss.merge:
            others = [str(path) for part in fleet.parts for path in part.run_dirs]
            command = [sys.executable, "-m", "lk_users.cli", "merge", str(ended.run_dir), *others]
            ended.code = subprocess.run(command, capture_output=True, check=False).returncode
        return ended.read()


def line(name: str, ended: Ended) -> str:
    """A row of the table."""
    sessions = ended.summary["sessions"]
    outcomes = "; ".join(
        f"{region} " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        for region, counts in ended.outcomes.items()
    )
    reason = ended.reasons[0] if ended.reasons else ended.summary["verdict"]
    return (
        f"{name} | {sessions['recorded']} of {sessions['intended']} | {outcomes} | exit {ended.code}, "
        f"workers {ended.worker_codes} | {reason} | {ended.seconds:.0f} s"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="what a run comes to when a part of it is lost")
    parser.add_argument("--only", choices=LOSSES, action="append")
    parser.add_argument("--users", type=int, default=600)
    parser.add_argument("--verbose", action="store_true", help="all reasons, and what every process printed")
    arguments = parser.parse_args()
    whole = True
    with Stack(say=lambda text: None) as stack, Links() as links:
        for name in arguments.only or LOSSES:
            with tempfile.TemporaryDirectory() as folder:
                ended = lose(LOSSES[name], arguments.users, REGIONS, stack, Path(folder), links, *ROOMY)
            print(line(name, ended), flush=True)
            if arguments.verbose:
                print(*ended.reasons, ended.text, sep="\n")
            sessions = ended.summary["sessions"]
            whole &= sessions["recorded"] == sessions["intended"] == arguments.users
            whole &= ended.seconds < ROOMY_TIMEOUT_S + GRACE_S
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
