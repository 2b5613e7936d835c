"""``lk-users``: what is done apart from a run. Runs themselves are started by ``locust``.

Each subcommand is two functions: one declares its arguments, one does it and returns the exit code.
Bad input is one clear line on stderr a fault, and exit code 12.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from lk_users import cleanup, sizing
from lk_users.errors import LkUsersError, Refused
from lk_users.local import stack
from lk_users.machine import Machine
from lk_users.outcome import ExitCode
from lk_users.report.gather import gather
from lk_users.report.make import ending, make_report
from lk_users.settings import CLOUD_API_BUDGET_PER_MINUTE, INFLUX_OPTIONS, Influx, Settings, Target
from lk_users.sinks.outbox import SPOOL_DIR
from lk_users.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Subparsers = argparse._SubParsersAction["_Parser"]
    Declare = Callable[[Subparsers], None]


class _Parser(argparse.ArgumentParser):
    """argparse would print its usage and exit with 2, which is Locust's code for something else."""

    def error(self, message: str) -> NoReturn:
        raise Refused([f"{message}; see {self.prog} --help"])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``lk-users``. ``argv``: without the program's name; default: the process's own."""
    parser = _Parser(prog="lk-users", description="Beside a run: reports, and what a run needs around it.")
    parser.add_argument("--version", action="version", version=f"lk-users {VERSION}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for declare in _COMMANDS:
        declare(subparsers)
    try:
        arguments = parser.parse_args(argv)
        return int(arguments.run(arguments))
    except Refused as exc:
        faults: Sequence[str] = exc.faults
    except (LkUsersError, OSError) as exc:
        faults = [str(exc)]
    for fault in faults:
        print(f"lk-users: {fault}", file=sys.stderr)
    return ExitCode.REFUSED


def _declare_report(subparsers: Subparsers) -> None:
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
    return _reported(arguments.run_dir, anew)


def _reported(run_dir: Path, anew: str = "") -> int:
    judgement = make_report(run_dir, anew)
    print(ending(run_dir))
    return judgement.exit_code


def _declare_merge(subparsers: Subparsers) -> None:
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
    return _reported(arguments.run_dir)


def _declare_stack(subparsers: Subparsers) -> None:
    text = "start a real LiveKit server and the reference agent, run a command against them, stop them"
    parser = subparsers.add_parser("stack", help=text, description=text)
    parser.add_argument("--agent-name", default=stack.AGENT_NAME, help="name the agent registers under")
    parser.add_argument("--workers", default=stack.AGENT_WORKERS, type=int, help="how many workers it has")
    parser.add_argument(
        "--jobs-per-s", default=0.0, type=float, help="how many jobs it starts a second; 0: as they come"
    )
    parser.add_argument("--server-binary", help="livekit-server to use (or LK_SERVER_BINARY)")
    parser.add_argument("--udp-port", action="store_true", help="one UDP port for all media")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND …")
    parser.set_defaults(run=_stack)


def _stack(arguments: argparse.Namespace) -> int:
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if arguments.workers < 1:
        raise Refused([f"--workers {arguments.workers}: must be at least 1"])
    if not 0 <= arguments.jobs_per_s < float("inf"):
        raise Refused([f"--jobs-per-s {arguments.jobs_per_s:g}: must be at least 0, for example 10"])
    return stack.run(
        command,
        agent_name=arguments.agent_name,
        workers=arguments.workers,
        jobs_per_s=arguments.jobs_per_s,
        server_binary=arguments.server_binary,
        udp_port=arguments.udp_port,
    )


def _declare_cleanup(subparsers: Subparsers) -> None:
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


def _declare_replay(subparsers: Subparsers) -> None:
    text = "send a run's points to InfluxDB (again); twice makes no difference. INFLUX_TOKEN as for a run"
    parser = subparsers.add_parser("replay", help=text, description=text)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the run's folder")
    for option in INFLUX_OPTIONS:
        default = os.environ.get(option.variable, option.default)
        parser.add_argument(option.flag, default=default, help=f"{option.help} (or {option.variable})")
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


def _declare_size(subparsers: Subparsers) -> None:
    text = "what a burst needs: processes, cores, memory, network, API requests; for master and each region"
    parser = subparsers.add_parser("size", help=text, description=text)
    parser.add_argument("-u", "--users", required=True, type=int, help="size of the burst")
    parser.add_argument("--dispatch", default="api", help="as of a run: api, room, token or none")
    parser.add_argument("--mic", default="silence", help="as of a run: silence or none")
    parser.add_argument("--witness", default="0", help="so many of the users on the official SDK")
    parser.add_argument(
        "--region-users",
        "--regions",
        default="",
        metavar="REGION=USERS,…",
        help="for example us-east=300,eu=200",
    )
    parser.set_defaults(run=_size)


def _size(arguments: argparse.Namespace) -> int:
    if arguments.users < 1:
        raise Refused([f"--users {arguments.users}: must be at least 1"])
    names = ("dispatch", "mic", "witness", "region_users")
    options = {name: getattr(arguments, name) for name in names}
    agent = "" if arguments.dispatch == "none" else "any"
    settings = Settings.from_options({**options, "agent_name": agent}, arguments.users)
    found = sizing.size(
        settings.users,
        dispatch=settings.dispatch,
        mic=settings.mic != "none",
        witness=settings.witness,
        region_users=settings.region_users,
    )
    print("\n".join(sizing.lines(found, Machine.here())))
    return ExitCode.PASS


_COMMANDS: Final[tuple[Declare, ...]] = (
    _declare_report,
    _declare_merge,
    _declare_stack,
    _declare_cleanup,
    _declare_replay,
    _declare_size,
)


if __name__ == "__main__":
    sys.exit(main())
