"""How sessions end: the API is asked what it knows of them, their rooms are left and deleted. On the loop.

All of it is after the last decision, a few requests at a time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

from lk_users.course import Role
from lk_users.errors import ConnectionCut, HttpError, WireError
from lk_users.evidence import NO_KEY, ServerView
from lk_users.outcome import Finding
from lk_users.record import Mark
from lk_users.wire.api import CONCURRENCY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from lk_users.session import Session
    from lk_users.settings.run import Settings
    from lk_users.wire.api import Api

_T = TypeVar("_T")

# How long an empty list of jobs may be wrong after a cold burst (measured: 6 s).
JOBS_LATE_S = 8.0
# Then so many sessions a second are read again: those of a small burst every half a second, of a large one
# every two.
REREADS_PER_S = 20
LEAST_PAUSE_S, MOST_PAUSE_S = 0.5, 2.0
# Agents that end with their user get this long before the room is deleted under them.
AGENT_LEAVE_S = 1.0
# Sessions left at once: each waits for the server to close its connection.
LEAVES_AT_ONCE = 32
# Requests in a row without an answer, each connection of ours once and one of them again: then a server is
# asked no more. One that hangs takes a whole timeout each time, and no verdict is to wait for 600 of them.
GONE_AFTER = CONCURRENCY + 1
# How a server says, after three seconds, that the node of a room is gone, or that no node has such a room.
NO_NODE = "no response from servers"


class _Asked:
    """Somebody who is asked again and again, until too many requests in a row had no answer."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._unanswered = 0
        self._cause = ""

    def check(self) -> None:
        """Raises ConnectionCut where it is asked no more."""
        if self._unanswered >= GONE_AFTER:
            raise ConnectionCut(f"not asked, since {self._name} no longer answered: {self._cause}")

    def answered(self) -> None:
        self._unanswered = 0

    def silent(self, cause: str) -> None:
        self._unanswered += 1
        self._cause = cause


class Ending:
    """The end of some sessions.

    ``api``: None where there is nothing to ask (engine ``idle``) or no key to ask with. ``views``: what it
    said before, and then what it says now.
    """

    def __init__(
        self,
        sessions: Sequence[Session],
        settings: Settings,
        api: Api | None,
        views: dict[Session, ServerView],
    ) -> None:
        self.steps = 0
        """Reads, sessions left and rooms deleted so far."""
        self._sessions = sessions
        self._settings = settings
        self._api = api
        self._views = views
        self._server = _Asked("the server")
        self._nodes: dict[str | None, _Asked] = defaultdict(lambda: _Asked("the room's node"))
        """Of the rooms' nodes; None: of rooms that nobody came into."""

    async def end(self) -> None:
        """Read what the API says of the sessions, leave their rooms, delete those."""
        if self._api is not None:
            await self.read()
        else:
            self._views.update(dict.fromkeys(self._sessions, ServerView(unread=NO_KEY)))
        await bounded((self._leave(session) for session in self._sessions), LEAVES_AT_ONCE)
        if self._api is not None:
            await asyncio.sleep(AGENT_LEAVE_S)
            await bounded((self._delete(self._api, session) for session in self._sessions), CONCURRENCY)

    async def read(self) -> None:
        """What the API says of each session goes into ``views``, beside what it said before."""
        if self._api is None:
            return
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        waiting, reads = list(self._sessions), 0
        while waiting:
            await bounded((self._read(self._api, session) for session in waiting), CONCURRENCY)
            reads += 1
            waiting = [
                session
                for session in waiting
                if _jobs_may_be_late(session, self._settings, self._views[session])
                or (reads == 1 and session.agent_came_again)
            ]
            if not waiting or loop.time() - started_s > JOBS_LATE_S:
                break
            await asyncio.sleep(pause_s(len(waiting)))

    async def _read(self, api: Api, session: Session) -> None:
        room = session.room
        try:
            dispatches = await self._ask(session, lambda: api.dispatches(room))
            participants = (
                None if session.saw_agent else await self._ask(session, lambda: api.participants(room))
            )
        except WireError as exc:
            view = ServerView(unread=exc.cause)
        else:
            view = ServerView(dispatches, participants)
        self._views[session] = view.after(self._views.get(session))
        self.steps += 1

    async def _leave(self, session: Session) -> None:
        await session.close()
        self.steps += 1

    async def _delete(self, api: Api, session: Session) -> None:
        """A room that can't be deleted stays until its own timeout; ``lk-users cleanup`` can try again."""
        try:
            await self._ask(session, lambda: api.delete_room(session.room))
        except WireError:
            pass
        self.steps += 1

    async def _ask(self, session: Session, request: Callable[[], Awaitable[_T]]) -> _T:
        """Raises WireError; without a request where the server, or the room's node, is gone."""
        server, node = self._server, self._nodes[session.node]
        server.check()
        node.check()
        try:
            answer = await request()
        except HttpError as exc:
            server.answered()
            if NO_NODE in exc.cause:
                node.silent(exc.cause)
            else:
                node.answered()
            raise
        except WireError as exc:
            server.silent(exc.cause)
            raise
        server.answered()
        node.answered()
        return answer


def pause_s(waiting: int) -> float:
    """Before so many sessions are read again."""
    return min(MOST_PAUSE_S, max(LEAST_PAUSE_S, waiting / REREADS_PER_S))


def _jobs_may_be_late(session: Session, settings: Settings, view: ServerView) -> bool:
    """Jobs can be missing for seconds, or lack worker and moment of the offer, although the agent is there.
    Who stops a run will not wait."""
    seen = session.observation()
    if session.planned.role is Role.BASELINE and Mark.WELCOMED in seen.marks_ns:
        # There is nothing to explain, and the burst waits for it.
        return False
    if (
        view.unread
        or seen.cancelled
        or (seen.failure is not None and seen.failure[0] is Finding.CONNECT_FAILED)
    ):
        return False
    own = view.dispatch_of(settings.agent_name, seen.dispatch_id)
    return own is not None and not any(job.worker_id and job.started_at_ns for job in own.jobs)


async def bounded(steps: Iterable[Awaitable[None]], concurrency: int) -> None:
    """Run all, so many at once; each is made when its turn comes."""
    turns = iter(steps)

    async def work() -> None:
        for step in turns:
            await step

    await asyncio.gather(*(work() for _ in range(concurrency)))
