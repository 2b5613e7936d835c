"""``lk-users cleanup``: the rooms that a run which died left open."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lk_users import cleanup
from lk_users.settings.run import CLOUD_API_BUDGET_PER_MINUTE
from lk_users.settings.target import Target

if TYPE_CHECKING:
    import argparse

    from lk_users.commands.arguments import Subparsers


def declare(subparsers: Subparsers) -> None:
    text = "delete the rooms that a run which died left open; the server as for a run (LIVEKIT_URL …)"
    parser = subparsers.add_parser("cleanup", help=text, description=text)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the run's folder")
    parser.set_defaults(run=_cleanup)


def _cleanup(arguments: argparse.Namespace) -> int:
    target = Target.from_environment()
    rooms = cleanup.rooms_of(arguments.run_dir, target)
    budget = CLOUD_API_BUDGET_PER_MINUTE if target.cloud else 0
    cleaned = asyncio.run(cleanup.delete_open_rooms(rooms.names, target, budget))
    print(f"{cleaned.known} rooms of the run, {cleaned.deleted} still open and now deleted")
    if rooms.unsure:
        print(
            f"{rooms.unsure} sessions were not decided when the run died: where your backend named their "
            "rooms otherwise than it was asked to, they stay open until their own timeout"
        )
    for line in cleaned.failed:
        print(f"lk-users: {line}", file=sys.stderr)
    return 1 if cleaned.failed else 0
