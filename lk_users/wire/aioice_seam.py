"""Private parts of aioice that we reach into, all in this one place.

Each has its reason here, a bound on the version in pyproject.toml, and a test in
``tests/integration/test_seams.py`` that fails when a new version moves it.

Addresses. aioice offers every address of the machine but never 127.0.0.1. A server on loopback needs just
that one, and it may be the only address there is.

Sockets. Our own instead of the loop's: a user who has nobody to hear, or has heard it, can wait for what
comes, and its socket is read together with all others' (``datagrams``).

Queue. aioice's has datagrams from socket to connection. Those that were read late bring along when they came,
so that what they tell keeps its moment.

Demultiplexing. aioice tries every datagram as STUN first and takes the exception for a no. The first byte
tells (RFC 7983), and packets of a track that nobody listens to any more need no decryption: their headers,
which are in the clear, are all that the receiver reports want (``rtp``).

Consent. aioice's checks of a connection that is up have a transaction of timers each, and its answers parse
and build whole messages; hundreds of users do little else while they wait (``keepalive``).

Ports. The kernel soon hands the UDP port of a closed connection to a new one. A server with one UDP port
(``rtc.udp_port``) may still route that address to the old connection, and the new one stalls. So a closed
session's socket stays bound, silent, until the server has forgotten it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioice.candidate import Candidate, candidate_foundation, candidate_priority
from aioice.ice import CONSENT_FAILURES, CONSENT_INTERVAL, StunProtocol, get_host_addresses

from lk_users.wire.datagrams import Datagrams
from lk_users.wire.keepalive import TRANSACTION_BYTES, Checks, check_attributes, is_request, is_response
from lk_users.wire.rtp import FIRST_RTP
from lk_users.wire.ticks import next_tick_s

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioice.ice import CandidatePair, Connection

    from lk_users.wire.datagrams import TickReader
    from lk_users.wire.rtp import Rtp

# A server drops a participant that left at once, and its ICE agent's own timers are 5 s and 10 s.
PORT_QUARANTINE_S = 15.0
# RTP and RTCP share one: all that aiortc asks for.
COMPONENT = 1
# RFC 7983: first bytes 0-3 are STUN, from 20 on DTLS, RTP and RTCP.
FIRST_DTLS = b"\x14"


def host_addresses(*, loopback: bool) -> tuple[str, ...]:
    """The addresses to offer to a server: 127.0.0.1 to one on loopback, else all but that."""
    return ("127.0.0.1",) if loopback else tuple(get_host_addresses(use_ipv4=True, use_ipv6=True))


@dataclass(frozen=True)
class IcePath:
    """The candidate pair in use, by type (``host``, ``srflx``, ``prflx``, ``relay``)."""

    local: str
    remote: str
    rtt_ns: int | None
    """Smallest round trip of our own checks on it; None before the first answer."""


class Sockets:
    """The UDP sockets of one connection's host candidates."""

    def __init__(self, reader: TickReader | None, rtp: Rtp) -> None:
        self._reader = reader
        self._rtp = rtp
        self._open: list[Datagrams] = []
        self.data_ns = 0
        """When the datagram of DTLS came that is being taken apart, on the monotonic clock; 0: just now."""

    def open(self, address: str) -> Datagrams:
        opened = Datagrams(address, self._reader)
        self._open.append(opened)
        return opened

    def can_wait(self, *, yes: bool) -> None:
        """May what comes be read up to a tick later?"""
        for each in self._open:
            each.pace(by_tick=yes)
        self._rtp.timed = not any(each.by_tick for each in self._open)


