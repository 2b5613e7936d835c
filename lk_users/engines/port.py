"""The seam between a session and the way it takes part: six calls out, a handful of events back.

Everything runs on the session's loop. An engine knows no deadlines, no outcomes and no other session; it
tells what happened, when it happens, and the session draws the conclusions. Where it tells that late, for
another process saw it or it was not read at once, ``at_ns`` says when it was, on the monotonic clock; else it
happens now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lk_users.errors import WireError
    from lk_users.evidence import DispatchView, Onset, ParticipantView
    from lk_users.outcome import Finding
    from lk_users.wire.recording import Recording
    from lk_users.wire.text_stream import DataPiece, TextPiece


class EngineListener(Protocol):
    """What an engine tells its session."""

    def room_is(self, room: str) -> None:
        """The token that the user's own backend gave is for this room, whatever it was asked for."""

    def session_created(self) -> None:
        """The user's own backend answered, with a token."""

    def session_failed(self, error: WireError) -> None:
        """It refused, never answered, or gave nothing to join with."""

    def dispatched(self, view: DispatchView | None, room_sid: str) -> None:
        """The dispatch was answered. ``view``: by CreateDispatch; ``room_sid``: by CreateRoom."""

    def dispatch_failed(self, error: WireError) -> None:
        """Refused, or never answered."""

    def connected(
        self,
        own: ParticipantView,
        room_sid: str,
        others: Sequence[ParticipantView],
        server: str,
        at_ns: int | None = None,
    ) -> None:
        """In the room. ``server``: edition, version, node and region, as it says; empty if it does not."""

    def join_failed(self, error: WireError) -> None:
        """The join was refused or its connection broke before it was answered."""

    def media_up(self, at_ns: int | None = None) -> None:
        """The peer connection is connected."""

    def media_failed(self, state: str) -> None:
        """The peer connection failed."""

    def participant(self, view: ParticipantView, at_ns: int | None = None) -> None:
        """Another participant came, changed or went."""

    def subscribed(self, participant_sid: str, at_ns: int | None = None) -> None:
        """A microphone track of this participant reaches us."""

    def packet(self, participant_sid: str, reached_ns: int) -> None:
        """Its first RTP packet came: to our socket at ``reached_ns`` on the monotonic clock, which may be
        before we could tell whose it is."""

    def audible(self, participant_sid: str, onset: Onset) -> bool:
        """Its first audible frame came. Is more of its sound wanted, as evidence?"""

    def text(self, piece: TextPiece, at_ns: int | None = None) -> None:
        """A piece of a text came."""

    def data(self, piece: DataPiece, at_ns: int | None = None) -> None:
        """Other data came."""

    def dropped(self, finding: Finding, cause: str) -> None:
        """Out of the room without having left."""

    def crashed(self, cause: str) -> None:
        """The engine itself is gone: nothing comes after it."""


class Engine(Protocol):
    """One session's way to take part."""

    async def build(self) -> None:
        """Everything that can be done before T0. Raises WireError, EngineCrashed."""

    def open(self) -> int:
        """Write the request to the user's own backend; the moment of it, in ns on the monotonic clock."""

    def dispatch(self) -> int:
        """Write the request for the agent; the moment of it, in ns on the monotonic clock."""

    def join(self) -> int:
        """Write the join; the moment of it, in ns on the monotonic clock."""

    def rest(self) -> None:
        """The welcome is complete, or waited for no more: what comes need not be told at once, as long as
        its moment is. Saves CPU. Idempotent."""

    def leave(self) -> None:
        """Leave the room on purpose. Idempotent, allowed at any time."""

    async def close(self) -> None:
        """Free everything. Idempotent."""

    def evidence(self) -> dict[str, Any]:
        """What only the engine knows and the record should keep."""

    def recording(self) -> Recording | None:
        """The sound of the agent that it kept; None if it keeps none."""
