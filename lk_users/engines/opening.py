"""A session from the user's own backend: where no token is of our own making.

Two ways. The backend is asked at T0, by a request that is bytes on an open connection before; or a user's
locustfile asked it before T0, in whatever way. Which agent is asked for, and how, is the backend's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from lk_users.agent_name import ANY_AGENT
from lk_users.engines.dispatching import Dispatching
from lk_users.errors import BackendError, WireError
from lk_users.wire import backend
from lk_users.wire.api import AgentRequest
from lk_users.wire.armed import ArmedRequest

if TYPE_CHECKING:
    from lk_users.engines.listen import Surroundings
    from lk_users.engines.port import EngineListener
    from lk_users.plan import PlannedSession
    from lk_users.settings.run import Settings
    from lk_users.wire.backend import Ticket

# Shorter than this nothing is a secret, and would be found everywhere.
_SECRET_CHARS = 4


class WayIn(Protocol):
    """How a session comes to what its user joins with, and what is asked for it at T0."""

    @property
    def rearmed(self) -> bool: ...

    def ticket(self) -> Ticket | None:
        """None as long as it is not there. Raises BackendError where there will be none."""

    async def arm(self) -> None:
        """Raises ConnectionCut."""

    def fire(self) -> int:
        """Write the request, where there is one; the moment of it, in ns on the monotonic clock."""

    def close(self) -> None: ...


def way_in(
    planned: PlannedSession,
    settings: Settings,
    around: Surroundings,
    listener: EngineListener,
    given: Ticket | BackendError | None,
) -> WayIn:
    """As the settings have it. ``given``: what the user's locustfile got before T0."""
    if settings.session_url is not None:
        return Opening(planned, settings, around, listener)
    if settings.dispatch == "backend":
        return Given(given or BackendError("credentials() gave nothing"), listener)
    return Dispatching(planned, settings, around, listener)


class Opening:
    """The request to the backend, and its answer."""

    def __init__(
        self, planned: PlannedSession, settings: Settings, around: Surroundings, listener: EngineListener
    ) -> None:
        assert around.backend is not None
        self._backend = around.backend
        self._listener = listener
        self._body = _body(planned, settings)
        self._ticket: Ticket | None = None
        hidden = {
            text for _, value in around.backend.headers for text in (value, value.rpartition(" ")[2])
            if len(text) >= _SECRET_CHARS
        }  # fmt: skip
        self._request = ArmedRequest(
            around.backend.endpoint, around.clock, self._answered, backend.SUCCESS,
            sorted(hidden, key=len, reverse=True),
        )  # fmt: skip

    @property
    def rearmed(self) -> bool:
        return self._request.rearmed

    def ticket(self) -> Ticket | None:
        return self._ticket

    async def arm(self) -> None:
        self._request.load_body(self._backend.path, backend.headers(self._backend.headers), self._body)
        await self._request.arm()

    def fire(self) -> int:
        return self._request.fire()

    def close(self) -> None:
        self._request.close()

    def _answered(self, result: bytes | WireError) -> None:
        if isinstance(result, WireError):
            self._listener.session_failed(result)
            return
        try:
            self._ticket = backend.read_answer(result, allow_cloud=self._backend.allow_cloud)
        except BackendError as exc:
            self._listener.session_failed(exc)
        else:
            self._listener.room_is(self._ticket.room)
            self._listener.session_created()


class Given:
    """What is there before T0; nothing is asked for at it."""

    rearmed = False

    def __init__(self, given: Ticket | BackendError, listener: EngineListener) -> None:
        self._given = given
        self._listener = listener

    def ticket(self) -> Ticket:
        if isinstance(self._given, BackendError):
            raise self._given
        return self._given

    async def arm(self) -> None:
        self._listener.room_is(self.ticket().room)

    def fire(self) -> int:
        raise NotImplementedError("there is no request to write")

    def close(self) -> None:
        pass


def _body(planned: PlannedSession, settings: Settings) -> bytes:
    """The user's own, else the standard's."""
    agent_name = "" if settings.agent_name == ANY_AGENT else settings.agent_name
    if planned.session_body:
        return planned.session_body.encode()
    agent = AgentRequest(agent_name, planned.metadata, settings.deployment, settings.restart_policy)
    return backend.standard_body(
        planned.room, planned.identity, planned.attributes, agent if agent_name else None,
        planned.room_metadata,
    )  # fmt: skip
