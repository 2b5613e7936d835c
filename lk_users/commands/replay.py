"""``lk-users replay``: a run's points, sent to InfluxDB again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lk_users.commands.arguments import add_options
from lk_users.errors import Refused
from lk_users.settings.options import INFLUX_OPTIONS
from lk_users.settings.process import Influx
from lk_users.sinks.outbox import SPOOL_DIR

if TYPE_CHECKING:
    import argparse

    from lk_users.commands.arguments import Subparsers


def declare(subparsers: Subparsers) -> None:
    text = "send a run's points to InfluxDB (again); twice makes no difference. INFLUX_TOKEN as for a run"
    parser = subparsers.add_parser("replay", help=text, description=text)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the run's folder")
    add_options(parser, INFLUX_OPTIONS)
    parser.set_defaults(run=_replay)


def _replay(arguments: argparse.Namespace) -> int:
    influx = Influx.from_options(vars(arguments))
    if influx is None:
        raise Refused(["--influx-url/LK_INFLUX_URL: not given, for example http://127.0.0.1:8086"])
    # The client library takes half a second to import, and no other command needs it.
    from lk_users.replay import replay
    from lk_users.sinks.influx import Database

    done = replay(arguments.run_dir, Database(influx))
    where = f"InfluxDB {influx.url}, bucket {influx.bucket}"
    spooled = f", {done.spooled} from {SPOOL_DIR}/" if done.spooled else ""
    print(
        f"{done.written} points of run {done.run_id} written to {where} ({done.sessions} sessions{spooled})"
    )
    for cause, count in done.refused.items():
        print(f"lk-users: {count} refused: {cause}", file=sys.stderr)
    if done.stopped:
        print(f"lk-users: {where}: {done.stopped}; nothing is lost, start it again", file=sys.stderr)
    return 0 if done.is_whole else 1
