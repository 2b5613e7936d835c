"""What WebSocket frames cost by the two sans-IO libraries for them: websockets, which we use, and wsproto.

    python bench/frames.py [--rounds 5]

A client reads messages of the sizes that livekit-server sends (a pong, an update, a description) and writes
those that it gets (a ping, an offer): microseconds of CPU each, the best of so many rounds in turn, and the
ratio. Needs ``pip install wsproto``.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Final, Protocol

from websockets.frames import Frame
from websockets.protocol import Protocol as Frames
from websockets.protocol import Side
from websockets.utils import accept_key

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGES: Final = 5_000
RECEIVED_BYTES: Final = (20, 400, 2_500)
SENT_BYTES: Final = (12, 2_500)


class Client(Protocol):
    def receive(self, data: bytes) -> None: ...

    def send(self, message: bytes) -> bytes: ...


class ByWebsockets:
    def __init__(self) -> None:
        self._frames = Frames(Side.CLIENT)

    def receive(self, data: bytes) -> None:
        self._frames.receive_data(data)
        (frame,) = self._frames.events_received()
        assert isinstance(frame, Frame)
        bytes(frame.data)

    def send(self, message: bytes) -> bytes:
        self._frames.send_binary(message)
        return b"".join(self._frames.data_to_send())


class ByWsproto:
    def __init__(self) -> None:
        from wsproto import ConnectionType, WSConnection
        from wsproto.events import AcceptConnection, BytesMessage, Request

        self._message = BytesMessage
        self._ws = WSConnection(ConnectionType.CLIENT)
        request = self._ws.send(Request(host="lk.example.com", target="/rtc/v1"))
        (key,) = re.findall(rb"Sec-WebSocket-Key: (\S+)", request)
        self._ws.receive_data(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(key.decode()).encode() + b"\r\n\r\n"
        )
        assert [type(event) for event in self._ws.events()] == [AcceptConnection]

    def receive(self, data: bytes) -> None:
        self._ws.receive_data(data)
        (event,) = self._ws.events()
        assert isinstance(event, self._message)
        bytes(event.data)

    def send(self, message: bytes) -> bytes:
        return self._ws.send(self._message(data=message))


def server_frame(size: int) -> bytes:
    server = Frames(Side.SERVER)
    server.send_binary(os.urandom(size))
    return b"".join(server.data_to_send())


def cpu_us(work: Callable[[bytes], object], given: bytes) -> float:
    began_s = time.process_time()
    for _ in range(MESSAGES):
        work(given)
    return 1e6 * (time.process_time() - began_s) / MESSAGES


def main() -> None:
    parser = argparse.ArgumentParser(description="what WebSocket frames cost by websockets and by wsproto")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    try:
        clients: tuple[Client, Client] = (ByWebsockets(), ByWsproto())
    except ImportError:
        sys.exit("pip install wsproto")
    cases = [(f"read {size:,} bytes", "receive", server_frame(size)) for size in RECEIVED_BYTES]
    cases += [(f"write {size:,} bytes", "send", os.urandom(size)) for size in SENT_BYTES]
    for name, act, given in cases:
        took_us = [[cpu_us(getattr(client, act), given) for client in clients] for _ in range(rounds)]
        ours_us, theirs_us = map(min, zip(*took_us, strict=True))
        print(
            f"{name}: websockets {ours_us:.1f} us, wsproto {theirs_us:.1f}, {ours_us / theirs_us:.2f} times"
        )


if __name__ == "__main__":
    main()
