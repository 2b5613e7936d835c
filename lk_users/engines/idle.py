"""Engine ``idle``: does nothing and succeeds at once. For benches: a run on it is what the tool costs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from lk_users.evidence import Onset, ParticipantView

if TYPE_CHECKING:
    from lk_users.clock import Clock
    from lk_users.engines.port import EngineListener

_USER = ParticipantView("PA_idle_user", "user", agent=False, state="active", joined_at_ms=0)
_AGENT = ParticipantView(
    "PA_idle_agent", "agent", agent=True, state="active", joined_at_ms=0,
    attributes={"lk.agent.state": "speaking"},
)  # fmt: skip


class IdleEngine:
    """Every step succeeds in the next turn of the loop, without network."""

    def __init__(self, clock: Clock, listener: EngineListener) -> None:
        self._clock = clock
        self._listener = listener
        self._left = False

    async def build(self) -> None:
        pass

    def open(self) -> int:
        asyncio.get_running_loop().call_soon(self._listener.session_created)
        return self._clock.monotonic_ns()

    def dispatch(self) -> int:
        asyncio.get_running_loop().call_soon(self._listener.dispatched, None, "")
        return self._clock.monotonic_ns()

    def join(self) -> int:
        asyncio.get_running_loop().call_soon(self._welcome)
        return self._clock.monotonic_ns()

    def rest(self) -> None:
        pass

    def leave(self) -> None:
        self._left = True

    async def close(self) -> None:
        self._left = True

    def evidence(self) -> dict[str, Any]:
        return {}

    def recording(self) -> None:
        return None

    def _welcome(self) -> None:
        if self._left:
            return
        self._listener.connected(_USER, "RM_idle", [_AGENT], "idle")
        self._listener.media_up()
        self._listener.subscribed(_AGENT.sid)
        self._listener.audible(_AGENT.sid, Onset(self._clock.monotonic_ns(), 0.0, 0.0, 0, 0.0))
