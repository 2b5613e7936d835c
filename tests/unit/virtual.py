"""Virtual time for sessions: a loop that hops to its next timer instead of sleeping, its clock, an engine
that follows a script, and what the engine can be told to say."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.evidence import DispatchView, Onset, ParticipantView
from lk_users.session import Session
from lk_users.wire.text_stream import TRANSCRIPTION, DataPiece, TextPiece

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from lk_users.engines.port import EngineListener
    from lk_users.errors import WireError
    from lk_users.wire.recording import Recording

    # So long after its cause, this happens.
    Step = tuple[float, Callable[[EngineListener], None]]

T = TypeVar("T")
START_NS: Final = 1_000 * NS_PER_S
WALL_START_NS: Final = 1_772_366_400 * NS_PER_S
T0_NS: Final = START_NS + 2 * NS_PER_S
AGENT_NAME: Final = "front-desk"


class VirtualClock:
    """Whole microseconds, so that timers in floating-point seconds hit their moment exactly."""

    def __init__(self) -> None:
        self.now_us = START_NS // 1_000

    def monotonic_ns(self) -> int:
        return self.now_us * 1_000

    def wall_ns(self) -> int:
        return self.monotonic_ns() - START_NS + WALL_START_NS


class _Hop:
    """In the selector's place: instead of waiting for input, the clock moves on."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[object]:
        if timeout is None:
            raise AssertionError("nothing is due any more, and yet something waits")
        self._clock.now_us += math.ceil(timeout * 1_000_000 - 0.001)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """Takes no time and no input, and has no socket; whatever waits for a thread or a socket fails."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self._selector = _Hop(self.clock)

    def time(self) -> float:
        return self.clock.now_us / 1_000_000

    def _process_events(self, events: list[object]) -> None:
        pass


def in_virtual_time(work: Callable[[VirtualClock], Coroutine[Any, Any, T]]) -> T:
    """The result of ``work(clock)``, run on a loop of its own. Raises what a callback raised, too."""
    loop = VirtualLoop()
    raised: list[BaseException] = []
    loop.set_exception_handler(
        lambda _, context: raised.append(context.get("exception", AssertionError(context)))
    )
    # Not asyncio.Runner, which takes the process's SIGINT for each of thousands of loops.
    try:
        result = loop.run_until_complete(work(loop.clock))
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    finally:
        loop.close()
    if raised:
        raise raised[0]
    return result


class FakeEngine:
    """Follows a script: what happens so many seconds after the dispatch was written, and after the join."""

    def __init__(
        self,
        clock: VirtualClock,
        listener: EngineListener,
        after_dispatch: Sequence[Step] = (),
        after_join: Sequence[Step] = (),
        fault: WireError | None = None,
        after_open: Sequence[Step] = (),
    ) -> None:
        self._clock = clock
        self._after_open = after_open
        self._listener = listener
        self._after_dispatch = after_dispatch
        self._after_join = after_join
        self._fault = fault
        self.calls: list[str] = []
        self.facts: dict[str, Any] = {}
        self.sound: Recording | None = None
        self.write_us = 0
        """So long a write takes to return; what follows is counted from its begin."""
        self.rested_ms: list[int] = []
        """When it was told that it may rest, after T0."""
        self.more_wanted: list[bool] = []
        """What the session said to each sound that was heard."""

    async def build(self) -> None:
        self.calls.append("build")
        if self._fault is not None:
            raise self._fault

    def open(self) -> int:
        return self._play("open", self._after_open)

    def dispatch(self) -> int:
        return self._play("dispatch", self._after_dispatch)

    def join(self) -> int:
        return self._play("join", self._after_join)

    def rest(self) -> None:
        self.rested_ms.append((self._clock.monotonic_ns() - T0_NS) // NS_PER_MS)

    def leave(self) -> None:
        self.calls.append("leave")

    async def close(self) -> None:
        self.calls.append("close")

    def evidence(self) -> dict[str, Any]:
        return self.facts

    def recording(self) -> Recording | None:
        return self.sound

    def _play(self, call: str, steps: Sequence[Step]) -> int:
        self.calls.append(call)
        for delay_s, happen in steps:
            asyncio.get_running_loop().call_later(delay_s, happen, self._listener)
        self._clock.now_us += self.write_us
        return self._clock.monotonic_ns()


# What an engine can say.


def wall_ms(after_t0_s: float) -> int:
    """The wall clock so long after T0."""
    return (T0_NS - START_NS + WALL_START_NS) // NS_PER_MS + round(after_t0_s * 1000)


def user(joined_at_ms: int = 0) -> ParticipantView:
    return ParticipantView("PA_user", "user-0", agent=False, state="joined", joined_at_ms=joined_at_ms)


def agent(
    sid: str = "PA_1", identity: str = "agent-1", state: str = "active", agent_state: str = "", **changes: Any
) -> ParticipantView:
    """An agent of the name that was asked for, unless ``name`` says another."""
    name = changes.pop("name", AGENT_NAME)
    attributes = {"lk.agent.name": name, "lk.agent.state": agent_state, **changes.pop("attributes", {})}
    changes.setdefault("joined_at_ms", 0)
    return ParticipantView(sid, identity, agent=True, state=state, attributes=attributes, **changes)


def gone(reason: str = "signal_close", sid: str = "PA_1", identity: str = "agent-1") -> ParticipantView:
    return agent(sid, identity, "disconnected", disconnect_reason=reason)


def session_created(room: str = "lobby") -> Callable[[EngineListener], None]:
    def happen(to: EngineListener) -> None:
        to.room_is(room)
        to.session_created()

    return happen


def session_failed(error: WireError) -> Callable[[EngineListener], None]:
    return lambda to: to.session_failed(error)


def dispatched(view: DispatchView | None = None) -> Callable[[EngineListener], None]:
    return lambda to: to.dispatched(view or DispatchView("AD_1", AGENT_NAME), "")


def dispatch_failed(error: WireError) -> Callable[[EngineListener], None]:
    return lambda to: to.dispatch_failed(error)


def connected(
    *others: ParticipantView, joined_at_ms: int = 0, node: str = "N"
) -> Callable[[EngineListener], None]:
    server = f"open source 1.13.5 node {node} region -"
    return lambda to: to.connected(user(joined_at_ms), "RM_1", others, server)


def participant(view: ParticipantView) -> Callable[[EngineListener], None]:
    return lambda to: to.participant(view)


def subscribed(sid: str = "PA_1") -> Callable[[EngineListener], None]:
    return lambda to: to.subscribed(sid)


def packet(sid: str = "PA_1", ago_s: float = 0.0) -> Callable[[EngineListener], None]:
    """``ago_s``: it came to the socket so long before it could be told whose it was."""

    def happen(to: EngineListener) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        to.packet(sid, loop.clock.monotonic_ns() - round(ago_s * NS_PER_S))

    return happen


def audible(
    clock: VirtualClock, sid: str = "PA_1", ms_before: float = 0.0
) -> Callable[[EngineListener], None]:
    """``ms_before``: of silence that came before."""

    def happen(to: EngineListener) -> None:
        onset = Onset(clock.monotonic_ns(), -18.04, -45.0, round(ms_before / 20), ms_before)
        more_wanted = to.audible(sid, onset)
        if isinstance(to, Session) and isinstance(to.engine, FakeEngine):
            to.engine.more_wanted.append(more_wanted)

    return happen


def text(
    sender: str = "agent-1",
    topic: str = TRANSCRIPTION,
    words: str = "Welcome",
    *,
    final: bool = False,
    segment: str = "stream SG_1",
) -> Callable[[EngineListener], None]:
    return lambda to: to.text(TextPiece(topic, sender, words, final, segment))


def data(topic: str = "ui", sender: str = "agent-1", size_bytes: int = 7) -> Callable[[EngineListener], None]:
    return lambda to: to.data(DataPiece(topic, sender, size_bytes))


def media_up(to: EngineListener) -> None:
    to.media_up()
