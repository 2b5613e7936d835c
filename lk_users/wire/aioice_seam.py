"""Private parts of aioice that we reach into, all in this one place.

Each has its reason here, a bound on the version in pyproject.toml, and a test in
``tests/integration/test_seams.py`` that fails when a new version moves it.

Addresses. aioice offers every address of the machine but never 127.0.0.1. A server on loopback needs just
that one, and it may be the only address there is.

Sockets. Our own instead of the loop's: a user who has nobody to hear can wait for what comes, and its socket
is read together with all others' (``datagrams``).

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
import itertools
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioice.candidate import Candidate, candidate_foundation, candidate_priority
from aioice.ice import CONSENT_FAILURES, CONSENT_INTERVAL, StunProtocol, get_host_addresses

from lk_users.wire.datagrams import Datagrams
from lk_users.wire.keepalive import (
    TRANSACTION_BYTES,
    answer,
    check,
    check_attributes,
    confirms,
    is_request,
    is_response,
)
from lk_users.wire.ticks import sleep_about

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioice.ice import Connection

    from lk_users.wire.datagrams import TickReader
    from lk_users.wire.rtp import Rtp

# A server drops a participant that left at once, and its ICE agent's own timers are 5 s and 10 s.
PORT_QUARANTINE_S = 15.0
# The first check after the join, and one that is beside the rush of hundreds: their round trips are told.
CHECKS_READ_AT_ONCE = 2
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
        self._measured = self._can_wait = False

    def open(self, address: str) -> Datagrams:
        opened = Datagrams(address, self._reader)
        self._open.append(opened)
        return opened

    def measured(self) -> None:
        """Round trips are known: from now on, what comes is read by tick if it may be."""
        self._measured = True
        self._pace()

    def can_wait(self, *, yes: bool) -> None:
        """May what comes be read up to a tick later?"""
        self._can_wait = yes
        self._pace()

    def _pace(self) -> None:
        for each in self._open:
            each.pace(by_tick=self._measured and self._can_wait)
        self._rtp.timed = not any(each.by_tick for each in self._open)


class OwnIce:
    """Replaces one ICE connection's gathering: our addresses, and sockets of our own."""

    def __init__(self, connection: Connection, addresses: Sequence[str], rtp: Rtp, sockets: Sockets) -> None:
        self._connection = connection
        self._addresses = addresses
        self._rtp = rtp
        self._sockets = sockets
        self._asked = self._confirmed = b""
        self._asked_ns = 0
        self.rtt_ns: int | None = None
        connection.gather_candidates = self.gather  # type: ignore[method-assign]
        connection.query_consent = self.keep_consent  # type: ignore[method-assign]

    async def gather(self) -> None:
        """As aioice's own for the policy ALL, without asking the system for its addresses each time."""
        connection = self._connection
        if connection._local_candidates_start:
            return
        connection._local_candidates_start = True
        for component in sorted(connection._components):
            for address in self._addresses:
                # An address that went away since is no candidate.
                with contextlib.suppress(OSError):
                    self._open(component, address)
            connection._local_candidates += await connection.get_component_candidates(component, [])
        connection._local_candidates_end = True
        for protocol in connection._protocols:
            if protocol.local_candidate.type == "relay":
                relay: Any = protocol.transport
                relay._TurnTransport__inner_protocol.receiver = _Demux(protocol, self._rtp, self.confirm)

    def _open(self, component: int, address: str) -> None:
        """A host candidate, its socket read by ourselves."""
        connection = self._connection
        transport = self._sockets.open(address)
        host, port = transport.get_extra_info("sockname")[:2]
        protocol = StunProtocol(connection)
        protocol.connection_made(transport)
        protocol.close = _Quarantine(protocol, transport).close  # type: ignore[method-assign]
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", host),
            component=component,
            transport="udp",
            priority=candidate_priority(component, "host"),
            host=host,
            port=port,
            type="host",
        )
        transport.set_protocol(_Demux(protocol, self._rtp, self.confirm))
        connection._protocols.append(protocol)
        connection._local_candidates.append(protocol.local_candidate)

    async def keep_consent(self) -> None:
        """As aioice's own (RFC 7675), without a transaction of timers for each check: an answer counts
        until the next one is due. Ends the connection after as many failures. The first check goes out at
        once: it measures the round trip."""
        connection = self._connection
        failures = 0
        for number in itertools.count(1):
            self._ask()
            await sleep_about(CONSENT_INTERVAL * (0.8 + 0.4 * random.random()))
            failures = 0 if self._confirmed == self._asked else failures + 1
            if number >= CHECKS_READ_AT_ONCE:
                self._sockets.measured()
            if failures >= CONSENT_FAILURES:
                connection._query_consent_task = None
                await connection.close()
                return

    def _ask(self) -> None:
        connection = self._connection
        assert connection.remote_password is not None
        password = connection.remote_password.encode()
        username = f"{connection.remote_username}:{connection.local_username}"
        self._asked = os.urandom(TRANSACTION_BYTES)
        for pair in connection._nominated.values():
            priority = candidate_priority(pair.component, "prflx")
            attributes = check_attributes(
                username, priority, connection._tie_breaker, controlling=connection.ice_controlling
            )
            request = check(self._asked, attributes, password)
            self._asked_ns = self._rtp.clock.monotonic_ns()
            pair.protocol.transport.sendto(request, pair.remote_addr)

    def confirm(self, data: bytes) -> bool:
        """Is it the answer to our last check?"""
        password = self._connection.remote_password
        if not self._asked or password is None or not confirms(data, self._asked, password.encode()):
            return False
        if self._confirmed != self._asked:
            self._confirmed = self._asked
            rtt_ns = self._rtp.clock.monotonic_ns() - self._asked_ns
            if self._rtp.timed and (self.rtt_ns is None or rtt_ns < self.rtt_ns):
                self.rtt_ns = rtt_ns
        return True


class _Demux(asyncio.DatagramProtocol):
    """Sorts a socket's datagrams by their first byte: STUN to aioice, SRTP and DTLS to the connection."""

    def __init__(self, protocol: Any, rtp: Rtp, confirm: Callable[[bytes], bool]) -> None:
        self._protocol = protocol
        self._rtp = rtp
        self._confirm = confirm

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if data[:1] < FIRST_DTLS:
            if not self._kept_alive(data, addr):
                self._protocol.datagram_received(data, addr)
            return
        if not self._rtp.counts_only(data):
            protocol = self._protocol
            protocol.receiver.data_received(data, protocol.local_candidate.component)

    def _kept_alive(self, data: bytes, addr: tuple[Any, ...]) -> bool:
        """Was it a check on the connection that is up, and done with?"""
        if is_request(data):
            return self._answered(data, addr)
        return is_response(data) and self._confirm(data)

    def _answered(self, data: bytes, addr: tuple[Any, ...]) -> bool:
        """Did a check of the very pair that carries our data get its answer from us?"""
        protocol = self._protocol
        connection = protocol.receiver
        pair = connection._nominated.get(protocol.local_candidate.component)
        if pair is None or pair.protocol is not protocol or pair.remote_addr != (addr[0], addr[1]):
            return False
        response = answer(data, connection.local_password.encode(), (addr[0], addr[1]))
        if response is not None:
            protocol.transport.sendto(response, addr)
        return response is not None

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
