"""What precedence brings to a release on a busy machine.

    python bench/release.py [--writes 600] [--rounds 20]

So many TCP connections over loopback to a process that reads, with as many more processes at work as there
are cores, each in a session of its own as servers are; beside us a thread of ours with something to do each
millisecond, as the greenlets have while a burst begins. In turn, a round with and a round without: the moment
after each write, from the first, as percentiles over all rounds, and the ratio.
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
from lk_users.priority import Precedence
from lk_users.stats import percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

REQUEST: Final = b"POST /twirp/livekit.AgentDispatchService/CreateDispatch HTTP/1.1\r\n" + b"x" * 600
AT_WORK: Final = "while True: sum(range(1000))"


def read_all(listener: socket.socket) -> None:
    """Until killed: take every connection, read whatever comes."""
    os.setsid()
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


def moments_ms(sockets: Sequence[socket.socket]) -> list[float]:
    """Of one round."""
    began_ns = time.monotonic_ns()
    moments_ns = []
    for end in sockets:
        os.write(end.fileno(), REQUEST)
        moments_ns.append(time.monotonic_ns() - began_ns)
    return [moment_ns / NS_PER_MS for moment_ns in moments_ns]


def main() -> None:
    parser = argparse.ArgumentParser(description="a release, with and without precedence")
    parser.add_argument("--writes", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=arguments.writes)
    reader = os.fork()
    if not reader:
        read_all(listener)
    at_work = (sys.executable, "-c", AT_WORK)
    workers = [subprocess.Popen(at_work, start_new_session=True) for _ in range(os.cpu_count() or 1)]
    sockets = [socket.create_connection(listener.getsockname()) for _ in range(arguments.writes)]
    over = threading.Event()
    beside = threading.Thread(target=small_tasks, args=(over,))
    beside.start()
    precedence = Precedence()
    without_ms: list[float] = []
    with_ms: list[float] = []
    try:
        for _ in range(arguments.rounds):
            # So that what the last round sent has been read.
            time.sleep(0.1)
            without_ms += moments_ms(sockets)
            time.sleep(0.1)
            precedence.take()
            with_ms += moments_ms(sockets)
            precedence.give_back()
    finally:
        over.set()
        beside.join()
        for worker in workers:
            worker.kill()
            worker.wait()
        os.kill(reader, 9)
        os.waitpid(reader, 0)
    for p in (50, 99, 100):
        without, preceding = percentile(sorted(without_ms), p), percentile(sorted(with_ms), p)
        assert without is not None
        assert preceding is not None
        print(f"p{p:<3} without {without:.1f} ms, with {preceding:.1f} ms: {preceding / without:.2f} times")


if __name__ == "__main__":
    main()
