"""Every error that this package raises, as one tree.

::

    LkUsersError
    ├── Refused              before start: the user's input or surroundings; one line each, exit code 12
    │   └── StackError       the embedded stack could not be had or started
    ├── IllegalEvent         a bug of ours: an event that a session's step does not know
    ├── EngineCrashed        a bug or an end of ours: the engine under a session is gone
    ├── SessionFailed        how Locust is told the outcome of a session that is not ok
    ├── SearchStopped        a search for a limit can't go on, and keeps what it found so far
    ├── RecordError          a record or journal line that cannot be read
    └── WireError            what the network did to one session; a cause, never a crash
        ├── HttpError        an answer that is no success
        ├── UpgradeRefused   the server declined the WebSocket
        ├── BackendError     the user's own backend gave nothing to join with
        └── ConnectionCut    reset, refused, closed or no answer
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lk_users.masking import masked

if TYPE_CHECKING:
    from collections.abc import Sequence


DETAIL_CHARS: Final = 200


class LkUsersError(Exception):
    """Base of all errors of this package."""


class Refused(LkUsersError):
    """Refused before start. ``faults``: one clear line each."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


class StackError(Refused):
    """The embedded stack could not be found, built or started."""

    def __init__(self, fault: str) -> None:
        super().__init__([fault])


class IllegalEvent(LkUsersError):
    """An event that the step it met does not allow. Nothing was changed."""


class EngineCrashed(LkUsersError):
    """The engine under a session is gone; ours, never the target's. Its text is the cause."""


class SessionFailed(LkUsersError):
    """How Locust is told the outcome of a session that is not ok. Its text is the outcome."""


class SearchStopped(LkUsersError):
    """A search for a limit can't go on. Its text says why."""


class RecordError(LkUsersError):
    """A record or journal line that cannot be read."""


class WireError(LkUsersError):
    """What the network did to one session. ``cause`` is a short word or phrase for the record, without
    tokens and keys that the other side may have put into it."""

    def __init__(self, cause: str) -> None:
        self.cause = masked(cause)
        super().__init__(self.cause)


class HttpError(WireError):
    """An HTTP answer that is no success. ``status``: its code; ``detail``: its body; ``retry_after``: the
    header, if sent."""

    def __init__(self, status: int, detail: str = "", retry_after: str = "") -> None:
        detail = masked(detail)[:DETAIL_CHARS]
        super().__init__(f"HTTP {status}" + (f": {detail}" if detail else ""))
        self.status = status
        self.retry_after = retry_after


class UpgradeRefused(HttpError):
    """The server answered the WebSocket upgrade with something else."""


class BackendError(WireError):
    """The user's own backend gave nothing that could be joined with."""


class ConnectionCut(WireError):
    """Refused, reset, closed or never answered."""
