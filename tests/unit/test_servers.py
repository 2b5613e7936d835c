from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest
import virtual as v

from lk_users.address import Address
from lk_users.errors import ConnectionCut
from lk_users.wire.endpoint import Endpoint
from lk_users.wire.servers import Servers

if TYPE_CHECKING:
    from virtual import VirtualClock

SECURE = Address("lk.example.com", 443, tls=True)


def looked_up(monkeypatch: pytest.MonkeyPatch, result: Any) -> list[str]:
    """Names that were looked up; each look-up takes a second."""
    asked: list[str] = []

    async def getaddrinfo(self: object, host: str, port: int, **_: Any) -> Any:
        asked.append(host)
        await asyncio.sleep(1)
        if isinstance(result, OSError):
            raise result
        return [(None, None, None, "", (address, port)) for address in result]

    monkeypatch.setattr(v.VirtualLoop, "getaddrinfo", getaddrinfo)
    return asked


def test_each_server_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = looked_up(monkeypatch, ["192.0.2.7", "192.0.2.8", "192.0.2.7"])

    async def work(clock: VirtualClock) -> list[Endpoint]:
        servers = Servers()
        plain = Address("127.0.0.1", 7880, tls=False)
        return list(await asyncio.gather(*(servers.endpoint(one) for one in (SECURE, SECURE, plain, SECURE))))

    first, second, plain, _ = v.in_virtual_time(work)
    assert asked == ["lk.example.com", "127.0.0.1"]
    assert first is second
    assert (first.addresses, first.host_header, first.server_name) == (
        ("192.0.2.7", "192.0.2.8"), "lk.example.com", "lk.example.com",
    )  # fmt: skip
    assert first.tls is not None
    assert (plain.tls, plain.host_header, plain.port) == (None, "127.0.0.1:7880", 7880)


def test_one_that_gives_up_does_not_take_it_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up(monkeypatch, ["192.0.2.7"])

    async def work(clock: VirtualClock) -> Endpoint:
        servers = Servers()
        gone = asyncio.get_running_loop().create_task(servers.endpoint(SECURE))
        stays = asyncio.get_running_loop().create_task(servers.endpoint(SECURE))
        await asyncio.sleep(0.5)
        gone.cancel()
        return await stays

    assert v.in_virtual_time(work).addresses == ("192.0.2.7",)


def test_a_name_that_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = looked_up(monkeypatch, socket.gaierror(-2, "Name or service not known"))

    async def work(clock: VirtualClock) -> None:
        servers = Servers()
        for _ in range(2):
            with pytest.raises(ConnectionCut, match=r"lk.example.com cannot be resolved \(Name or service"):
                await servers.endpoint(SECURE)

    v.in_virtual_time(work)
    assert asked == ["lk.example.com"]


def test_what_is_known_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = looked_up(monkeypatch, [])
    known = Endpoint(("192.0.2.1",), 443, "lk.example.com")

    async def work(clock: VirtualClock) -> Endpoint:
        servers = Servers()
        servers.know(SECURE, known)
        return await servers.endpoint(SECURE)

    assert v.in_virtual_time(work) is known
    assert asked == []
