"""``lk-users stack``: a command against a LiveKit server and agent of its own."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lk_users.errors import Refused
from lk_users.local import stack

if TYPE_CHECKING:
    from lk_users.commands.arguments import Subparsers


def declare(subparsers: Subparsers) -> None:
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
