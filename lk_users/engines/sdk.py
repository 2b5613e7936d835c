"""Engine ``sdk``: the official ``livekit`` package, in a child process. The witness that a real client
hears what ``listen`` hears.

The request for the agent is the same as everybody's, written from here; only the join and what follows is
the SDK's. Its events come with their own moments, so a pipe's delay is in none of them.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

from lk_users.clock import NS_PER_MS
from lk_users.engines.opening import way_in
from lk_users.engines.sdk_lines import to_view
from lk_users.errors import ConnectionCut, EngineCrashed, UpgradeRefused, WireError
from lk_users.evidence import Onset
from lk_users.outcome import Finding
from lk_users.wire.text_stream import TextPiece

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lk_users.engines.listen import Surroundings
    from lk_users.engines.port import EngineListener
    from lk_users.engines.sdk_pool import SdkPool, Seat
    from lk_users.errors import BackendError
    from lk_users.plan import PlannedSession
    from lk_users.settings.run import Settings
    from lk_users.wire.backend import Ticket

BUILD_S: Final = 10.0
LEAVE_S: Final = 3.0
# The SDK tries to reconnect for minutes; by then ``listen`` has long said that its connection was cut.
RECONNECT_S: Final = 10.0
_ROOM_ENDED: Final = ("room_deleted", "room_closed")
# How the SDK names that it gave up; all other reasons are the server's own words.
_CUT: Final = ("unknown_reason", "signal_close", "connection_timeout", "media_failure")
_STATUS: Final = re.compile(r"\b(?:HTTP error|client error|server error|status):? (\d{3})\b", re.IGNORECASE)


class SdkEngine:
    """One user: what it asks for at T0 here, everything else in a child."""

    def __init__(
        self,
        planned: PlannedSession,
        settings: Settings,
        around: Surroundings,
        pool: SdkPool,
        listener: EngineListener,
        given: Ticket | BackendError | None = None,
    ) -> None:
        self._around = around
        self._pool = pool
        self._listener = listener
        self._mic = settings.mic
        self._way_in = way_in(planned, settings, around, listener, given)
        self._built = False
        self._seat: Seat | None = None
        self._join_order = b""
        self._joined_ns = 0
        self._connected = False
        self._ended = False
        self._reply: asyncio.Future[None] | None = None
        self._reconnecting: asyncio.TimerHandle | None = None
        self._facts: dict[str, Any] = {}
        self._hear: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
            "built": self._replied,
            "left": self._replied,
            "joining": self._joining,
            "connected": self._in_room,
            "join_failed": self._refused,
            "participant": lambda m: listener.participant(to_view(m["view"]), m["at_ns"]),
            "subscribed": lambda m: listener.subscribed(m["sid"], m["at_ns"]),
            "packet": lambda m: listener.packet(m["sid"], m["at_ns"]),
            "audible": lambda m: listener.audible(m["sid"], Onset(**m["onset"])),
            "text": lambda m: listener.text(
                TextPiece(m["topic"], m["sender"], m["text"], m["final"], m["segment"]), m["at_ns"]
            ),
            "facts": lambda m: self._facts.update(m["facts"]),
            "reconnecting": self._cut,
            "reconnected": self._back,
            "disconnected": self._sent_away,
        }

    async def build(self) -> None:
        """Token, request, a child that is ready. Raises ConnectionCut, EngineCrashed, BackendError."""
        ticket = self._way_in.ticket()
        seat = self._seat = await self._pool.board(self)
        self._facts["sdk"] = seat.version
        self._join_order = seat.order("join")
        if ticket is not None:
            self._built = True
            if not await self._asked(self._build_order(ticket), BUILD_S):
                raise EngineCrashed(f"its SDK child did not answer within {BUILD_S:g} s")
        await self._way_in.arm()

    def open(self) -> int:
        return self._way_in.fire()

    def dispatch(self) -> int:
        return self._way_in.fire()

    def join(self) -> int:
        assert self._seat is not None
        if not self._built:
            ticket = self._way_in.ticket()
            assert ticket is not None
            self._seat.give(self._build_order(ticket))
        self._seat.give(self._join_order)
        self._joined_ns = self._around.clock.monotonic_ns()
        return self._joined_ns

    def _build_order(self, ticket: Ticket) -> bytes:
        assert self._seat is not None
        if ticket.address != self._around.address:
            self._facts["server_url"] = ticket.address.shown_url
        return self._seat.order("build", url=ticket.address.shown_url, token=ticket.token, mic=self._mic)

    def rest(self) -> None:
        pass

    def leave(self) -> None:
        if not self._ended and self._seat is not None:
            self._seat.give(self._seat.order("leave"))
        self._end()

    async def close(self) -> None:
        self._way_in.close()
        if self._seat is None:
            return
        seat = self._seat
        if not self._ended:
            self._end()
            await self._asked(seat.order("leave"), LEAVE_S)
        seat.free()

    def recording(self) -> None:
        """The SDK hands out sound that it has decoded and stretched: no evidence of packets."""

    def evidence(self) -> dict[str, Any]:
        return {**self._facts, **({"rearmed": True} if self._way_in.rearmed else {})}

    # What the child tells.

    def told(self, message: Mapping[str, Any]) -> None:
        what = message["is"]
        if not self._ended or what in ("left", "facts"):
            self._hear[what](message)

    def crashed(self, cause: str) -> None:
        self._replied({})
        self._facts["sdk_ended"] = cause
        if not self._ended:
            self._end()
            self._listener.crashed(cause)

    async def _asked(self, order: bytes, timeout_s: float) -> bool:
        """Give an order that is answered: was it, in time?"""
        assert self._seat is not None
        self._reply = asyncio.get_running_loop().create_future()
        self._seat.give(order)
        try:
            async with asyncio.timeout(timeout_s):
                await self._reply
        except TimeoutError:
            return False
        return True

    def _replied(self, message: Mapping[str, Any]) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(None)

    def _joining(self, message: Mapping[str, Any]) -> None:
        """How long after our word the child called the SDK."""
        self._facts["join_delay_ms"] = round((message["at_ns"] - self._joined_ns) / NS_PER_MS, 3)

    def _in_room(self, message: Mapping[str, Any]) -> None:
        """The SDK says so once its peer connection is up, and does not tell the two apart."""
        self._connected = True
        at_ns = message["at_ns"]
        others = [to_view(other) for other in message["others"]]
        self._listener.connected(to_view(message["own"]), message["room_sid"], others, "", at_ns)
        self._listener.media_up(at_ns)

    def _refused(self, message: Mapping[str, Any]) -> None:
        self._listener.join_failed(_error(message["cause"]))

    def _cut(self, message: Mapping[str, Any]) -> None:
        self._facts["reconnects"] = self._facts.get("reconnects", 0) + 1
        if self._reconnecting is None:
            loop = asyncio.get_running_loop()
            self._reconnecting = loop.call_later(RECONNECT_S, self._lost)

    def _back(self, message: Mapping[str, Any]) -> None:
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            self._reconnecting = None

    def _lost(self) -> None:
        self._listener.dropped(
            Finding.CONNECTION_LOST, f"the SDK could not reconnect within {RECONNECT_S:g} s"
        )

    def _sent_away(self, message: Mapping[str, Any]) -> None:
        reason = message["reason"]
        if not self._connected:
            # Before, ``connect`` itself fails, and says more.
            return
        if reason in _ROOM_ENDED:
            finding = Finding.ROOM_CLOSED
        else:
            finding = Finding.CONNECTION_LOST if reason in _CUT else Finding.USER_DROPPED
        self._listener.dropped(finding, reason)

    def _end(self) -> None:
        self._ended = True
        self._back({})


def _error(cause: str) -> WireError:
    """The SDK's text as our error: with its HTTP status, where it has one."""
    status = _STATUS.search(cause)
    return UpgradeRefused(int(status[1]), cause) if status else ConnectionCut(cause)
