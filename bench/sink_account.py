"""The burst as ever, with an account of what its stream to InfluxDB takes of the process. A locustfile, for
``bench/influx.py share``; the account goes to the file that SINK_ACCOUNT names.

A stretch is what a greenlet does until another one goes on: for so long neither other greenlets nor, for want
of the interpreter's lock, the sessions get on. It is CPU of the thread, so that what else the machine does
meanwhile does not count.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import greenlet

from lk_users import AgentUser
from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.influx_stream import InfluxStream
from lk_users.sinks.gate import Gate

if TYPE_CHECKING:
    from lk_users.sinks.points import Point

# That of ``start_lag_ms`` in summary.json.
WINDOW_NS = (-NS_PER_S, 5 * NS_PER_S)
# Longer than 600 users take to write.
RELEASE_NS = 50 * NS_PER_MS


class Caller(AgentUser):
    pass


class Account:
    """Of the one stream of this process."""

    def __init__(self) -> None:
        self.t0_ns = 0
        self._stretches: list[tuple[int, int]] = []
        self._began: tuple[int, int] | None = None
        self._streams: set[object] = set()

    def follow(self, stream: object) -> None:
        """From now on, when this greenlet runs."""
        self._streams.add(stream)
        self._begin()

    def switched(self, event: str, between: tuple[object, object]) -> None:
        """For ``greenlet.settrace``."""
        if self._began is not None:
            at_ns, cpu_ns = self._began
            self._stretches.append((at_ns, time.thread_time_ns() - cpu_ns))
            self._began = None
        if between[1] in self._streams:
            self._begin()

    def _begin(self) -> None:
        self._began = (time.monotonic_ns(), time.thread_time_ns())

    def took(self, cpu_ns: int) -> None:
        """In a greenlet of somebody else."""
        self._stretches.append((time.monotonic_ns(), cpu_ns))

    def told(self) -> dict[str, Any]:
        first_ns, last_ns = (self.t0_ns + offset_ns for offset_ns in WINDOW_NS)
        inside = [(at_ns, cpu_ns) for at_ns, cpu_ns in self._stretches if first_ns <= at_ns < last_ns]
        lengths_ms = [cpu_ns / NS_PER_MS for _, cpu_ns in inside]
        release_ns = self.t0_ns + RELEASE_NS
        return {
            "cpu_ms": sum(lengths_ms),
            "cpu_percent": 100 * sum(lengths_ms) * NS_PER_MS / (last_ns - first_ns),
            "longest_ms": max(lengths_ms, default=0.0),
            "release_cpu_ms": sum(cpu_ns for at_ns, cpu_ns in inside if self.t0_ns <= at_ns < release_ns)
            / NS_PER_MS,
            "run_cpu_ms": sum(cpu_ns for _, cpu_ns in self._stretches) / NS_PER_MS,
        }


def keep(account: Account, path: Path) -> None:
    """An account of this process from now to its end."""
    work, add, announce = InfluxStream._work, InfluxStream.add, Gate.announce

    def followed(stream: InfluxStream) -> None:
        account.follow(greenlet.getcurrent())
        work(stream)

    def timed(stream: InfluxStream, point: Point) -> None:
        began_ns = time.thread_time_ns()
        add(stream, point)
        account.took(time.thread_time_ns() - began_ns)

    def announced(gate: Gate, last_ns: int) -> None:
        account.t0_ns = last_ns
        announce(gate, last_ns)

    for owner, name, method in (
        (InfluxStream, "_work", followed), (InfluxStream, "add", timed), (Gate, "announce", announced),
    ):  # fmt: skip
        setattr(owner, name, method)
    greenlet.settrace(account.switched)
    atexit.register(lambda: path.write_text(json.dumps(account.told())))


keep(Account(), Path(os.environ["SINK_ACCOUNT"]))
