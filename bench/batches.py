"""In which batches does the embedded stack take 600 users, and what do they gain by it?

    python bench/batches.py [--users 600] [--within 3] [--gain 5] [-- OPTION …]

Searches batches by CreateDispatch for the SLO ``p99(agent_joined) <= WITHIN s``, prints every plan that was
tried, and ends with 1 where the found plan's p99 is not ``--gain`` times lower than that of the true burst in
the same run. 5 to 8 bursts of 600, each of 40 to 60 s: 5 to 8 minutes.
"""

from __future__ import annotations

import argparse
import sys

from ladder import run

from lk_users.report import limit_words, words


def main() -> int:
    parser = argparse.ArgumentParser(description="batches on the embedded stack")
    parser.add_argument("--users", type=int, default=600)
    parser.add_argument("--within", type=float, default=3.0, help="seconds, p99 of agent_joined")
    parser.add_argument("--gain", type=float, default=5.0)
    parser.add_argument("options", nargs="*", help="after --: options as Locust takes them")
    arguments = parser.parse_args()
    slo = f"p99(agent_joined) <= {arguments.within:g}s"
    options = ("--slo", slo, "--session-timeout", "90", *arguments.options)
    summary = run("batches.py", arguments.users, *options)
    print(words.headline(summary), *limit_words.lines(summary), *summary["void_reasons"], sep="\n  ")
    for row in limit_words.rows(summary):
        print("  " + "".join(f"{cell:>16}" for cell in row))
    print(f"  {len(summary['batch_search']['cells'])} bursts, {summary['wall_s']:.0f} s")
    plan, at_once = summary["batch_search"]["plan"], summary["batch_search"]["at_once"]
    if plan is None or at_once is None:
        return 1
    gain = at_once["agent_joined_ms"]["p99"] / plan["agent_joined_ms"]["p99"]
    return 0 if summary["code"] == 0 and gain >= arguments.gain else 1


if __name__ == "__main__":
    sys.exit(main())
