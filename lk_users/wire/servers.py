"""The LiveKit servers that a process learns of from tokens, each looked up once. On the sessions' loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING

from lk_users.errors import ConnectionCut
from lk_users.wire.endpoint import Endpoint

if TYPE_CHECKING:
    from lk_users.address import Address


class Servers:
    """Endpoints by address. Belongs to the loop that uses it."""

    def __init__(self) -> None:
        # Loading the trusted certificates takes some 10 ms: before T0.
        self._context = ssl.create_default_context()
        self._found: dict[Address, asyncio.Task[Endpoint]] = {}

    def know(self, address: Address, endpoint: Endpoint) -> None:
        """Of this one the endpoint is known already."""

        async def known() -> Endpoint:
            return endpoint

        self._found[address] = asyncio.get_running_loop().create_task(known())

    async def endpoint(self, address: Address) -> Endpoint:
        """Where it is. Raises ConnectionCut where its name can't be resolved: whoever gave the name, it was
        not the operator of this machine."""
        if address not in self._found:
            self._found[address] = asyncio.get_running_loop().create_task(self._look_up(address))
        # One session that gives up must not take the look-up from the others.
        return await asyncio.shield(self._found[address])

    async def _look_up(self, address: Address) -> Endpoint:
        try:
            # uvloop's own threads, which gevent knows nothing of.
            found = await asyncio.get_running_loop().getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM
            )
        except OSError as exc:
            raise ConnectionCut(f"{address.host} cannot be resolved ({exc.strerror or exc})") from exc
        addresses = tuple(dict.fromkeys(str(item[4][0]) for item in found))
        context, name = (self._context, address.host) if address.tls else (None, "")
        return Endpoint(addresses, address.port, address.authority, context, name)
