"""Tokens that the users' own code gets, before T0. On greenlets: that code may wait for its server."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

import gevent
from gevent.pool import Pool

from lk_users.errors import BackendError
from lk_users.wire.backend import Ticket, read_ticket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lk_users.plan import PlannedSession

# Calls of credentials() at once, and how long one may take.
AT_ONCE = 32
TIMEOUT_S = 30.0


class User(Protocol):
    """One user of the locustfile."""

    lk_own_credentials: ClassVar[bool]

    def credentials(self, session: PlannedSession) -> tuple[str, str]: ...


class Tickets:
    """What each session of a process joins with, where its users' own code gives it."""

    def __init__(self, *, allow_cloud: bool) -> None:
        self._allow_cloud = allow_cloud
        self._users: list[User] = []
        self._given: dict[str, Ticket | BackendError] = {}

    def parked(self, user: User) -> None:
        """One more of whom sessions can be."""
        if user.lk_own_credentials:
            self._users.append(user)

    def get_all(self, items: Sequence[PlannedSession]) -> None:
        """Each session's, by one of the users; returns when all are there."""
        if not self._users:
            return
        pool = Pool(AT_ONCE)
        for number, item in enumerate(items):
            pool.spawn(self.get, self._users[number % len(self._users)], item)
        pool.join()

    def get(self, user: User, item: PlannedSession) -> None:
        """One session's."""
        if user.lk_own_credentials:
            self._given[item.session_id] = _ticket(user, item, allow_cloud=self._allow_cloud)

    def take(self, item: PlannedSession) -> Ticket | BackendError | None:
        """Once; None where the users' own code gives none."""
        return self._given.pop(item.session_id, None)


def _ticket(user: User, item: PlannedSession, *, allow_cloud: bool) -> Ticket | BackendError:
    """What the user's own code gives for a session, or why it gives nothing to join with."""
    try:
        with gevent.Timeout(TIMEOUT_S):
            answer = user.credentials(item)
    except gevent.Timeout:
        return BackendError(f"credentials() gave nothing within {TIMEOUT_S:g} s")
    except Exception as exc:
        return BackendError(f"credentials() raised {type(exc).__name__}: {exc}")
    if not isinstance(answer, tuple) or len(answer) != len(("url", "token")):
        return BackendError(f"credentials() returned {type(answer).__name__}, not (url, token)")
    try:
        return read_ticket(*answer, allow_cloud=allow_cloud)
    except BackendError as exc:
        return BackendError(f"credentials(): {exc.cause}")
