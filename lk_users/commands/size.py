"""``lk-users size``: what a burst needs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lk_users import capacity, sizing
from lk_users.errors import Refused
from lk_users.machine import Identity, Machine
from lk_users.outcome import ExitCode
from lk_users.settings.run import Settings

if TYPE_CHECKING:
    import argparse

    from lk_users.commands.arguments import Subparsers


def declare(subparsers: Subparsers) -> None:
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
    plan = partial(
        sizing.size,
        settings.users,
        dispatch=settings.dispatch,
        mic=settings.mic != "none",
        witness=settings.witness,
        region_users=settings.region_users,
    )
    known = capacity.load(Identity.here(), capacity.path())
    calibrated, note = None, known.ignored
    if known.capacity is not None:
        calibrated = plan(users_a_process=known.capacity.users_a_process(sizing.USERS_A_PROCESS))
        note = (
            f"This machine was calibrated on {known.capacity.measured_at[:10]}: a process of it carries "
            f"{known.capacity.told} users; the table plans with {sizing.USERS_A_PROCESS} on any."
        )
    print("\n".join(sizing.lines(plan(), Machine.here(), calibrated, note)))
    return ExitCode.PASS
