"""``lk-users probe``: one session that shows what an agent emits, and when."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from lk_users import preflight
from lk_users.agent_name import ANY_AGENT
from lk_users.commands.arguments import add_options, seconds
from lk_users.errors import Refused
from lk_users.outcome import ExitCode
from lk_users.settings.options import RUN_OPTIONS
from lk_users.settings.process import session_headers
from lk_users.settings.target import Target
from lk_users.tools import probing

if TYPE_CHECKING:
    import argparse

    from lk_users.commands.arguments import Subparsers


def declare(subparsers: Subparsers) -> None:
    text = (
        "one session with an agent: what it emits and when, and which --welcome fits it; the server as for a "
        "run (LIVEKIT_URL …). Exit 0: the agent came, 10: it did not, 12: bad input"
    )
    parser = subparsers.add_parser(
        "probe", help="one session: what an agent emits, and when", description=text
    )
    known = {option.name: option for option in RUN_OPTIONS}
    add_options(parser, [known[name] for name in probing.OPTIONS])
    parser.add_argument(
        "--for", dest="observe", default="20", metavar="SECONDS", help="observe so long once it is there (20)"
    )
    parser.add_argument("--wait", default="30", metavar="SECONDS", help="wait so long for it to come (30)")
    parser.set_defaults(run=_probe)


def _probe(arguments: argparse.Namespace) -> int:
    # WebRTC takes its time to import, and no other command but preflight needs it.
    from lk_users.tools import probe, probe_words

    faults: list[str] = []
    options = {name: getattr(arguments, name.replace("-", "_")) for name in probing.OPTIONS}
    given = {name.replace("-", "_"): value for name, value in options.items()}
    needs_key = not preflight.gets_tokens(given, own_credentials=False)
    target = preflight.collect(lambda: Target.from_environment(needs_key=needs_key), faults)
    # A probe is judged by nothing, and a run's settings are.
    rules = next(option for option in RUN_OPTIONS if option.name == "slo").default
    settings = preflight.collect(lambda: preflight.read_settings({**given, "slo": rules}, 1, target), faults)
    headers = session_headers(os.environ, faults)
    wait_s = preflight.collect(lambda: seconds("--wait", arguments.wait), faults)
    for_s = preflight.collect(lambda: seconds("--for", arguments.observe), faults)
    if faults or target is None or settings is None or wait_s is None or for_s is None:
        raise Refused(faults)
    names = {"": "the unnamed agent", ANY_AGENT: "any agent"}
    who = names.get(settings.agent_name, f"agent {settings.agent_name}")
    where = target.shown_url or "your backend"
    print(f"lk-users: asking {where} for {who}, up to {wait_s + for_s:.0f} s …", file=sys.stderr)
    probed = probe.run(target, settings, headers, wait_s, for_s)
    print("\n".join(probe_words.told(probed, settings, wait_s, probing.given(options))))
    return ExitCode.PASS if probed.came else ExitCode.SLO_FAILED
