"""Where to connect, and in a few words why that did not work."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from dataclasses import dataclass

from lk_users.errors import ConnectionCut, EngineCrashed


@dataclass(frozen=True)
class Endpoint:
    """Where to connect: resolved once, since a look-up inside the loop would need a thread."""

    addresses: tuple[str, ...]
    port: int
    host_header: str
    tls: ssl.SSLContext | None = None
    server_name: str = ""

    @classmethod
    def resolve(cls, host: str, port: int, host_header: str, *, tls: bool) -> Endpoint:
        """Look the host up (blocking). Raises ConnectionCut if it has no address."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as exc:
            raise ConnectionCut(f"{host} cannot be resolved ({exc.strerror or exc})") from exc
        addresses = tuple(dict.fromkeys(str(item[4][0]) for item in found))
        context = ssl.create_default_context() if tls else None
        return cls(addresses, port, host_header, context, host if tls else "")

    @classmethod
    def nowhere(cls) -> Endpoint:
        """Of a server that is not known yet."""
        return cls((), 0, "")

    @property
    def loopback(self) -> bool:
        """Is it on this machine, and only there?"""
        return bool(self.addresses) and all(
            ipaddress.ip_address(address).is_loopback for address in self.addresses
        )

    async def connect(self, protocol: asyncio.Protocol) -> None:
        """Open a TCP connection to the first address that takes one. Raises ConnectionCut, and EngineCrashed
        without an address: that a name can't be resolved here says nothing about the server."""
        if not self.addresses:
            raise EngineCrashed(f"{self.host_header} cannot be resolved on this machine")
        loop = asyncio.get_running_loop()
        cause = ""
        for address in self.addresses:
            try:
                await loop.create_connection(lambda: protocol, address, self.port)
            except (TimeoutError, OSError) as exc:
                cause = connection_cause(exc)
            else:
                return
        raise ConnectionCut(cause)


def connection_cause(exc: BaseException | None) -> str:
    """A short phrase for why a connection could not be had or broke."""
    if exc is None:
        return "closed by the server"
    if isinstance(exc, ConnectionRefusedError):
        return "connection refused"
    if isinstance(exc, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)):
        return "connection reset"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate not trusted ({exc.verify_message})"
    if isinstance(exc, ssl.SSLError):
        return f"TLS failed ({exc.reason or exc})"
    if isinstance(exc, TimeoutError):
        return "connection timed out"
    return str(getattr(exc, "strerror", None) or exc)
