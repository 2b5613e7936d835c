"""``lk-users compare``: what differs between runs beyond noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lk_users.compare.run import compare
from lk_users.outcome import ExitCode

if TYPE_CHECKING:
    import argparse

    from lk_users.commands.arguments import Subparsers


def declare(subparsers: Subparsers) -> None:
    text = "what differs between runs beyond noise: a plain sentence, then every figure with its interval"
    parser = subparsers.add_parser("compare", help=text, description=text)
    parser.add_argument(
        "run_dirs",
        metavar="RUN_DIR",
        type=Path,
        nargs="+",
        help="the first is what all are compared with",
    )
    parser.add_argument(
        "--with",
        dest="others",
        metavar="RUN_DIR",
        type=Path,
        nargs="+",
        default=[],
        help="compare these, as one side, with all before it as the other",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--fail-on-worse", action="store_true", help="exit with 10 where a run is worse, 11 where one is void"
    )
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    answer = compare(arguments.run_dirs, arguments.others, as_json=arguments.json)
    print(answer.text)
    return answer.exit_code if arguments.fail_on_worse else ExitCode.PASS
