"""When a sink may begin a request: never while a burst's own requests are about to leave. Pure.

It is shut before T0 is known, since a message can be late; and it opens a second after the last request that
any process was to write, and not before ours are all written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lk_users.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterable

CLEAR_NS: Final = NS_PER_S


class Gate:
    """Open until a burst is built."""

    def __init__(self) -> None:
        self._opens_ns: int | None = 0
        self._unfired: set[int] = set()

    def shut(self, ordinals: Iterable[int] = ()) -> None:
        """A burst is being built, of which these sessions are ours."""
        self._opens_ns = None
        self._unfired = set(ordinals)

    def announce(self, last_ns: int) -> None:
        """The last request of the burst, anybody's, is due then, on our monotonic clock."""
        self._opens_ns = last_ns + CLEAR_NS

    def fired(self, ordinal: int) -> None:
        """The session has written its request, or never will. Idempotent."""
        self._unfired.discard(ordinal)

    def open(self) -> None:
        """No request of the burst will leave any more."""
        self._opens_ns = 0
        self._unfired.clear()

    def is_open(self, now_ns: int) -> bool:
        return self._opens_ns is not None and now_ns >= self._opens_ns and not self._unfired
