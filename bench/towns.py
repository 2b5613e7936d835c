"""Regions as network namespaces, and a watcher of what leaves them, by the kernel's own clock.

A town reaches this machine by its own veth, and the server at one address that is the same for all. Needs
root and ``ip`` (Debian: iproute2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import select
import shutil
import socket
import struct
import subprocess
import threading
from dataclasses import dataclass
from typing import Any, Final, Self

SERVER: Final = "10.98.0.1"
NET: Final = "10.98"
NS_PER_S: Final = 1_000_000_000
# <asm/socket.h>; Python's socket module has not got them.
SO_ATTACH_FILTER: Final = 26
SO_TIMESTAMPNS: Final = 35
ETH_P_ALL: Final = 3
RECEIVE_BYTES: Final = 8 << 20


class Lacking(RuntimeError):
    """This machine can't have network namespaces; says what would do."""


@dataclass(frozen=True)
class Town:
    """A namespace: ``near`` is this machine as it sees it, over ``device``."""

    name: str
    device: str
    near: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """By which a command runs in it."""
        return ("ip", "netns", "exec", self.name)


class Towns:
    """So many namespaces, while in the block."""

    def __init__(self, count: int) -> None:
        """Raises Lacking."""
        if os.geteuid() != 0 or shutil.which("ip") is None:
            raise Lacking("needs root and `ip` (Debian: iproute2), to make network namespaces")
        mark = secrets.token_hex(3)
        self.towns = [
            Town(f"lk{mark}{number}", f"lk{mark}{number}a", f"{NET}.{number}.1")
            for number in range(1, count + 1)
        ]

    def __enter__(self) -> Self:
        try:
            for town in self.towns:
                self._found(town)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for town in self.towns:
            for command in (f"link del {town.device}", f"netns del {town.name}"):
                subprocess.run(["ip", *command.split()], check=False, capture_output=True)

    @property
    def server_extra(self) -> dict[str, Any]:
        """Of the server's configuration: it is at ``SERVER``, signalling and media."""
        return {
            "bind_addresses": [SERVER, "127.0.0.1"],
            "rtc": {
                "interfaces": {"includes": [self.towns[0].device]},
                "ips": {"includes": [f"{SERVER}/32"]},
                "node_ip": SERVER,
            },
        }

    def _found(self, town: Town) -> None:
        inside, inner = town.near[:-1] + "2", f"{town.name}b"
        commands = [
            f"netns add {town.name}",
            f"link add {town.device} type veth peer name {inner}",
            f"link set {inner} netns {town.name}",
            f"addr add {town.near}/30 dev {town.device}",
            f"link set {town.device} up",
            f"-n {town.name} addr add {inside}/30 dev {inner}",
            f"-n {town.name} link set {inner} up",
            f"-n {town.name} link set lo up",
            f"-n {town.name} route add default via {town.near}",
        ]
        if town is self.towns[0]:
            commands.append(f"addr add {SERVER}/32 dev {town.device}")
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True, capture_output=True)


def post_filter(port: int) -> list[tuple[int, int, int, int]]:
    """Classic BPF, (code, true, false, k) each: IPv4 TCP to ``port`` whose payload begins with ``POST``."""
    return [
        (0x28, 0, 0, 12),  # ldh: EtherType
        (0x15, 0, 14, 0x0800),
        (0x30, 0, 0, 23),  # ldb: protocol
        (0x15, 0, 12, 6),
        (0x28, 0, 0, 20),  # ldh: fragment
        (0x45, 10, 0, 0x1FFF),
        (0xB1, 0, 0, 14),  # x: length of the IP header
        (0x48, 0, 0, 16),  # ldh: TCP's destination
        (0x15, 0, 7, port),
        (0x50, 0, 0, 26),  # ldb: TCP's data offset
        (0x54, 0, 0, 0xF0),
        (0x74, 0, 0, 2),
        (0x0C, 0, 0, 0),
        (0x07, 0, 0, 0),  # x: length of both headers
        (0x40, 0, 0, 14),  # ld: the payload's first four bytes
        (0x15, 1, 0, 0x504F5354),
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 65_535),
    ]


class Watch:
    """When each session's dispatch request left its town, stamped by the kernel (CLOCK_REALTIME, ns), while
    in the block. ``sent_ns``: (burst, ordinal) → the first of them."""

    def __init__(self, towns: list[Town], port: int) -> None:
        self.sent_ns: dict[tuple[int, int], int] = {}
        self._sockets = [self._open(town.device, port) for town in towns]
        self._over = False
        self._thread = threading.Thread(target=self._watch, name="watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()
        for one in self._sockets:
            one.close()

    def _open(self, device: str, port: int) -> socket.socket:
        program = b"".join(struct.pack("HBBI", *step) for step in post_filter(port))
        buffer = ctypes.create_string_buffer(program)
        head = struct.pack("HL", len(program) // 8, ctypes.addressof(buffer))
        one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        one.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, head)
        one.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        with contextlib.suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        one.bind((device, ETH_P_ALL))
        return one

    def _watch(self) -> None:
        while not self._over:
            ready, _, _ = select.select(self._sockets, [], [], 0.2)
            for one in ready:
                self._take(one)

    def _take(self, one: socket.socket) -> None:
        data, extras, _, _ = one.recvmsg(65_536, 64)
        found = re.search(rb"CreateDispatch .*lk-[0-9A-Za-z-]+-b(\d+)-(\d+)", data, re.DOTALL)
        stamps = [extra for level, kind, extra in extras if (level, kind) == (1, SO_TIMESTAMPNS)]
        if found and stamps:
            seconds, rest_ns = struct.unpack("qq", stamps[0][:16])
            key = int(found[1]), int(found[2])
            self.sent_ns.setdefault(key, seconds * NS_PER_S + rest_ns)
