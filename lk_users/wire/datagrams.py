"""A user's UDP socket, and the common reader of those that can wait.

A user who is alone in the room gets nothing but keepalives, and one who has heard its welcome little else; to
be woken up for each costs more than to read it (``ticks``, ``bench/reading.py``). So the sockets of all such
users are looked at together, once a tick, and when a datagram came is asked of the kernel (Linux's has it; on
other systems nothing waits). As soon as there is somebody to hear, the user's socket is the loop's own again,
and every datagram is read when it comes.
"""

from __future__ import annotations

import asyncio
import fcntl
import selectors
import socket
import struct
import sys

# The C type: under Locust socket.socket is gevent's, each with a hub and watchers of its own.
from _socket import socket as NativeSocket  # noqa: N812
from typing import TYPE_CHECKING, Any

from lk_users.clock import NS_PER_S
from lk_users.wire.ticks import next_tick_s

if TYPE_CHECKING:
    from collections.abc import Callable

# More than a datagram of WebRTC has: all keep below the 1,500 bytes of an Ethernet frame.
DATAGRAM_BYTES = 2048
# As aioice's own sockets have.
RECEIVE_BUFFER_BYTES = 262_144
# Linux, socket(7): when the datagram that was read last had come, as a struct timespec of the wall clock.
SIOCGSTAMPNS = 0x8907
TIMESPEC = struct.Struct("@ll")
# From one socket in one tick: more than a voice sends meanwhile, and yet a flood does not take the loop.
READS_A_TICK = 16


class TickReader:
    """Reads the sockets it is given once a tick, for as long as there are any; one for all of a loop.

    ``selector``: of the system's own; gevent's has no hub to wait in.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._ticking = False

    def add(self, sock: NativeSocket, read: Callable[[], None]) -> None:
        self._selector.register(sock, selectors.EVENT_READ, read)
        if not self._ticking:
            self._ticking = True
            self._later()

    def discard(self, sock: NativeSocket) -> None:
        self._selector.unregister(sock)

    def _later(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_at(next_tick_s(loop), self._tick)

    def _tick(self) -> None:
        if not self._selector.get_map():
            self._ticking = False
            return
        # First, so that there is a next tick even if something goes wrong in this one.
        self._later()
        for _ in range(READS_A_TICK):
            ready = self._selector.select(0)
            if not ready:
                return
            for key, _ in ready:
                key.data()


class Datagrams(asyncio.DatagramTransport):
    """A UDP socket on ``address``, with a port of the system's choice. Read at once to begin with.

    Raises OSError where there is no such address.
    """

    def __init__(self, address: str, reader: TickReader | None) -> None:
        super().__init__()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = NativeSocket(family, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            self._socket.bind((address, 0))
        except OSError:
            self._socket.close()
            raise
        self._reader = reader
        self._protocol: asyncio.DatagramProtocol = asyncio.DatagramProtocol()
        self._loop = asyncio.get_running_loop()
        self.by_tick = False
        """Is it read once a tick?"""
        self.stamped = False
        """Is it known when its datagrams came? From the first time on that they could wait."""
        self._start_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.DatagramProtocol)
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``sockname`` and ``socket`` are known."""
        if name == "sockname":
            return self._socket.getsockname()
        return self._socket if name == "socket" else default

    def pace(self, *, by_tick: bool) -> None:
        """Read once a tick, where there is a reader for it, or else whatever comes when it comes."""
        if self._reading and self._reader is not None and by_tick is not self.by_tick:
            self.stamped = self.stamped or (by_tick and _stamp_ns(self._socket) is not None)
            if by_tick and not self.stamped:
                return
            self._stop_reading()
            self.by_tick = by_tick
            self._start_reading()

    def waited_ns(self, wall_ns: int) -> int:
        """How long the datagram that was read last had been there by ``wall_ns``; 0 where that is not
        known, since it was read at once."""
        stamp_ns = _stamp_ns(self._socket) if self.stamped else None
        return max(0, wall_ns - stamp_ns) if stamp_ns else 0

    def hush(self) -> None:
        """Read nothing more, but keep the port."""
        if self._reading:
            self._stop_reading()
            # What comes still is not to pile up in the kernel: the smallest buffer it has.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)

    def close(self) -> None:
        self.hush()
        self._socket.close()

    abort = close

    def is_closing(self) -> bool:
        return self._socket.fileno() < 0

    def sendto(self, data: Any, addr: Any = None) -> None:
        try:
            self._socket.sendto(data, addr)
        except BlockingIOError:
            # Its few datagrams a second don't fill a socket's buffer; a network would drop it as well.
            pass
        except OSError as exc:
            self._protocol.error_received(exc)

    def _start_reading(self) -> None:
        self._reading = True
        if self.by_tick and self._reader is not None:
            self._reader.add(self._socket, self._read)
        else:
            self._loop.add_reader(self._socket, self._read)

    def _stop_reading(self) -> None:
        self._reading = False
        if self.by_tick and self._reader is not None:
            self._reader.discard(self._socket)
        else:
            self._loop.remove_reader(self._socket)

    def _read(self) -> None:
        """One datagram: to ask for another that is not there costs more than to be called again."""
        # What the one before told may have been the end of this user.
        if not self._reading:
            return
        try:
            data, addr = self._socket.recvfrom(DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:
            self._protocol.error_received(exc)
            return
        self._protocol.datagram_received(data, addr)


def _stamp_ns(sock: NativeSocket) -> int | None:
    """When the datagram that was read last had come, by the wall clock: 0 for none, None where the kernel
    does not note it. It does from the first time on that it is asked."""
    if sys.platform != "linux":
        return None
    try:
        seconds, ns = TIMESPEC.unpack(fcntl.ioctl(sock.fileno(), SIOCGSTAMPNS, bytes(TIMESPEC.size)))
    except FileNotFoundError:
        return 0
    except OSError:
        return None
    return int(seconds * NS_PER_S + ns)
