"""What it saves that users who wait wake up together.

    python bench/ticks.py [--users 600] [--rounds 5] [--seconds 10]

So many users on one loop, each with a UDP socket, who send a datagram every 5 s, as a check of their
connection, and take its echo from another process. In turn they wake up when it suits them (asyncio.sleep)
and on ticks (sleep_about): CPU of this process a second, each round, and the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import uvloop
from window import cpu_ms_a_second

from lk_users.wire.ticks import sleep_about

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

INTERVAL_S: Final = 5.0
ECHO: Final = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
    door.bind(("127.0.0.1", 0))
    print(door.getsockname()[1], flush=True)
    while True:
        door.sendto(*door.recvfrom(2048))
"""


class Heard(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.count = 0

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.count += 1


async def user(port: int, heard: Heard, sleep: Callable[[float], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: heard, remote_addr=("127.0.0.1", port), family=socket.AF_INET
    )
    try:
        await asyncio.sleep(random.random() * INTERVAL_S)
        while True:
            transport.sendto(b"x" * 100)
            await sleep(INTERVAL_S * (0.8 + 0.4 * random.random()))
    finally:
        transport.close()


async def waiting(users: int, seconds: float, port: int, sleep: Callable[[float], Awaitable[None]]) -> float:
    heard = Heard()
    tasks = [asyncio.create_task(user(port, heard, sleep)) for _ in range(users)]
    await asyncio.sleep(INTERVAL_S)
    used_ms = await cpu_ms_a_second(lambda: heard.count, users / INTERVAL_S, seconds, within=0.3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return used_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    with subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True) as echo:
        assert echo.stdout is not None
        port = int(echo.stdout.readline())
        try:
            for number in range(given.rounds):
                alone, together = (
                    uvloop.run(waiting(given.users, given.seconds, port, sleep))
                    for sleep in (asyncio.sleep, sleep_about)
                )
                print(
                    f"round {number + 1}: each when it suits them {alone:.1f} ms a second, on ticks "
                    f"{together:.1f}: {together / alone:.2f} times",
                    flush=True,
                )
        finally:
            echo.kill()


if __name__ == "__main__":
    main()
