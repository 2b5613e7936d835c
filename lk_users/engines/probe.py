"""Before the burst: can this process's users have media at all, and by which way?

A connection must know its TURN server before its first offer, and LiveKit names TURN servers only to who
has joined. So one user of our own joins a room of its own first: where its host candidates lead to the
server, all others use theirs; else they go by the first kind of TURN server that works.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lk_users.course import Role
from lk_users.engines.listen import ListenEngine
from lk_users.plan import PlannedSession
from lk_users.wire.turn import MediaWay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lk_users.engines.listen import Surroundings
    from lk_users.errors import WireError
    from lk_users.evidence import DispatchView, Onset, ParticipantView
    from lk_users.outcome import Finding
    from lk_users.settings.run import Settings
    from lk_users.wire.text_stream import DataPiece, TextPiece

# A connection that works is up within a second; aioice gives up on one that does not after some 5 s more.
PATIENCE_S = 5.0
# The probe's room asks for an agent that nobody has, so that the unnamed agent is not sent there.
NOBODY = "lk-users-nobody"


@dataclass(frozen=True)
class Found:
    """The way that users shall take. ``tried``: what did not work, and why; by way. ``server``: what it says
    of itself; empty where nobody joined."""

    way: MediaWay
    tried: dict[MediaWay, str]
    server: str = ""


class _Waiting:
    """Hears of one connection whether it came up."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.joined: asyncio.Future[None] = loop.create_future()
        self.result: asyncio.Future[str] = loop.create_future()
        self.server = ""

    def _end(self, cause: str) -> None:
        if not self.result.done():
            self.result.set_result(cause)

    def connected(
        self,
        own: ParticipantView,
        room_sid: str,
        others: Sequence[ParticipantView],
        server: str,
        at_ns: int | None = None,
    ) -> None:
        self.server = server
        self.joined.set_result(None)

    def join_failed(self, error: WireError) -> None:
        if not self.joined.done():
            self.joined.set_exception(error)

    def media_up(self, at_ns: int | None = None) -> None:
        self._end("")

    def media_failed(self, state: str) -> None:
        self._end(state)

    def dropped(self, finding: Finding, cause: str) -> None:
        self._end(cause)

    def crashed(self, cause: str) -> None:
        self._end(cause)

    def room_is(self, room: str) -> None:
        """Its token is of our own making."""

    def session_created(self) -> None: ...

    def session_failed(self, error: WireError) -> None: ...

    def dispatched(self, view: DispatchView | None, room_sid: str) -> None:
        """It asks for no agent that exists, and so is none of its events below."""

    def dispatch_failed(self, error: WireError) -> None: ...

    def participant(self, view: ParticipantView, at_ns: int | None = None) -> None: ...

    def subscribed(self, participant_sid: str, at_ns: int | None = None) -> None: ...

    def packet(self, participant_sid: str, reached_ns: int) -> None: ...

    def audible(self, participant_sid: str, onset: Onset) -> bool:
        return False

    def text(self, piece: TextPiece, at_ns: int | None = None) -> None: ...

    def data(self, piece: DataPiece, at_ns: int | None = None) -> None: ...


async def find_way(around: Surroundings, settings: Settings, room: str) -> Found:
    """Raises WireError where the room can't be joined. The caller deletes the room.

    Where no way leads to the server, the answer is host candidates: users then fail as they would have.
    """
    settings = replace(settings, dispatch="token", order="join-first", session_url=None, agent_name=NOBODY)
    only_relay = settings.ice == "relay"
    engine, cause, server = await _try(around, settings, room, MediaWay.HOST, joined_only=only_relay)
    if not only_relay and not cause and not engine.must_relay:
        return Found(MediaWay.HOST, {}, server)
    tried = {MediaWay.HOST: cause or "not allowed"}
    for turn in engine.turns:
        if turn.way not in tried:
            _, cause, _ = await _try(around, settings, room, turn.way)
            if not cause:
                return Found(turn.way, tried, server)
            tried[turn.way] = cause
    return Found(MediaWay.HOST, tried, server)


async def _try(
    around: Surroundings, settings: Settings, room: str, way: MediaWay, *, joined_only: bool = False
) -> tuple[ListenEngine, str, str]:
    """One join, why media did not come up (empty if it did), and what the server says of itself."""
    waiting = _Waiting()
    engine = ListenEngine(_probe(room, way), settings, replace(around, way=way), waiting)
    try:
        await engine.build()
        engine.join()
        async with asyncio.timeout(PATIENCE_S):
            await waiting.joined
            cause = "" if joined_only else await waiting.result
    except TimeoutError:
        cause = f"not up within {PATIENCE_S:.0f} s"
    finally:
        await engine.close()
    return engine, cause, waiting.server


def _probe(room: str, way: MediaWay) -> PlannedSession:
    empty: dict[str, Any] = dict.fromkeys(("metadata", "attributes", "room_metadata"), "")
    return PlannedSession(
        session_id=room, room=room, identity=f"probe-{way}", burst=0, role=Role.BURST,
        ordinal=0, offset_ns=0,
        engine="listen", **empty,
    )  # fmt: skip
