"""The ladder against an agent whose limit is known: it starts so many jobs a second after it accepted them.

    python bench/ladder.py [--runs 3] [--jobs-per-s 10] [--within 4] [--users 80] [-- OPTION …]

The last of n users who come at once waits for (n - 1) / jobs-per-s longer than one alone, so the limit for
the SLO ``p99(agent_joined) <= WITHIN s`` is about WITHIN x jobs-per-s, and by what one alone waits smaller.
Each run has a server and an agent of its own. Dispatch by ``room``: for CreateDispatch the server itself
starts some 25 jobs a second and adds waits of its own, which are not what is looked for here. Ends with 1
where a limit is more than 15 % off.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from lk_users.local import stack

LOCUSTFILES: Final = Path(__file__).parent.parent / "locustfiles"
TOLERANCE: Final = 0.15


def run(locustfile: str, users: int, *options: str, jobs_per_s: float = 0.0) -> dict[str, Any]:
    """One run's summary.json, with ``wall_s`` and ``code`` beside it. Its log goes to stderr."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "locust", "-f", str(LOCUSTFILES / locustfile), "--headless",
            "--only-summary", "-u", str(users), "-r", str(users), "--agent-name", stack.AGENT_NAME,
            "--run-dir", folder, *options,
        ]  # fmt: skip
        aside = ["sh", "-c", f"exec {shlex.join(command)} >&2"]
        started_s = time.monotonic()
        code = stack.run(aside, jobs_per_s=jobs_per_s)
        (found,) = Path(folder).glob("*/summary.json")
        summary: dict[str, Any] = json.loads(found.read_text())
        return {**summary, "code": code, "wall_s": time.monotonic() - started_s}


def main() -> int:
    parser = argparse.ArgumentParser(description="the ladder against a known limit")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs-per-s", type=float, default=10.0)
    parser.add_argument("--within", type=float, default=4.0, help="seconds, p99 of agent_joined")
    parser.add_argument("--users", type=int, default=80)
    parser.add_argument("options", nargs="*", help="after --: options as Locust takes them")
    arguments = parser.parse_args()
    expected = arguments.within * arguments.jobs_per_s
    slo = f"p99(agent_joined) <= {arguments.within:g}s"
    good = True
    for number in range(1, arguments.runs + 1):
        summary = run(
            "ladder.py", arguments.users, "--dispatch", "room", "--slo", slo, *arguments.options,
            jobs_per_s=arguments.jobs_per_s,
        )  # fmt: skip
        ladder = summary["ladder"]
        limit = ladder["limit"] or 0
        alone_s = min(probe["agent_joined_ms"] for probe in ladder["probes"]) / 1000
        follows = int((arguments.within - alone_s) * arguments.jobs_per_s) + 1
        off = limit / expected - 1
        good &= summary["code"] == 0 and abs(off) <= TOLERANCE
        climbs = ", ".join(str(climb["limit"]) for climb in ladder["climbs"])
        print(
            f"run {number}: limit {limit}, {100 * off:+.0f} % of {expected:g} (climbs {climbs}; interval "
            f"{ladder['low']} to {ladder['high']}); one alone takes {1000 * alone_s:.0f} ms, from which "
            f"{follows} would follow; {len(ladder['rungs'])} bursts, exit {summary['code']}, "
            f"{summary['wall_s']:.0f} s",
            *summary["void_reasons"],
            sep="\n    ",
            flush=True,
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
