"""Does a user of engine ``listen`` hear what a user of the official SDK hears? Side by side, in one run.

    python bench/engines.py [CASE …] [--bursts 10] [--pairs] [--real]

Bursts of 20 users of which 10 are on the SDK, against the embedded stack. Cases: ``healthy``, ``slow_join``
(the agent comes 1.5 s later, when every user is there), ``slow_welcome``, ``silent``, ``eager``; without a
name all of them. ``--pairs``: two users every half a second, one of each engine, so that ten SDK users who
join at once do not wait for each other's CPU. ``--real``: the agent of docker/agents on livekit-agents, which
takes all jobs, with pairs two seconds apart, since each job is a process that starts.

Ends with 1 where outcomes differ by a session whose record does not say why (its agent never came, or it was
near the bound of a rule), or where a median is further off than it may be: the agent's join by 60 ms, its
first audible frame by 150 ms once the SDK's own receive delay is taken off. In pairs the frame counts from
T0. Where all come at once it counts from the agent's join, among users who were there before it: what a user
who comes later waits for is no matter of hearing (docs/witness.md).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from lk_users.local import stack
from lk_users.local.real_agent import RealAgent, environment
from lk_users.local.server import Server, find_or_build

LOCUSTFILE: Final = Path(__file__).parent.parent / "locustfiles" / "burst.py"
AGENTS: Final = Path(__file__).parent.parent / "docker" / "agents"
AGENT: Final = "greeter"
USERS: Final = 20
WITNESSES: Final = 10
SIDES: Final = ("listen", "sdk")
JOIN_MS: Final = 60.0
AUDIO_MS: Final = 150.0
# A session that hears nothing ends by its timeout.
CASES: Final[dict[str, tuple[str, ...]]] = {
    "healthy": (),
    "slow_join": ("--metadata", json.dumps({"lk": {"fault": "slow_join", "delay_ms": 1500}})),
    "slow_welcome": ("--metadata", json.dumps({"lk": {"fault": "slow_welcome", "delay_ms": 2000}})),
    "silent": ("--metadata", json.dumps({"lk": {"fault": "silent"}}), "--session-timeout", "15"),
    "eager": ("--metadata", json.dumps({"lk": {"fault": "eager", "delay_ms": 800}})),
}
PAIRS: Final = ("--batch-size", "2", "--batch-delay", "0.5")
REAL_PAIRS: Final = ("--batch-size", "2", "--batch-delay", "2", "--session-timeout", "20")


def run(case: str, bursts: int, *, pairs: bool, real: bool) -> dict[str, Any]:
    """One run's summary.json."""
    with tempfile.TemporaryDirectory() as folder:
        name = AGENT if real else stack.AGENT_NAME
        spread = REAL_PAIRS if real else PAIRS if pairs else ()
        command = [
            sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary",
            "--baseline", "0",
            "-u", str(USERS), "-r", str(USERS), "--witness", str(WITNESSES), "--bursts", str(bursts),
            "--agent-name", name, "--run-dir", folder, *CASES[case], *spread,
        ]  # fmt: skip
        if real:
            beside_real_agent(command, Path(folder))
        else:
            quiet = ["sh", "-c", f"exec {shlex.join(command)} >/dev/null 2>&1"]
            stack.run(quiet, say=lambda line: None)
        (found,) = Path(folder).glob("*/summary.json")
        summary: dict[str, Any] = json.loads(found.read_text())
        return summary


def beside_real_agent(command: list[str], logs: Path) -> None:
    """The command against a server and the agent of docker/agents, with a threshold that no load reaches."""
    python = environment(AGENTS, print)
    with Server(find_or_build(None, print), logs / "server.log") as server:
        env = server.env()
        named = {**env, "LIVEKIT_AGENT_NAME": AGENT, "GREETER_LOAD_THRESHOLD": "inf"}
        with RealAgent(python, AGENTS / "greeter.py", logs / "agent.log", named) as agent:
            agent.rest()
            subprocess.run(command, env=os.environ | env, capture_output=True, check=False)


def compare(case: str, witness: dict[str, Any], *, spread: bool) -> bool:
    """Print a case's table: is it as it should be? ``spread``: users came in pairs."""
    outcomes = witness["outcomes"]
    same = all(one["why"] for one in witness["unlike"])
    print(f"{case}: listen {outcomes['listen']}, sdk {outcomes['sdk']}")
    for one in witness["unlike"]:
        print(f"    {one['engine']} {one['session_id']} {one['outcome']}: {one['why'] or 'UNEXPLAINED'}")
    rows = {**witness["marks"], "join → audio, in time": witness["join_to_audio"]}
    rows["speaking → audio"] = witness["hearing"]
    for name, values in rows.items():
        cells = (
            f"{side} n {values[side]['n']:3} p50 {_ms(values[side]['p50'])}" for side in ("listen", "sdk")
        )
        print(f"    {name:22} {'   '.join(cells)}   difference {_ms(values['difference_p50_ms'])}")
    late, delay, buffer = witness["late_users"], witness["receive_delay_ms"], witness["jitter_buffer_ms"]
    print(
        f"    in the room after their agent: listen {late['listen']}, sdk {late['sdk']}; the SDK's receive "
        f"delay p50 {_ms(delay['p50'])} p90 {_ms(delay['p90'])} (n {delay['n']}), its jitter buffer's own "
        f"figure (in ticks of 10 ms) {_ms(buffer['p50'])}; "
        f"{1000 * witness['cpu_s'] / witness['sessions']:.0f} ms CPU a session",
        flush=True,
    )
    joined = witness["marks"]["agent_joined"]["difference_p50_ms"]
    heard = witness["marks"]["first_audio"] if spread else witness["join_to_audio"]
    audio = heard["difference_p50_ms"]
    less_delay = None if audio is None else abs(audio - (delay["p50"] or 0.0))
    near = (joined is None or abs(joined) <= JOIN_MS) and (less_delay is None or less_delay <= AUDIO_MS)
    print(f"    {'as it should be' if same and near else 'NOT as it should be'}", flush=True)
    return same and near


def _ms(value: float | None) -> str:
    return "       -" if value is None else f"{value:8.1f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(description="engine listen beside the official SDK")
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], metavar="CASE")
    parser.add_argument("--bursts", type=int, default=10)
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--real", action="store_true")
    arguments = parser.parse_args()
    spread = arguments.pairs or arguments.real
    good = []
    for case in arguments.cases or CASES:
        summary = run(case, arguments.bursts, pairs=arguments.pairs, real=arguments.real)
        good.append(compare(case, summary["witness"], spread=spread))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
