"""``lk-users calibrate``: bursts that grow until the generator's own loop lags, against a server here.

What is measured is whole runs, as they are: one process, a real server, agents with real media, and the
run's own figures of its health. Server and agents need cores too, and have the same ones. So what is carried
here is carried beside them; how fast they bring users in, and so how much comes at once, is their doing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from lk_users.capacity import BY_GENERATOR, Capacity
from lk_users.clock import NS_PER_S, SystemClock
from lk_users.report.summary import iso
from lk_users.settings.run import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lk_users.clock import Clock

FIRST: Final = 50
MOST: Final = 1600
STEP: Final = 50
BUDGET_S: Final = 150.0
# A larger burst takes longer, and the first of a new worker is the slowest.
SLOWER: Final = 1.2
# Half of what voids a run: a machine is not every day as it was today.
MARGIN: Final = 0.5
# The lag that was not exceeded for 95 % of the time; from here on it is a finding in a session's record.
LAG_MS: Final = 100.0
TRIES: Final = 2
# Up to so many of a burst's users the server may lose, and it was a burst of that size all the same.
LOST_SHARE: Final = 0.1
PATIENCE_S: Final = 120.0
SESSION_S: Final = 40
_FOREIGN: Final = ("LIVEKIT_", "LK_", "LOCUST_", "INFLUX_")
_LOCUSTFILE: Final = "from lk_users import AgentUser\n\n\nclass Caller(AgentUser):\n    pass\n"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One burst; times in ms. ``generator``: why the generator did not carry it; ``target``: why the server
    or its agents did not; both empty where all was well."""

    users: int
    generator: str = ""
    target: str = ""
    lag_p95_ms: float = 0.0
    stall_ms: float = 0.0
    start_error_ms: float = 0.0
    cpu_ms: float = 0.0
    other_cpu_ms: float = 0.0
    """Of server and agents, a session."""
    within_s: float = 0.0
    """From T0 to the welcome of 90 % of the users."""
    lost: int = 0
    """By the server or its agents."""
    took_s: float = 0.0

    @property
    def carried(self) -> bool:
        return not self.generator and not self.target


@dataclass(frozen=True)
class Climb:
    """All steps in their order, and what ended them: ``generator``, ``target``, ``asked`` or ``time``."""

    steps: tuple[Step, ...]
    ended_by: str

    @property
    def best(self) -> Step | None:
        """The largest that was carried."""
        return max((step for step in self.steps if step.carried), key=lambda step: step.users, default=None)


def climb(burst: Callable[[int], Step], most: int, budget_s: float, say: Callable[[Step], None]) -> Climb:
    """Doubles until a burst is not carried, then halves the gap for as long as it is worth it and there is
    time. One that is not carried is tried once more: something else may have had the machine for a moment.
    ``budget_s``: of all bursts together."""
    steps: list[Step] = []
    carried, failed, users = 0, 0, min(FIRST, most)
    while True:
        for _ in range(TRIES):
            step = burst(users)
            steps.append(step)
            say(step)
            if step.carried:
                break
        if step.target:
            return Climb(tuple(steps), "target")
        if step.generator:
            failed = users
        else:
            carried = users
        if carried == most:
            return Climb(tuple(steps), "asked")
        users = _next(carried, failed, most)
        if not users:
            return Climb(tuple(steps), BY_GENERATOR)
        spent_s = sum(step.took_s for step in steps)
        largest = max(steps, key=lambda step: step.users)
        if spent_s + SLOWER * largest.took_s * max(1.0, users / largest.users) > budget_s:
            return Climb(tuple(steps), BY_GENERATOR if failed else "time")


