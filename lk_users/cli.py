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

from lk_users import capacity, cleanup, preflight, sizing
from lk_users.agent_name import ANY_AGENT
from lk_users.clock import SystemClock
from lk_users.compare.run import compare
from lk_users.errors import LkUsersError, Refused
from lk_users.local import stack
from lk_users.machine import Identity, Machine
from lk_users.outcome import ExitCode
from lk_users.report.gather import gather
from lk_users.report.make import ending, make_report
from lk_users.settings.options import INFLUX_OPTIONS, PROCESS_OPTIONS, RUN_OPTIONS, Option
from lk_users.settings.process import Influx, session_headers
from lk_users.settings.run import CLOUD_API_BUDGET_PER_MINUTE, Settings
from lk_users.settings.target import Target
from lk_users.sinks.outbox import SPOOL_DIR
from lk_users.tools import probing
from lk_users.tools.timeline import points
from lk_users.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Subparsers = argparse._SubParsersAction["_Parser"]
    Declare = Callable[[Subparsers], None]


# As a shell has it for a program that Ctrl-C ended.
INTERRUPTED: Final = 130


class _Parser(argparse.ArgumentParser):
    """argparse would print its usage and exit with 2, which is Locust's code for something else."""

    def error(self, message: str) -> NoReturn:
        raise Refused([f"{message}; see {self.prog} --help"])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``lk-users``. ``argv``: without the program's name; default: the process's own."""
    parser = _Parser(prog="lk-users", description="Before a run, beside it, and after it.")
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
    except KeyboardInterrupt:
        # What was under way has cleaned up by now.
        return INTERRUPTED
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
    # The library of its charts takes 0.7 s to import, and no other command needs it.
    from lk_users.report.page.write import write_page

    write_page(run_dir)
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


def _declare_compare(subparsers: Subparsers) -> None:
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
    _add_options(parser, INFLUX_OPTIONS)
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
    known = capacity.load(Identity.here(), capacity.path())
    calibrated, note = None, known.ignored
    if known.capacity is not None:
        each = known.capacity.users_a_process(sizing.USERS_A_PROCESS)
        calibrated = sizing.size(
            settings.users,
            dispatch=settings.dispatch,
            mic=settings.mic != "none",
            witness=settings.witness,
            region_users=settings.region_users,
            users_a_process=each,
        )
        note = (
            f"This machine was calibrated on {known.capacity.measured_at[:10]}: a process of it carries "
            f"{known.capacity.told} users; the table plans with {sizing.USERS_A_PROCESS} on any."
        )
    print("\n".join(sizing.lines(found, Machine.here(), calibrated, note)))
    return ExitCode.PASS


def _declare_probe(subparsers: Subparsers) -> None:
    text = (
        "one session with an agent: what it emits and when, and which --welcome fits it; the server as for a "
        "run (LIVEKIT_URL …). Exit 0: the agent came, 10: it did not, 12: bad input"
    )
    parser = subparsers.add_parser(
        "probe", help="one session: what an agent emits, and when", description=text
    )
    known = {option.name: option for option in RUN_OPTIONS}
    _add_options(parser, [known[name] for name in probing.OPTIONS])
    parser.add_argument(
        "--for", dest="observe", default="20", metavar="SECONDS", help="observe so long once it is there (20)"
    )
    parser.add_argument("--wait", default="30", metavar="SECONDS", help="wait so long for it to come (30)")
    parser.set_defaults(run=_probe)


def _probe(arguments: argparse.Namespace) -> int:
    # WebRTC takes its time to import, and no other command but preflight needs it.
    from lk_users.tools import probe

    faults: list[str] = []
    options = {name: getattr(arguments, name.replace("-", "_")) for name in probing.OPTIONS}
    given = {name.replace("-", "_"): value for name, value in options.items()}
    needs_key = not preflight.gets_tokens(given, own_credentials=False)
    target = preflight.collect(lambda: Target.from_environment(needs_key=needs_key), faults)
    # A probe is judged by nothing, and a run's settings are.
    rules = next(option for option in RUN_OPTIONS if option.name == "slo").default
    settings = preflight.collect(lambda: preflight.read_settings({**given, "slo": rules}, 1, target), faults)
    headers = session_headers(os.environ, faults)
    wait_s = preflight.collect(lambda: _seconds("--wait", arguments.wait), faults)
    for_s = preflight.collect(lambda: _seconds("--for", arguments.observe), faults)
    if faults or target is None or settings is None or wait_s is None or for_s is None:
        raise Refused(faults)
    names = {"": "the unnamed agent", ANY_AGENT: "any agent"}
    who = names.get(settings.agent_name, f"agent {settings.agent_name}")
    where = target.shown_url or "your backend"
    print(f"lk-users: asking {where} for {who}, up to {wait_s + for_s:.0f} s …", file=sys.stderr)
    probed = probe.run(target, settings, headers, wait_s, for_s)
    print("\n".join(probe.told(probed, settings, wait_s, probing.given(options))))
    return ExitCode.PASS if probed.came else ExitCode.SLO_FAILED


def _declare_preflight(subparsers: Subparsers) -> None:
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
    _add_options(parser, (option for option in (*RUN_OPTIONS, *PROCESS_OPTIONS) if option.name != "slo"))
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


def _declare_calibrate(subparsers: Subparsers) -> None:
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

    most = _whole("--users", arguments.users)
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


def _whole(flag: str, text: str) -> int:
    """A whole number of at least 1. Raises Refused."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise Refused([f"{flag} {text}: must be a whole number of at least 1"])
    return int(text)


def _seconds(flag: str, text: str) -> float:
    """A positive number of at most an hour. Raises Refused."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise Refused([f"{flag} {text}: must be a number of seconds from 0.1 to 3600"])
    return seconds


def _add_options(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    """Options as a run has them, with their variables."""
    for option in options:
        default = os.environ.get(option.variable, option.default)
        text = f"{option.help} (or {option.variable})".replace("%", "%%")
        parser.add_argument(option.flag, default=default, help=text)


_COMMANDS: Final[tuple[Declare, ...]] = (
    _declare_report,
    _declare_merge,
    _declare_compare,
    _declare_stack,
    _declare_cleanup,
    _declare_replay,
    _declare_size,
    _declare_probe,
    _declare_preflight,
    _declare_calibrate,
)


if __name__ == "__main__":
    sys.exit(main())
