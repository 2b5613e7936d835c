"""InfluxDB 2 by its client: one write at a time, and what became of it in one of three ways."""

from __future__ import annotations

import enum
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException
from urllib3 import exceptions as http

from lk_users.masking import masked

if TYPE_CHECKING:
    from lk_users.settings.process import Influx

CONNECT_MS: Final = 5_000
ANSWER_MS: Final = 30_000
# What the body is to blame for: not a line, a field of another type or out of retention, too large.
_REFUSALS: Final = (400, 413, 422)
_CAUSE_CHARS: Final = 160


class Outcome(enum.Enum):
    """What became of a write."""

    TAKEN = "taken"
    REFUSED = "refused"
    """The points themselves: at least one is wrong, or they are too many."""
    UNAVAILABLE = "unavailable"
    """The database is away, or does not let us: no point is to blame."""


@dataclass(frozen=True)
class Answer:
    """``cause``: why a write was not taken, in words."""

    outcome: Outcome
    cause: str = ""

    @property
    def is_taken(self) -> bool:
        return self.outcome is Outcome.TAKEN

    @property
    def is_refusal(self) -> bool:
        return self.outcome is Outcome.REFUSED


class Database:
    """One bucket. ``write`` waits for the answer; where gevent has patched sockets, its greenlet does."""

    def __init__(self, influx: Influx) -> None:
        self._influx = influx
        self._client = InfluxDBClient(
            influx.url, influx.token, org=influx.org, timeout=(CONNECT_MS, ANSWER_MS)
        )
        self._api = self._client.write_api(write_options=SYNCHRONOUS)

    def write(self, body: bytes) -> Answer:
        """Write lines of the line protocol. No lines: only ask whether it would take any."""
        try:
            self._api.write(self._influx.bucket, record=body)
        except ApiException as exc:
            refused = exc.status in _REFUSALS
            return Answer(Outcome.REFUSED if refused else Outcome.UNAVAILABLE, _told(exc))
        except (http.HTTPError, OSError) as exc:
            return Answer(Outcome.UNAVAILABLE, _in_words(exc))
        return Answer(Outcome.TAKEN)

    def close(self) -> None:
        """Idempotent."""
        self._client.close()


def _told(error: ApiException) -> str:
    """Status and message of its answer, without the line that it is about: causes are counted."""
    try:
        message = str(json.loads(error.body)["message"])
    except (ValueError, TypeError, KeyError):
        message = str(error.reason or "")
    message = re.sub(r"unable to parse '.*': ", "unable to parse: ", message, flags=re.DOTALL)
    message = re.sub(r" dropped=\d+$", "", message.removeprefix("failure writing points to database: "))
    return f"HTTP {error.status}: {masked(' '.join(message.split()))}"[:_CAUSE_CHARS]


def _in_words(error: Exception) -> str:
    """Why there was no answer, short."""
    if isinstance(error, http.SSLError):
        return f"TLS: {masked(str(error))}"[:_CAUSE_CHARS]
    # A refused connection is told as one that timed out; what the system said of it lies beneath.
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, http.ConnectTimeoutError):
        return f"no connection in {CONNECT_MS // 1000} s"
    if isinstance(error, http.TimeoutError):
        return f"no answer in {ANSWER_MS // 1000} s"
    if isinstance(error, http.ProtocolError):
        return "connection closed"
    return type(error).__name__
