"""``lk-users report``: a run's reports, made again from its records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lk_users.report.make import ending, make_report

if TYPE_CHECKING:
    import argparse

    from lk_users.commands.arguments import Subparsers


def declare(subparsers: Subparsers) -> None:
    text = "make a run's reports again (records, summary, evidence for support); exit with the run's code"
    parser = subparsers.add_parser("report", help=text, description=text)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="a run's folder, for example runs/…")
    parser.add_argument(
        "--slo",
        action="append",
        metavar="RULE",
        help="judge the run anew by this instead of its own SLOs; repeatable, or separated by ';'",
    )
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    # An empty one is none, and is refused as such.
    anew = "" if arguments.slo is None else "; ".join(arguments.slo) or ";"
    return reported(arguments.run_dir, anew)


def reported(run_dir: Path, anew: str = "") -> int:
    """Make them, say how the run ended, and return its exit code. ``anew``: SLOs instead of its own."""
    judgement = make_report(run_dir, anew)
    # The library of its charts takes 0.7 s to import, and no other command needs it.
    from lk_users.report.page.write import write_page

    write_page(run_dir)
    print(ending(run_dir))
    return judgement.exit_code
