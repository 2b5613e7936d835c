"""What it saves to read once a tick what can wait.

    python bench/reading.py [--users 600] [--every 2] [--rounds 5] [--seconds 10]

So many users on one loop, each with a UDP socket, whom another process sends a datagram every 2 s, each at
its own moment, as a server checks its connections; each answers. In turn they have the loop's own transport
(create_datagram_endpoint), ours (Datagrams) read at once, and ours read by tick: CPU of this process a
second, each round, and the ratio to the loop's own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import selectors
import sys
from typing import Final

import uvloop
from window import cpu_ms_a_second

from lk_users.wire.datagrams import Datagrams, TickReader

LOOPBACK: Final = "127.0.0.1"
WAYS: Final = ("the loop's own", "at once", "by tick")
SENDER: Final = """
import heapq, json, random, socket, sys, time
every_s, ports = json.loads(sys.stdin.readline())
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
    due = [(time.monotonic() + random.random() * every_s, port) for port in ports]
    heapq.heapify(due)
    while True:
        at_s, port = due[0]
        time.sleep(max(0.0, at_s - time.monotonic()))
        door.sendto(b"x" * 100, ("127.0.0.1", port))
        heapq.heapreplace(due, (at_s + every_s * (0.8 + 0.4 * random.random()), port))
"""


class User(asyncio.DatagramProtocol):
    """Answers whatever comes."""

    transport: asyncio.DatagramTransport
    answered = 0

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.answered += 1
        self.transport.sendto(data, addr)


async def opened(way: str, reader: TickReader) -> User:
    user = User()
    if way == WAYS[0]:
        loop = asyncio.get_running_loop()
        user.transport, _ = await loop.create_datagram_endpoint(lambda: user, local_addr=(LOOPBACK, 0))
        return user
    own = user.transport = Datagrams(LOOPBACK, reader)
    own.set_protocol(user)
    own.pace(by_tick=way == WAYS[2])
    return user


async def reading(way: str, count: int, every_s: float, seconds: float) -> float:
    reader = TickReader(selectors.DefaultSelector())
    users = [await opened(way, reader) for _ in range(count)]
    ports = [user.transport.get_extra_info("sockname")[1] for user in users]
    command = (sys.executable, "-c", SENDER)
    sender = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
    assert sender.stdin is not None
    sender.stdin.write(json.dumps([every_s, ports]).encode() + b"\n")
    try:
        await asyncio.sleep(every_s)
        return await cpu_ms_a_second(
            lambda: sum(user.answered for user in users), count / every_s, seconds, within=0.1
        )
    finally:
        sender.kill()
        await sender.wait()
        for user in users:
            user.transport.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=600)
    parser.add_argument("--every", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    for number in range(given.rounds):
        used_ms = {way: uvloop.run(reading(way, given.users, given.every, given.seconds)) for way in WAYS}
        own_ms = used_ms[WAYS[0]]
        told = ", ".join(
            f"{way} {ms:.1f} ms a second ({ms / own_ms:.2f} times)" for way, ms in used_ms.items()
        )
        print(f"round {number + 1}: {told}", flush=True)


if __name__ == "__main__":
    main()
