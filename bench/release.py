"""What keeping the interpreter's lock brings to a release on a busy machine: raw_write while no other thread
gets it, beside os.write as Python has it.

    python bench/release.py [--writes 600] [--rounds 20]

So many TCP connections over loopback to a process that reads, with as many more processes at work as there
are cores; beside us a thread of ours with something to do each millisecond, as the greenlets have while a
burst begins. In turn, each write of a round by the one or the other: the moment after each, from the first,
as percentiles over all rounds, and the ratio.
"""

from __future__ import annotations

import argparse
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from lk_users.clock import NS_PER_MS
from lk_users.priority import LOCK_KEPT_S, first_in_line
from lk_users.stats import spread_ms
from lk_users.wire.raw_write import raw_write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REQUEST: Final = b"POST /twirp/livekit.AgentDispatchService/CreateDispatch HTTP/1.1\r\n" + b"x" * 600
AT_WORK: Final = "while True: sum(range(1000))"


def read_all(listener: socket.socket) -> None:
    """Until killed: take every connection, read whatever comes."""
    with selectors.DefaultSelector() as chosen:
        chosen.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in chosen.select():
                if key.fileobj is listener:
                    chosen.register(listener.accept()[0], selectors.EVENT_READ)
                else:
                    os.read(key.fd, 65_536)


def small_tasks(over: threading.Event) -> None:
    while not over.wait(0.001):
        sum(range(2_000))


def moments_ms(
    write: Callable[[int, bytes], int], lock_s: float, sockets: Sequence[socket.socket]
) -> list[float]:
    """Of one round. ``lock_s``: how long another thread asks for the lock before it gets it."""
    with first_in_line():
        sys.setswitchinterval(lock_s)
        began_ns = time.monotonic_ns()
        moments_ns = []
        for end in sockets:
            write(end.fileno(), REQUEST)
            moments_ns.append(time.monotonic_ns() - began_ns)
    return [moment_ns / NS_PER_MS for moment_ns in moments_ns]


def main() -> None:
    parser = argparse.ArgumentParser(description="a release, with and without the interpreter's lock")
    parser.add_argument("--writes", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=arguments.writes)
    reader = os.fork()
    if not reader:
        read_all(listener)
    workers = [subprocess.Popen([sys.executable, "-c", AT_WORK]) for _ in range(os.cpu_count() or 1)]
    sockets = [socket.create_connection(listener.getsockname()) for _ in range(arguments.writes)]
    over = threading.Event()
    beside = threading.Thread(target=small_tasks, args=(over,))
    beside.start()
    seen: dict[str, list[float]] = {"os.write": [], "raw_write": []}
    try:
        for _ in range(arguments.rounds):
            for name, write, lock_s in (
                ("os.write", os.write, sys.getswitchinterval()),
                ("raw_write", raw_write, LOCK_KEPT_S),
            ):
                # So that what the last round sent has been read.
                time.sleep(0.1)
                seen[name] += moments_ms(write, lock_s, sockets)
    finally:
        over.set()
        beside.join()
        for worker in workers:
            worker.kill()
            worker.wait()
        os.kill(reader, 9)
        os.waitpid(reader, 0)
    figures = {name: spread_ms(values, (50, 99, 100)) for name, values in seen.items()}
    for name, figure in figures.items():
        print(f"{name:<9} p50 {figure['p50']:.1f}, p99 {figure['p99']:.1f}, max {figure['max']:.1f} ms")
    plain, kept = figures["os.write"], figures["raw_write"]
    print(
        "ratio     " + ", ".join(f"{name} {kept[name] / plain[name]:.2f}" for name in ("p50", "p99", "max"))
    )


if __name__ == "__main__":
    main()