class OwnIce:
    """Replaces one ICE connection's gathering: our addresses, and sockets of our own."""

    def __init__(self, connection: Connection, addresses: Sequence[str], rtp: Rtp, sockets: Sockets) -> None:
        self._connection = connection
        self._addresses = addresses
        self.rtp = rtp
        self.sockets = sockets
        self._pair: CandidatePair | None = None
        self._checks: Checks | None = None
        self._asked = self._confirmed = b""
        self._asked_ns = self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self._expired = asyncio.Event()
        self.rtt_ns: int | None = None
        connection.gather_candidates = self.gather  # type: ignore[method-assign]
        connection.query_consent = self.keep_consent  # type: ignore[method-assign]

    async def gather(self) -> None:
        """As aioice's own for the policy ALL, without asking the system for its addresses each time."""
        connection = self._connection
        if connection._local_candidates_start:
            return
        connection._local_candidates_start = True
        for address in self._addresses:
            # An address that went away since is no candidate.
            with contextlib.suppress(OSError):
                self._open(address)
        connection._local_candidates += await connection.get_component_candidates(COMPONENT, [])
        connection._local_candidates_end = True
        for protocol in connection._protocols:
            if protocol.local_candidate.type == "relay":
                relay: Any = protocol.transport
                relay._TurnTransport__inner_protocol.receiver = _Demux(protocol, self)

    def _open(self, address: str) -> None:
        """A host candidate, its socket read by ourselves."""
        connection = self._connection
        transport = self.sockets.open(address)
        host, port = transport.get_extra_info("sockname")[:2]
        protocol = StunProtocol(connection)
        protocol.connection_made(transport)
        protocol.close = _Quarantine(protocol, transport).close  # type: ignore[method-assign]
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", host),
            component=COMPONENT,
            transport="udp",
            priority=candidate_priority(COMPONENT, "host"),
            host=host,
            port=port,
            type="host",
        )
        transport.set_protocol(_Demux(protocol, self, transport))
        connection._protocols.append(protocol)
        connection._local_candidates.append(protocol.local_candidate)

    async def keep_consent(self) -> None:
        """As aioice's own (RFC 7675), without a transaction of timers for each check: an answer counts
        until the next one is due. Ends the connection after as many failures. The first check goes out at
        once: it measures the round trip."""
        self._ask()
        try:
            await self._expired.wait()
        finally:
            if self._timer is not None:
                self._timer.cancel()
        self._connection._query_consent_task = None
        await self._connection.close()

    async def receive(self) -> bytes:
        """As aioice's ``recv``. Raises ConnectionError when there is no connection (any more)."""
        connection = self._connection
        if not connection._nominated:
            raise ConnectionError("Not connected")
        received = await connection._queue.get()
        if received is None:
            raise ConnectionError("Connection lost")
        data, _ = received
        self.sockets.data_ns = data.came_ns if isinstance(data, _Stamped) else 0
        return data

    def kept_alive(
        self, protocol: StunProtocol, data: bytes, addr: tuple[Any, ...], came_ns: Callable[[], int]
    ) -> bool:
        """Was it a check on the very pair that carries our data, or the answer to ours, and done with?
        ``came_ns``: tells when it came, on the monotonic clock."""
        checks = self._pair_checks()
        if checks is None or self._pair is None or self._pair.protocol is not protocol:
            return False
        if is_response(data):
            return self._confirm(data, checks, came_ns)
        if not is_request(data) or checks.address != addr[:2]:
            return False
        response = checks.answer(data)
        if response is not None:
            protocol.transport.sendto(response, addr)
        return response is not None

    def _pair_checks(self) -> Checks | None:
        """Of the pair in use, which a server may change."""
        connection = self._connection
        pair = connection._nominated.get(COMPONENT)
        if pair is not self._pair:
            self._pair, self._checks = pair, None
            if pair is not None and connection.remote_password is not None:
                attributes = check_attributes(
                    f"{connection.remote_username}:{connection.local_username}",
                    candidate_priority(COMPONENT, "prflx"),
                    connection._tie_breaker,
                    controlling=connection.ice_controlling,
                )
                passwords = connection.local_password, connection.remote_password
                self._checks = Checks(pair.remote_addr, *passwords, attributes)
        return self._checks

    def _ask(self) -> None:
        """One check of ours, and when it counts as lost."""
        self._asked = os.urandom(TRANSACTION_BYTES)
        checks = self._pair_checks()
        if checks is not None and self._pair is not None:
            request = checks.check(self._asked)
            self._asked_ns = self.rtp.clock.monotonic_ns()
            self._pair.protocol.transport.sendto(request, checks.address)
        loop = asyncio.get_running_loop()
        due_s = next_tick_s(loop, CONSENT_INTERVAL * (0.8 + 0.4 * random.random()))
        self._timer = loop.call_at(due_s, self._due)

    def _due(self) -> None:
        self._failures = 0 if self._confirmed == self._asked else self._failures + 1
        if self._failures >= CONSENT_FAILURES:
            self._expired.set()
        else:
            self._ask()

    def _confirm(self, data: bytes, checks: Checks, came_ns: Callable[[], int]) -> bool:
        """Is it the answer to our last check?"""
        if not self._asked or not checks.confirms(data, self._asked):
            return False
        if self._confirmed != self._asked:
            self._confirmed = self._asked
            rtt_ns = max(0, came_ns() - self._asked_ns)
            if self.rtt_ns is None or rtt_ns < self.rtt_ns:
                self.rtt_ns = rtt_ns
        return True


class _Stamped(bytes):
    """A datagram, on its way through aioice's queue."""

    came_ns: int
    """On the monotonic clock."""


class _Demux(asyncio.DatagramProtocol):
    """Sorts a socket's datagrams by their first byte: STUN to aioice, SRTP and DTLS to the connection."""

    def __init__(self, protocol: StunProtocol, ice: OwnIce, transport: Datagrams | None = None) -> None:
        """``transport``: where it is read by tick at times."""
        self._protocol = protocol
        self._ice = ice
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        protocol, ice = self._protocol, self._ice
        if data[:1] < FIRST_DTLS:
            if not ice.kept_alive(protocol, data, addr, self._came_ns):
                protocol.datagram_received(data, addr)
        elif not ice.rtp.counts_only(data, self._came_ns):
            if data[:1] < FIRST_RTP and self._transport is not None and self._transport.stamped:
                data = _Stamped(data)
                data.came_ns = self._came_ns()
            protocol.receiver.data_received(data, COMPONENT)

    def _came_ns(self) -> int:
        """When the datagram at hand came, on the monotonic clock."""
        clock, transport = self._ice.rtp.clock, self._transport
        now_ns = clock.monotonic_ns()
        return now_ns if transport is None else now_ns - transport.waited_ns(clock.wall_ns())

    def error_received(self, exc: Exception) -> None:
        self._protocol.error_received(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)


class _Quarantine:
    """Closes a UDP socket late, so that its port is not used again while a server may remember it."""

    def __init__(self, protocol: Any, transport: Datagrams) -> None:
        self._protocol = protocol
        self._transport = transport

    async def close(self) -> None:
        self._transport.hush()
        asyncio.get_running_loop().call_later(PORT_QUARANTINE_S, self._transport.close)
        self._protocol.connection_lost(None)
