"""The HTTP endpoint of an agent's worker: one request, one sample. Never by a proxy, and never raises."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from lk_users.agent_worker import AgentWorkerSample, sample_of
from lk_users.wire.endpoint import connection_cause

if TYPE_CHECKING:
    from lk_users.clock import Clock

TIMEOUT_S: Final = 1.0
PATH: Final = "/worker"
_BODY_BYTES: Final = 64 * 1024


def ask(url: str, clock: Clock) -> AgentWorkerSample:
    """Ask the worker at ``url`` (scheme, host, port, a path before ``/worker``) for its load.

    Blocks the caller, and not the process where sockets are gevent's. Each call has a connection of its
    own: whether the worker still takes one is part of the answer.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=TIMEOUT_S)
    wall_ns = clock.wall_ns()
    try:
        connection.request("GET", parts.path + PATH)
        answer = connection.getresponse()
        body = answer.read(_BODY_BYTES)
    except (OSError, ValueError, http.client.HTTPException) as exc:
        return AgentWorkerSample(wall_ns=wall_ns, url=url, error=_cause(exc))
    finally:
        connection.close()
    if answer.status != http.client.OK:
        return AgentWorkerSample(wall_ns=wall_ns, url=url, error=f"HTTP {answer.status}")
    return sample_of(wall_ns, url, body)


def _cause(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return f"no answer within {TIMEOUT_S:g} s"
    if isinstance(exc, http.client.HTTPException) and not isinstance(exc, OSError):
        return "no answer in HTTP"
    return connection_cause(exc)
