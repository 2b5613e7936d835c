"""Bursts against real livekit-agents as it comes, with its own load threshold: who gets no agent.

    python bench/real_agent.py [SIZE …]     default: 10 25 50

Each size three times against one worker on this machine, which also carries server and generator; before each
burst the worker is let come to rest, after one session that warms it up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lk_users.local.real_agent import RealAgent, environment
from lk_users.local.server import Server, find_or_build
from lk_users.stats import percentile

ROOT = Path(__file__).parent.parent
AGENTS = ROOT / "docker" / "agents"
NAME = "greeter"
ROUNDS = 3
SESSION_TIMEOUT_S = 30


@dataclass(frozen=True)
class Burst:
    """How many no worker took, when the others' agents joined, the highest load that the worker reported."""

    never: int
    lost_otherwise: int
    joined_ms: tuple[int, ...]
    load: float


def burst(users: int, env: dict[str, str], worker_url: str) -> Burst:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "locust", "-f", str(ROOT / "locustfiles" / "burst.py"), "--headless",
            "--only-summary", "-u", str(users), "-r", str(users), "--agent-name", NAME, "--run-dir", folder,
            # From rest: a session before the burst would be load, too.
            "--baseline", "0", "--session-timeout", str(SESSION_TIMEOUT_S), "--agent-worker-url", worker_url,
        ]  # fmt: skip
        subprocess.run(command, env=os.environ | env, capture_output=True, check=False)
        (found,) = Path(folder).glob("*/summary.json")
        summary = json.loads(found.read_text())
        records = [json.loads(line) for line in (found.parent / "records.jsonl").read_text().splitlines()]
    marks = [record["marks_ns"] for record in records]
    outcomes = summary["outcomes"]
    never = outcomes.get("never_assigned", 0)
    return Burst(
        never=never,
        lost_otherwise=users - never - outcomes.get("ok", 0),
        joined_ms=tuple(mark["agent_joined"] // 1_000_000 for mark in marks if "agent_joined" in mark),
        load=summary["agent_workers"][0]["load"]["max"],
    )


def main(sizes: list[int]) -> None:
    python = environment(AGENTS, print)
    print(
        "| burst | never assigned | each time | agent in the room, p50 of the others | worker's load, up to |"
    )
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        with Server(find_or_build(None, print), logs / "server.log") as server:
            env = server.env()
            named = {**env, "LIVEKIT_AGENT_NAME": NAME}
            with RealAgent(python, AGENTS / "greeter.py", logs / "agent.log", named) as agent:
                burst(1, env, agent.url)
                for size in sizes:
                    bursts = []
                    for _ in range(ROUNDS):
                        agent.rest()
                        bursts.append(burst(size, env, agent.url))
                    print(row(size, bursts), flush=True)


def row(size: int, bursts: list[Burst]) -> str:
    share = sum(one.never for one in bursts) / (size * len(bursts))
    joined_ms = percentile(sorted(ms for one in bursts for ms in one.joined_ms), 50)
    each = ", ".join(
        f"{one.never}" + (f" (+{one.lost_otherwise} lost otherwise)" if one.lost_otherwise else "")
        for one in bursts
    )
    loads = ", ".join(f"{one.load:.2f}" for one in bursts)
    joined = "-" if joined_ms is None else f"{joined_ms / 1000:.2f} s"
    return f"| {size} | {100 * share:.0f} % | {each} | {joined} | {loads} |"


if __name__ == "__main__":
    try:
        main([int(size) for size in sys.argv[1:]] or [10, 25, 50])
    except ValueError:
        sys.exit("usage: python bench/real_agent.py [SIZE …]")