def _next(carried: int, failed: int, most: int) -> int:
    """How many to try; 0 where the gap is small enough: a quarter of what was carried."""
    if not failed:
        return min(2 * carried, most)
    if failed - carried <= max(STEP, carried // 4):
        return 0
    middle = (carried + failed) // 2
    return middle // STEP * STEP if middle >= 2 * STEP else middle


def judged(users: int, summary: Mapping[str, Any], took_s: float, other_cpu_s: float) -> Step:
    """One burst by its run's ``summary.json``."""
    (worker,) = summary["workers"]
    lag, start = worker["lag_ms"], summary["start_error_ms"]
    figures: dict[str, float] = {
        "lag_p95_ms": worker["start_lag_ms"]["p95"] if worker["start_lag_ms"] else 0.0,
        "stall_ms": lag["max"] if lag else 0.0,
        "start_error_ms": start["p99"] or 0.0,
        "cpu_ms": round(1000 * (worker["cpu_s"] or 0.0) / users, 2),
        "other_cpu_ms": round(1000 * other_cpu_s / users, 2),
        "within_s": round((summary["marks"]["welcomed"]["p90"] or 0.0) / 1000, 2),
        "took_s": round(took_s, 1),
    }
    return Step(
        users=users, generator=_why_not(figures, summary), target=_missing(users, summary),
        lost=int(summary["groups"]["lost"]), **figures,
    )  # fmt: skip


def _why_not(figures: Mapping[str, float], summary: Mapping[str, Any]) -> str:
    plain = Settings(users=1)
    limits = (
        ("start_error_ms", MARGIN * plain.max_start_error_ms, "its requests left {:.0f} ms late (p99)"),
        ("stall_ms", MARGIN * plain.max_stall_ms, "its loop stalled for {:.0f} ms"),
        ("lag_p95_ms", LAG_MS, "its loop lagged by {:.0f} ms (p95)"),
    )
    for name, limit, words in limits:
        if figures[name] > limit:
            return f"{words.format(figures[name])}, more than {limit:g}"
    return str(summary["void_reasons"][0]) if summary["void_reasons"] else ""


def _missing(users: int, summary: Mapping[str, Any]) -> str:
    """Sessions that the server or its agents lost, where those are many."""
    lost = int(summary["groups"]["lost"])
    if lost <= LOST_SHARE * users:
        return ""
    outcome = max(
        (name for name in summary["outcomes"] if name != "ok"), key=summary["outcomes"].get, default="lost"
    )
    cause = next(iter(summary["causes"].get(outcome, {})), "")
    return f"{lost} of {users} users got no welcome, most of them {outcome}" + (
        f" ({cause})" if cause else ""
    )


class Bursts:
    """Runs bursts against a stack. ``pids``: of the server and its agents."""

    def __init__(self, environ: Mapping[str, str], pids: Iterable[int], agent_name: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        self._environ = {**clean, **environ}
        self._pids = tuple(pids)
        self._agent_name = agent_name
        self._clock: Clock = SystemClock()

    def __call__(self, users: int) -> Step:
        """One burst of so many, by the token of each user: the users' own joins are then all that happens at
        T0, as close together as it gets."""
        started_ns, others_s = self._clock.monotonic_ns(), self._others_cpu_s()
        with tempfile.TemporaryDirectory(prefix="lk-users-calibrate-") as name:
            folder = Path(name)
            (folder / "locustfile.py").write_text(_LOCUSTFILE)
            command = [
                sys.executable, "-m", "locust", "-f", str(folder / "locustfile.py"), "--headless",
                "--only-summary", "-u", str(users), "-r", str(users), "--agent-name", self._agent_name,
                "--dispatch", "token", "--baseline", "0", "--session-timeout", str(SESSION_S),
                "--run-dir", f"{folder}/runs",
            ]  # fmt: skip
            said = self._run(command, folder)
            took_s = (self._clock.monotonic_ns() - started_ns) / NS_PER_S
            found = list(folder.glob("runs/*/summary.json"))
            if not found:
                return Step(users=users, generator=said or "its run made no summary", took_s=took_s)
            summary = json.loads(found[0].read_text())
        if len(summary["workers"]) != 1:
            return Step(users=users, generator="its run recorded nothing", took_s=took_s)
        return judged(users, summary, took_s, self._others_cpu_s() - others_s)

    def _run(self, command: list[str], folder: Path) -> str:
        """What is wrong with a run that makes no summary: its last line."""
        with (folder / "log").open("w") as log:
            child = subprocess.Popen(
                command, env=self._environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder
            )
            try:
                child.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                return f"its run was not over after {PATIENCE_S:.0f} s"
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
        lines = (folder / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _others_cpu_s(self) -> float:
        spent_s = 0.0
        for pid in self._pids:
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.Error:
                continue
            spent_s += times.user + times.system
        return spent_s


def capacity_of(climbed: Climb, clock: Clock) -> Capacity | None:
    """What there is to keep; None where nothing was carried."""
    best = climbed.best
    if best is None:
        return None
    return Capacity(
        users=best.users,
        limited_by=climbed.ended_by,
        measured_at=iso(clock.wall_ns()) or "",
        cpu_ms=best.cpu_ms,
        lag_p95_ms=best.lag_p95_ms,
        stall_ms=best.stall_ms,
        start_error_ms=best.start_error_ms,
    )


# What is printed.

COLUMNS: Final = (
    ("users", 8), ("start error", 13), ("lag p95", 11), ("stall", 11), ("CPU a user", 13), ("theirs", 10),
    ("90 % heard in", 16),
)  # fmt: skip
HEAD: Final = "".join(f"{name:>{width}}" for name, width in COLUMNS)


def row(step: Step) -> str:
    """One burst in the table."""
    if step.took_s and not step.within_s and not step.cpu_ms:
        return f"{step.users:>8,}   {step.generator}"
    cells = (
        f"{step.users:,}", f"{step.start_error_ms:.1f} ms", f"{step.lag_p95_ms:.0f} ms",
        f"{step.stall_ms:.0f} ms", f"{step.cpu_ms:.1f} ms", f"{step.other_cpu_ms:.1f} ms",
        f"{step.within_s:.1f} s",
    )  # fmt: skip
    figures = "".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True))
    why = step.generator or step.target
    if why:
        return f"{figures}   not carried: {why}"
    return figures + (f"   {step.lost} lost by the server" if step.lost else "")


def words(climbed: Climb, cores: int, planned: int) -> list[str]:
    """What it comes to, a sentence a line."""
    best = climbed.best
    if best is None:
        why = climbed.steps[-1].generator or climbed.steps[-1].target
        return [f"Not even {climbed.steps[-1].users} users were carried: {why}. Nothing was kept."]
    last = climbed.steps[-1]
    at_least = {
        "asked": f"It was asked for no more (--users {best.users}).",
        "time": "More would have taken too long here.",
        "target": f"At {last.users:,} the server or its agents gave out first: {last.target}.",
    }
    if climbed.ended_by == BY_GENERATOR:
        over = min((step for step in climbed.steps if step.generator), key=lambda step: step.users)
        found = [
            f"One process on this machine carries {best.users:,} users at one instant. {over.users:,} are "
            f"too many: {over.generator}."
        ]
    else:
        found = [
            f"One process on this machine carries at least {best.users:,} users at one instant. "
            f"{at_least[climbed.ended_by]}"
        ]
    busy_s = best.users * best.cpu_ms / 1000
    share = best.other_cpu_ms / (best.other_cpu_ms + best.cpu_ms) if best.cpu_ms else 0.0
    found += [
        f"Server and agents had the same {_cores(cores)} and took {100 * share:.0f} % of the CPU: with a "
        "server elsewhere a process has more to itself.",
        f"But a faster server also brings users in closer together: most of {best.users:,} came within "
        f"{best.within_s:.1f} s here, and are {busy_s:.1f} s of work for one core. Work that comes at once "
        "waits, and delays marks by as much; lag_ms in each record says by how much.",
    ]
    if climbed.ended_by != BY_GENERATOR and best.users < planned:
        found.append(f"That is below the {planned:,} that are planned for anyway, so it changes nothing.")
    return found


def _cores(cores: int) -> str:
    return "core" if cores == 1 else f"{cores} cores"
