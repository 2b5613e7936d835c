"""``lk-users merge``: the journals of other machines, brought into a run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lk_users.commands.report import reported
from lk_users.report.gather import gather

if TYPE_CHECKING:
    import argparse

    from lk_users.commands.arguments import Subparsers


def declare(subparsers: Subparsers) -> None:
    text = "bring what workers kept on other machines into a run's folder, and make its reports again"
    parser = subparsers.add_parser("merge", help=text, description=text)
    parser.add_argument(
        "run_dir", metavar="RUN_DIR", type=Path, help="the run's folder on the master's machine"
    )
    parser.add_argument(
        "others", metavar="DIR", type=Path, nargs="+", help="its folder on a worker's machine"
    )
    parser.set_defaults(run=_merge)


def _merge(arguments: argparse.Namespace) -> int:
    workers = gather(arguments.run_dir, arguments.others)
    print(f"journals of {len(workers)} workers: {', '.join(workers)}\n")
    return reported(arguments.run_dir)
