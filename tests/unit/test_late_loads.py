"""A connection that is open before it is known what will be written on it, plain and over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from test_armed import Network, Wire
from test_tls_pipe import NAME, Server
from virtual import in_virtual_time

from lk_users.wire.armed import ArmedSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from virtual import VirtualClock

TRIP_S = 0.1
TOKEN = "a token that came late"


class SecureWire(Wire):
    """Its other end speaks TLS, half a round trip away."""

    def __init__(self, protocol: asyncio.Protocol, authority: trustme.CA) -> None:
        super().__init__(protocol)
        self._server = Server(authority, ssl.TLSVersion.TLSv1_3)
        self._plain = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(data)
        asyncio.get_running_loop().call_later(TRIP_S, self._take, bytes(data))

    def _take(self, data: bytes) -> None:
        answer = self._server.handshake(data)
        if answer and not self.ended:
            self._protocol.data_received(answer)
        self._read(b"")

    def _read(self, data: bytes) -> None:
        # Before the handshake is done, and where there is nothing, it wants more.
        with contextlib.suppress(ssl.SSLWantReadError):
            self._plain += self._server.read(data)

    def heard(self) -> bytes:
        """All that the other end could read. Raises ssl.SSLError where that is no TLS."""
        past = self.written[: len(self.written) - len(self._queued)]
        self._read(b"".join(past))
        return self._plain


class SecureNetwork(Network):
    server_name = NAME

    def __init__(self, authority: trustme.CA) -> None:
        super().__init__()
        self._authority = authority
        self.tls: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(self.tls)

    async def connect(self, protocol: asyncio.Protocol) -> None:
        await asyncio.sleep(self.takes_s)
        wire = SecureWire(protocol, self._authority)
        self.wires.append(wire)
        protocol.connection_made(wire)


class Deaf:
    def opened(self) -> None: ...

    def message(self, data: bytes) -> None: ...

    def lost(self, error: object) -> None:
        raise AssertionError(error)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def network(request: pytest.FixtureRequest, authority: trustme.CA) -> Network:
    return SecureNetwork(authority) if request.param else Network()


def play(
    network: Network, work: Callable[[ArmedSocket], Coroutine[Any, Any, None]], *, early: bool = False
) -> bytes:
    """What the last connection's other end read. ``early``: loaded before it was open."""

    async def run(clock: VirtualClock) -> None:
        armed = ArmedSocket(network, clock, Deaf())  # type: ignore[arg-type]
        if early:
            load(armed)
        await armed.arm()
        await work(armed)
        await asyncio.sleep(1)

    in_virtual_time(run)
    wire = network.wires[-1]
    return wire.heard() if isinstance(wire, SecureWire) else b"".join(wire.written)


def load(armed: ArmedSocket) -> None:
    armed.load_upgrade("/rtc/v1?join_request=x", [("Authorization", f"Bearer {TOKEN}")])


def assert_is_the_upgrade(heard: bytes) -> None:
    assert heard.startswith(b"GET /rtc/v1?join_request=x HTTP/1.1\r\n")
    assert heard.count(TOKEN.encode()) == 1
    assert heard.endswith(b"\r\n\r\n")


def test_loaded_when_it_is_open(network: Network) -> None:
    async def work(armed: ArmedSocket) -> None:
        await asyncio.sleep(5)
        load(armed)
        armed.fire()

    assert_is_the_upgrade(play(network, work))
    assert len(network.wires) == 1


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("later_s", [0.0, 0.005, 0.05, 0.15, 0.25, 0.5])
def test_fired_while_it_is_made_again(network: Network, later_s: float, early: bool) -> None:
    """``later_s`` after its loss: before the new connection is there, in its handshake, and after it."""

    async def work(armed: ArmedSocket) -> None:
        network.wires[-1].ended = "by the server"
        armed.connection_lost(None)
        await asyncio.sleep(later_s)
        if not early:
            load(armed)
        armed.fire()

    assert_is_the_upgrade(play(network, work, early=early))
    assert len(network.wires) == 2
