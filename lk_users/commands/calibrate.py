"""``lk-users calibrate``: how many users one process of this machine carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lk_users import capacity, preflight, sizing
from lk_users.clock import SystemClock
from lk_users.commands.arguments import whole
from lk_users.local import stack
from lk_users.machine import Identity, Machine
from lk_users.outcome import ExitCode
from lk_users.tools.timeline import points

if TYPE_CHECKING:
    import argparse

    from lk_users.commands.arguments import Subparsers


def declare(subparsers: Subparsers) -> None:
    text = (
        "how many users one process of this machine carries before its own loop lags: bursts that grow, "
        "against the embedded server. Under three minutes, with nothing else going on. `size`, `preflight` "
        "and runs use the result"
    )
    parser = subparsers.add_parser("calibrate", help="how many users this machine carries", description=text)
    parser.add_argument("-u", "--users", default="1600", help="try no more than so many (1600)")
    parser.add_argument("--server-binary", help="livekit-server to use (or LK_SERVER_BINARY)")
    parser.set_defaults(run=_calibrate)


def _calibrate(arguments: argparse.Namespace) -> int:
    from lk_users.tools import calibrating

    most = whole("--users", arguments.users)
    preflight.check_platform()
    with stack.Stack(server_binary=arguments.server_binary) as up:
        bursts = calibrating.Bursts(up.env(), up.pids().values(), stack.AGENT_NAME)
        print(f"{calibrating.HEAD}", flush=True)
        climbed = calibrating.climb(
            bursts, most, calibrating.BUDGET_S, lambda step: print(calibrating.row(step), flush=True)
        )
    print("\n" + "\n".join(points(calibrating.words(climbed, Machine.here().cores, sizing.USERS_A_PROCESS))))
    found = calibrating.capacity_of(climbed, SystemClock())
    if found is None:
        return ExitCode.VOID
    where = capacity.path()
    capacity.save(found, Identity.here(), where)
    print(f"\nKept in {where}")
    return ExitCode.PASS
