"""``lk-users preflight``: what can be known before a run."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from lk_users.commands.arguments import add_options
from lk_users.errors import Refused
from lk_users.outcome import ExitCode
from lk_users.settings.options import PROCESS_OPTIONS, RUN_OPTIONS

if TYPE_CHECKING:
    from lk_users.commands.arguments import Subparsers


def declare(subparsers: Subparsers) -> None:
    text = (
        "what can be known before a run, a line each: keys, the way to the server, rooms, media, API limits, "
        "handles, clock, cores. Takes the options of the run. Exit 0: it can start, 12: it would not do"
    )
    parser = subparsers.add_parser("preflight", help="would this run do from here?", description=text)
    parser.add_argument(
        "-u", "--users", default=os.environ.get("LOCUST_USERS", ""), help="size (or LOCUST_USERS)"
    )
    parser.add_argument("--processes", default="1", help="as of the run")
    parser.add_argument("--probe", action="store_true", help="send the agent one session, too")
    add_options(parser, (option for option in (*RUN_OPTIONS, *PROCESS_OPTIONS) if option.name != "slo"))
    rules = next(option for option in RUN_OPTIONS if option.name == "slo")
    default = os.environ.get(rules.variable, rules.default)
    parser.add_argument(
        "--slo", action="append", metavar="RULE", help=f"{rules.help} (or {rules.variable}); {default!r}"
    )
    parser.set_defaults(slo_default=default)
    # So that a run's own command line will do, with another beginning.
    for flags in (
        ("-r", "--spawn-rate"),
        ("-t", "--run-time"),
        ("-f", "--locustfile"),
        ("--expect-workers",),
    ):
        parser.add_argument(*flags, help=argparse.SUPPRESS)
    for flag in ("--headless", "--only-summary"):
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--master", action="store_true", help="it has no users of its own: the workers do")
    parser.set_defaults(run=_preflight)


def _preflight(arguments: argparse.Namespace) -> int:
    from lk_users.tools import checks, preflighting

    if not arguments.users:
        raise Refused(["--users: not given; the size of the burst, for example -u 600"])
    options = {**vars(arguments), "slo": "; ".join(arguments.slo or [arguments.slo_default])}
    asked = preflighting.asked_from(
        options, arguments.users, arguments.processes, probe_agent=arguments.probe, leads=arguments.master
    )
    found = preflighting.run(asked)
    print("\n".join([preflighting.heading(asked), "", *checks.lines(found), "", checks.ending(found)]))
    return ExitCode.REFUSED if checks.failed(found) else ExitCode.PASS
