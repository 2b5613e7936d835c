"""A session's request for its agent, and its user's token: the same whoever joins for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lk_users.errors import WireError
from lk_users.wire import api
from lk_users.wire.armed import ArmedRequest
from lk_users.wire.backend import Ticket

if TYPE_CHECKING:
    from lk_users.engines.listen import Surroundings
    from lk_users.engines.port import EngineListener
    from lk_users.plan import PlannedSession
    from lk_users.settings.run import Settings


class Dispatching:
    """Bytes on an open connection before T0, written at T0, and answered to the session."""

    def __init__(
        self, planned: PlannedSession, settings: Settings, around: Surroundings, listener: EngineListener
    ) -> None:
        self._planned = planned
        self._way = settings.dispatch
        self._around = around
        self._listener = listener
        self._agent = api.AgentRequest(
            settings.agent_name, planned.metadata, settings.deployment, settings.restart_policy
        )
        self._request = ArmedRequest(around.endpoint, around.clock, self._answered)

    @property
    def rearmed(self) -> bool:
        return self._request.rearmed

    def ticket(self) -> Ticket:
        """Its token asks for the agent too, where that is the way."""
        planned, keys = self._planned, self._around.keys
        assert keys is not None
        token = api.user_token(
            keys, planned.room, planned.identity, planned.attributes,
            self._agent if self._way == "token" else None, planned.room_metadata,
        )  # fmt: skip
        return Ticket(self._around.address, token, planned.room)

    async def arm(self) -> None:
        """Nothing, where the dispatch is no request. Raises ConnectionCut."""
        planned, around = self._planned, self._around
        if self._way not in ("api", "room"):
            return
        path, body = (
            api.create_dispatch(planned.room, self._agent)
            if self._way == "api"
            else api.create_room(planned.room, self._agent, planned.room_metadata)
        )
        assert around.keys is not None
        self._request.load_post(around.address.path + path, api.admin_token(around.keys, planned.room), body)
        await self._request.arm()

    def fire(self) -> int:
        return self._request.fire()

    def close(self) -> None:
        self._request.close()

    def _answered(self, result: bytes | WireError) -> None:
        if isinstance(result, WireError):
            self._listener.dispatch_failed(result)
        elif self._way == "api":
            self._listener.dispatched(api.read_dispatch(result), "")
        else:
            self._listener.dispatched(None, api.read_room_sid(result))
