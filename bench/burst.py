"""Figures of whole bursts against the embedded stack: generator, server and agents share this machine.

    python bench/burst.py BENCH [OPTION …]     options as Locust takes them, for each run: ways --mic none

    ways        600 by api, room and token: what a user waits, CPU a session
    repeat      600 by api, ten times in a row
    processes   600 over two processes; 1,200 over two; 2,000 over four
    sizes       CPU a session at 1,200 over two processes against 200, by api and room: up to the last
                welcome that is heard, for which 1,200 wait longer, and with the 200 held as long
    mic         what a silent microphone costs a user, up to the welcome and while held
    score       the server's worst score of 100 users who listen for a minute
    udp-port    ten bursts of 400 on a server with one UDP port

KEEP=DIR in the environment keeps the run folders there.

CPU is compared in one go: each run is followed by one of the same length with an engine that does nothing
(``--engine idle``), and the difference is what the users cost.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lk_users.clock import NS_PER_S
from lk_users.local import stack
from lk_users.record import Mark, Record

LOCUSTFILE = Path(__file__).parent.parent / "locustfiles" / "burst.py"


def run(users: int, *options: str, udp_port: bool = False, locustfile: Path = LOCUSTFILE) -> dict[str, Any]:
    """One run's summary.json; with ``code``, ``wall_s`` and ``last_welcome_s``, from the session's T0."""
    with tempfile.TemporaryDirectory() as passing:
        kept = os.environ.get("KEEP")
        if kept:
            Path(kept).mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(dir=kept) if kept else passing
        command = [
            sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--only-summary",
            "--baseline", "0",
            "-u", str(users), "-r", str(users), "--agent-name", stack.AGENT_NAME, "--run-dir", folder,
            *options,
        ]  # fmt: skip
        quiet = ["sh", "-c", f"exec {shlex.join(command)} >/dev/null 2>&1"]
        started_s = time.monotonic()
        code = stack.run(quiet, udp_port=udp_port, say=lambda line: None)
        wall_s = time.monotonic() - started_s
        (found,) = Path(folder).glob("*/summary.json")
        summary: dict[str, Any] = json.loads(found.read_text())
        records = map(Record.from_json, (found.parent / "records.jsonl").read_text().splitlines())
        last_ns = max((record.marks_ns.get(Mark.WELCOMED, 0) for record in records), default=0)
        return {**summary, "code": code, "wall_s": wall_s, "last_welcome_s": last_ns / NS_PER_S}


def cpu_ms(summary: dict[str, Any], up_to: str = "cpu_s") -> float:
    """CPU a session, over all workers: to the last decision, or (``welcome_cpu_s``) to the last welcome."""
    total_s = sum(worker[up_to] for worker in summary["workers"])
    return 1000.0 * float(total_s) / float(summary["sessions"]["recorded"])


def figures(name: str, summary: dict[str, Any]) -> str:
    """One line of a table; of a void run, why it says nothing."""
    if summary["void_reasons"]:
        return f"{name} | exit {summary['code']}: {'; '.join(summary['void_reasons'])}"
    seen, heard = summary["marks"]["agent_seen"], summary["marks"]["first_audio"]
    start, sessions = summary["start_error_ms"], summary["sessions"]["recorded"]
    lags = [worker["start_lag_ms"] for worker in summary["workers"]]
    cells = (
        name,
        f"{summary['outcomes'].get('ok', 0)} of {sessions} ok, exit {summary['code']}",
        f"start error p99 {start['p99']:.1f}, max {start['max']:.1f} ms",
        f"agent seen p50 {seen['p50'] / 1000:.1f} s",
        f"heard p50 {heard['p50'] / 1000:.1f}, max {heard['max'] / 1000:.1f} s",
        f"lag p95 {max(lag['p95'] for lag in lags):.0f}, max {max(lag['max'] for lag in lags):.0f} ms",
        f"{cpu_ms(summary):.1f} ms CPU a session",
        f"{summary['wall_s']:.0f} s in all",
    )
    return " | ".join(cells)


def users_cost(users: int, way: str, *options: str, held_s: float = 0.0) -> tuple[float, float]:
    """What a session costs, in ms of CPU, and the seconds to the last welcome: a run, less the same run on an
    engine that does nothing. ``held_s``: how long users stay after that."""
    listen = run(users, "--dispatch", way, "--watch", f"{held_s:.1f}", *options)
    name = f"{users:,} by {way}" + (f", held {held_s:.0f} s" if held_s else "")
    print(figures(name, listen), flush=True)
    length_s = listen["last_welcome_s"]
    idle = run(users, "--engine", "idle", "--watch", f"{length_s + held_s:.1f}", *options)
    # A session that never hears its welcome holds all others to its deadline: no part of their way to theirs.
    cost_ms = cpu_ms(listen, "cpu_s" if held_s else "welcome_cpu_s") - cpu_ms(idle)
    reads_ms = 1000 * sum(worker["read_cpu_s"] for worker in listen["workers"]) / users
    print(
        f"    less the same run on an engine that does nothing ({cpu_ms(idle):.1f} ms): "
        f"{cost_ms:.1f} ms a session; reads and clean-up {reads_ms:.1f} ms",
        flush=True,
    )
    return cost_ms, length_s


def ways(*extra: str) -> None:
    for way in ("api", "room", "token"):
        users_cost(600, way, *extra)


def repeat(*extra: str) -> None:
    for number in range(1, 11):
        print(figures(f"600 by api, run {number}", run(600, *extra)), flush=True)


def processes(*extra: str) -> None:
    print(figures("600, 2 processes", run(600, "--processes", "2", *extra)), flush=True)
    print(figures("1,200, 2 processes", run(1200, "--processes", "2", *extra)), flush=True)
    print(figures("2,000, 4 processes", run(2000, "--processes", "4", *extra)), flush=True)


def sizes(*extra: str) -> None:
    for way in ("api", "room"):
        few_ms, few_s = users_cost(200, way, *extra)
        many_ms, many_s = users_cost(1200, way, "--processes", "2", *extra)
        held_ms, _ = users_cost(200, way, *extra, held_s=max(0.0, many_s - few_s))
        print(
            f"    1,200 against 200: {many_ms / few_ms:.2f} times the CPU a session, and "
            f"{many_ms / held_ms:.2f} times that of 200 who stay as long",
            flush=True,
        )


def mic(*extra: str) -> None:
    costs_ms: dict[tuple[str, str], float] = {}
    for held_s in ("0", "60"):
        for choice in ("none", "silence"):
            summary = run(600, "--dispatch", "room", "--mic", choice, "--watch", held_s, *extra)
            print(figures(f"600 by room, mic {choice}, held {held_s} s", summary), flush=True)
            costs_ms[choice, held_s] = cpu_ms(summary)
    more_ms = {held_s: costs_ms["silence", held_s] - costs_ms["none", held_s] for held_s in ("0", "60")}
    held = (more_ms["60"] - more_ms["0"]) / 60_000
    print(f"    a microphone: {more_ms['0']:.1f} ms a session, {100 * held:.3f} % of a core while held")


def score(*extra: str) -> None:
    noisy = '{"lk": {"fault": "background"}}'
    summary = run(
        100, "--dispatch", "room", "--metadata", noisy, "--welcome", "track", "--watch", "65", *extra
    )
    print(figures("100 listening to ambience for 65 s", summary))
    print(f"    worst score: {summary['users']['worst_quality']}")


def udp_port(*extra: str) -> None:
    options = ("--bursts", "10", "--dispatch", "room", "--session-timeout", "60")
    print(figures("10 x 400, one UDP port", run(400, *options, *extra, udp_port=True)), flush=True)


BENCHES = {
    "ways": ways,
    "repeat": repeat,
    "processes": processes,
    "sizes": sizes,
    "mic": mic,
    "score": score,
    "udp-port": udp_port,
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHES:
        sys.exit(f"usage: python bench/burst.py {'|'.join(BENCHES)} [OPTION …]")
    BENCHES[sys.argv[1]](*sys.argv[2:])
