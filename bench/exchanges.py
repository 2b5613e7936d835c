"""What an HTTP exchange costs by the two sans-IO parsers for it: httptools, which we use, and h11.

    python bench/exchanges.py [--rounds 5]

A request's bytes, and what is made of its answer, be it 130 bytes or the acceptance of an upgrade:
microseconds of CPU each, the best of so many rounds in turn, and the ratio. Needs ``pip install h11``.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Final

from lk_users.wire.exchange import Answer, request_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

EXCHANGES: Final = 5_000
_DATE: Final = b"Date: Sun, 29 Nov 2026 18:00:00 GMT\r\n"
PLAIN: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/protobuf\r\nContent-Length: 130\r\n" + _DATE
    + b"\r\n" + b"x" * 130
)  # fmt: skip
UPGRADE: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x82\x02hi"
)
_UPGRADING: Final = (("Upgrade", "websocket"), ("Connection", "Upgrade"))


def by_httptools(data: bytes) -> tuple[int, bytes]:
    answer = Answer()
    request_bytes("GET", "/", [("Host", "a"), *(_UPGRADING if data is UPGRADE else ())])
    answer.receive(data)
    return answer.status, bytes(answer.body) or answer.rest


def by_h11(data: bytes) -> tuple[int, bytes]:
    import h11

    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", "a"), *(_UPGRADING if data is UPGRADE else ())]
    connection.send(h11.Request(method="GET", target="/", headers=headers))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    status, body = 0, b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return status, body
        elif event is h11.PAUSED:
            return status, connection.trailing_data[0]


def cpu_us(read: Callable[[bytes], tuple[int, bytes]], data: bytes) -> float:
    began_s = time.process_time()
    for _ in range(EXCHANGES):
        read(data)
    return 1e6 * (time.process_time() - began_s) / EXCHANGES


def main() -> None:
    parser = argparse.ArgumentParser(description="what an HTTP exchange costs by httptools and by h11")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    try:
        for data in (PLAIN, UPGRADE):
            assert by_httptools(data) == by_h11(data)
    except ImportError:
        sys.exit("pip install h11")
    for name, data in (("with an answer", PLAIN), ("with an upgrade", UPGRADE)):
        took_us = [[cpu_us(read, data) for read in (by_httptools, by_h11)] for _ in range(rounds)]
        ours_us, theirs_us = map(min, zip(*took_us, strict=True))
        ratio = ours_us / theirs_us
        print(f"an exchange {name}: httptools {ours_us:.1f} us, h11 {theirs_us:.1f}, {ratio:.2f} times")


if __name__ == "__main__":
    main()
