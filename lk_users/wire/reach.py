"""The way to a server, step by step: name, TCP, TLS, HTTP. Each says where it ended."""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp

from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.errors import ConnectionCut
from lk_users.wire.endpoint import Endpoint, connection_cause

if TYPE_CHECKING:
    from lk_users.clock import Clock

STEP_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class Reached:
    """A server that answered HTTP."""

    addresses: tuple[str, ...]
    tcp_ms: float
    tls_ms: float = 0.0
    tls_version: str = ""
    """As ``TLSv1.3``; empty without TLS."""
    certificate_days: float | None = None
    http_ms: float = 0.0
    status: int = 0
    ahead_s: float | None = None
    """The server's clock less ours by its ``Date``, to a second; None if it sends none."""


class NotReached(ConnectionCut):
    """``step``: ``name``, ``TCP``, ``TLS`` or ``HTTP``."""

    def __init__(self, step: str, cause: str) -> None:
        super().__init__(cause)
        self.step = step


async def reach(endpoint: Endpoint, url: str, clock: Clock) -> Reached:
    """``url``: of the HTTP API. Raises NotReached."""
    tcp_ms = await _tcp(endpoint, clock)
    tls_ms, version, days = 0.0, "", None
    if endpoint.tls is not None:
        tls_ms, version, days = await _tls(endpoint, endpoint.tls, clock)
    started_ns = clock.monotonic_ns()
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=STEP_S)) as session,
            session.get(f"{url}/", allow_redirects=False) as response,
        ):
            http_ms = _since_ms(clock, started_ns)
            return Reached(
                addresses=endpoint.addresses, tcp_ms=tcp_ms, tls_ms=tls_ms, tls_version=version,
                certificate_days=days, http_ms=http_ms, status=response.status,
                ahead_s=_ahead_s(response.headers.get("Date", ""), clock),
            )  # fmt: skip
    except TimeoutError as exc:
        raise NotReached("HTTP", f"no answer within {STEP_S:.0f} s") from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise NotReached("HTTP", "no answer in HTTP") from exc


async def _tcp(endpoint: Endpoint, clock: Clock) -> float:
    """As the users connect: to the first address that takes one."""
    cause = ""
    for address in endpoint.addresses:
        started_ns = clock.monotonic_ns()
        try:
            async with asyncio.timeout(STEP_S):
                _, writer = await asyncio.open_connection(address, endpoint.port)
        except OSError as exc:
            cause = f"{address} port {endpoint.port}: {connection_cause(exc)}"
            continue
        took_ms = _since_ms(clock, started_ns)
        writer.close()
        return took_ms
    raise NotReached("TCP", cause)


async def _tls(
    endpoint: Endpoint, context: ssl.SSLContext, clock: Clock
) -> tuple[float, str, float | None]:  # fmt: skip
    """Milliseconds with the TCP connection, version, and for how many days the certificate is valid."""
    started_ns = clock.monotonic_ns()
    try:
        async with asyncio.timeout(STEP_S):
            _, writer = await asyncio.open_connection(
                endpoint.server_name, endpoint.port, ssl=context, server_hostname=endpoint.server_name
            )
    except OSError as exc:
        raise NotReached("TLS", connection_cause(exc)) from exc
    took_ms = _since_ms(clock, started_ns)
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    certificate = tls.getpeercert() or {}
    writer.close()
    expires = str(certificate.get("notAfter", ""))
    days = (ssl.cert_time_to_seconds(expires) - clock.wall_ns() / NS_PER_S) / 86_400 if expires else None
    return took_ms, tls.version() or "TLS", days


def _ahead_s(date: str, clock: Clock) -> float | None:
    """Half a second more than the header says, since it is cut to whole ones."""
    try:
        told = email.utils.parsedate_to_datetime(date)
    except ValueError:
        return None
    if told.tzinfo is None:
        told = told.replace(tzinfo=dt.UTC)
    return told.timestamp() + 0.5 - clock.wall_ns() / NS_PER_S


def _since_ms(clock: Clock, started_ns: int) -> float:
    return (clock.monotonic_ns() - started_ns) / NS_PER_MS
