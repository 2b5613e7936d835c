"""``lk-users``: what is done apart from a run. Runs themselves are started by ``locust``.

Bad input is one clear line on stderr a fault, and exit code 12.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from lk_users.commands import (
    calibrate,
    cleanup,
    compare,
    merge,
    preflight,
    probe,
    replay,
    report,
    size,
    stack,
)
from lk_users.commands.arguments import Parser
from lk_users.errors import LkUsersError, Refused
from lk_users.outcome import ExitCode
from lk_users.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

# In the order of their help.
COMMANDS: Final = (report, merge, compare, stack, cleanup, replay, size, probe, preflight, calibrate)
# As a shell has it for a program that Ctrl-C ended.
INTERRUPTED: Final = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``lk-users``. ``argv``: without the program's name; default: the process's own."""
    parser = Parser(prog="lk-users", description="Before a run, beside it, and after it.")
    parser.add_argument("--version", action="version", version=f"lk-users {VERSION}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.declare(subparsers)
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


if __name__ == "__main__":
    sys.exit(main())
