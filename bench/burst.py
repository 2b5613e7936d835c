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

import sys
from typing import TYPE_CHECKING, Any

from onerun import run

if TYPE_CHECKING:
    from onerun import Run


def cpu_ms(summary: dict[str, Any], up_to: str = "cpu_s") -> float:
    """CPU a session, over all workers: to the last decision, or (``welcome_cpu_s``) to the last welcome."""
    total_s = sum(worker[up_to] for worker in summary["workers"])
    return 1000.0 * float(total_s) / float(summary["sessions"]["recorded"])


def figures(name: str, done: Run) -> str:
    """One line of a table; of a void run, why it says nothing."""
    summary = done.summary
    if summary["void_reasons"]:
        return f"{name} | exit {done.code}: {'; '.join(summary['void_reasons'])}"
    seen, heard = summary["marks"]["agent_seen"], summary["marks"]["first_audio"]
    start, sessions = summary["start_error_ms"], summary["sessions"]["recorded"]
    lags = [worker["start_lag_ms"] for worker in summary["workers"]]
    cells = (
        name,
        f"{summary['outcomes'].get('ok', 0)} of {sessions} ok, exit {done.code}",
        f"start error p99 {start['p99']:.1f}, max {start['max']:.1f} ms",
        f"agent seen p50 {seen['p50'] / 1000:.1f} s",
        f"heard p50 {heard['p50'] / 1000:.1f}, max {heard['max'] / 1000:.1f} s",
        f"lag p95 {max(lag['p95'] for lag in lags):.0f}, max {max(lag['max'] for lag in lags):.0f} ms",
        f"{cpu_ms(summary):.1f} ms CPU a session",
        f"{done.wall_s:.0f} s in all",
    )
    return " | ".join(cells)


def users_cost(users: int, way: str, *options: str, held_s: float = 0.0) -> tuple[float, float]:
    """What a session costs, in ms of CPU, and the seconds to the last welcome: a run, less the same run on an
    engine that does nothing. ``held_s``: how long users stay after that."""
    listen = run(users, "--dispatch", way, "--watch", f"{held_s:.1f}", *options)
    name = f"{users:,} by {way}" + (f", held {held_s:.0f} s" if held_s else "")
    print(figures(name, listen), flush=True)
    length_s = listen.last_welcome_s
    idle = run(users, "--engine", "idle", "--watch", f"{length_s + held_s:.1f}", *options)
    # A session that never hears its welcome holds all others to its deadline: no part of their way to theirs.
    idle_ms = cpu_ms(idle.summary)
    cost_ms = cpu_ms(listen.summary, "cpu_s" if held_s else "welcome_cpu_s") - idle_ms
    reads_ms = 1000 * sum(worker["read_cpu_s"] for worker in listen.summary["workers"]) / users
    print(
        f"    less the same run on an engine that does nothing ({idle_ms:.1f} ms): "
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
            done = run(600, "--dispatch", "room", "--mic", choice, "--watch", held_s, *extra)
            print(figures(f"600 by room, mic {choice}, held {held_s} s", done), flush=True)
            costs_ms[choice, held_s] = cpu_ms(done.summary)
    more_ms = {held_s: costs_ms["silence", held_s] - costs_ms["none", held_s] for held_s in ("0", "60")}
    held = (more_ms["60"] - more_ms["0"]) / 60_000
    print(f"    a microphone: {more_ms['0']:.1f} ms a session, {100 * held:.3f} % of a core while held")


def score(*extra: str) -> None:
    noisy = '{"lk": {"fault": "background"}}'
    done = run(100, "--dispatch", "room", "--metadata", noisy, "--welcome", "track", "--watch", "65", *extra)
    print(figures("100 listening to ambience for 65 s", done))
    print(f"    worst score: {done.summary['users']['worst_quality']}")


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
