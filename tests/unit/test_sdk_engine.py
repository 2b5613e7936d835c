"""Engine ``sdk`` under a session, in virtual time: its child is a script of what it says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import virtual as v
from builders import RUN_ID, settings

from lk_users.address import Address
from lk_users.clock import NS_PER_MS, NS_PER_S, ServerClock
from lk_users.engines.listen import Surroundings
from lk_users.engines.sdk import RECONNECT_S, SdkEngine
from lk_users.engines.sdk_lines import Lines, from_view, line
from lk_users.errors import EngineCrashed
from lk_users.outcome import Finding
from lk_users.plan import planned
from lk_users.session import Session
from lk_users.wire.api import Keys
from lk_users.wire.endpoint import Endpoint
from lk_users.wire.microphone import Microphones
from lk_users.wire.servers import Servers
from lk_users.wire.signalling import Pinger, SignalPath

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from virtual import VirtualClock

    from lk_users.record import Record

# So long after the join was ordered, the child says this; ``ago_ms`` is how long it was on its way.
Said = tuple[float, dict[str, Any]]
ONSET = {"level_dbfs": -18.0, "threshold_dbfs": -45.0, "frames_before": 3, "ms_before": 30.0}
ANSWERS = {"build": "built", "leave": "left"}


def joined(at_s: float = 0.05, room_sid: str = "RM_1") -> Said:
    return at_s, {
        "is": "connected", "own": from_view(v.user(v.wall_ms(at_s))), "room_sid": room_sid, "others": [],
    }  # fmt: skip


def saw(at_s: float, agent_state: str = "", **changes: Any) -> Said:
    view = v.agent(agent_state=agent_state, microphones=("TR_1",), **changes)
    return at_s, {"is": "participant", "view": from_view(view)}


def heard(at_s: float) -> list[Said]:
    return [
        (at_s - 0.1, {"is": "subscribed", "sid": "PA_1"}),
        (at_s, {"is": "packet", "sid": "PA_1"}),
        (at_s, {"is": "audible", "sid": "PA_1", "onset": ONSET}),
        (at_s + 0.01, {"is": "facts", "facts": {"receive_delay_ms": 12.5}}),
    ]


@dataclass
class FakeChild:
    """Answers to ``build`` and ``leave``, and follows its script from ``join`` on."""

    clock: VirtualClock
    script: list[Said] = field(default_factory=list)
    delay_s: float = 0.0
    answers: Mapping[str, str] = field(default_factory=lambda: ANSWERS)
    version: str = "1.2.1"
    fault: str = ""
    orders: list[dict[str, Any]] = field(default_factory=list)
    freed: int = 0
    passenger: Any = None

    async def board(self, passenger: Any) -> FakeChild:
        if self.fault:
            raise EngineCrashed(self.fault)
        self.passenger = passenger
        return self

    def order(self, do: str, **facts: str) -> bytes:
        return line({"do": do, **facts})

    def give(self, order: bytes) -> None:
        (message,) = Lines().feed(order)
        self.orders.append(message)
        loop = asyncio.get_running_loop()
        if message["do"] in self.answers:
            loop.call_soon(self.passenger.told, {"is": self.answers[message["do"]]})
        elif message["do"] == "join":
            now_ns = self.clock.monotonic_ns()
            for after_s, said in self.script:
                at_ns = now_ns + round(after_s * NS_PER_S)
                if "onset" in said:
                    said = {**said, "onset": {"at_ns": at_ns, **said["onset"]}}
                loop.call_later(after_s + self.delay_s, self.passenger.told, {"at_ns": at_ns, **said})

    def free(self) -> None:
        self.freed += 1


class Observer:
    def marked(self, *_: object) -> None:
        pass

    def decided(self, session: Session) -> None:
        pass


# Never asked here; to make one reads the system's certificates.
SERVERS = Servers()


def play(
    script: list[Said],
    crash_at_s: float | None = None,
    change: Callable[[FakeChild], None] = lambda child: None,
    **options: str,
) -> tuple[Record, FakeChild]:
    """One session that joins at T0 by a child, with the dispatch in its token; ``crash_at_s`` from T0."""

    async def work(clock: VirtualClock) -> tuple[Record, FakeChild]:
        chosen = settings(1, dispatch="token", session_timeout="20", **options)
        child = FakeChild(clock, list(script))
        change(child)
        around = Surroundings(
            Address("lk.example.com", 7880, tls=False, path="/path"),
            Endpoint(("127.0.0.1",), 7880, "lk.example.com:7880"), Keys("devkey", "s" * 32), SERVERS, clock,
            SignalPath.V1, (), Pinger(clock), None, Microphones(),  # type: ignore[arg-type]
        )  # fmt: skip
        session = Session(
            planned(RUN_ID, 1, 0, chosen, "eu"), chosen, clock, ServerClock(), Observer(),
            lambda item, listener: SdkEngine(item, chosen, around, child, listener),  # type: ignore[arg-type]
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        await session.build()
        if crash_at_s is not None:
            loop.call_later(2 + crash_at_s, lambda: child.passenger.crashed("its SDK child ended: SIGKILL"))
        session.announce(v.T0_NS, v.WALL_START_NS + 2 * NS_PER_S)
        await asyncio.sleep((v.T0_NS - clock.monotonic_ns()) / NS_PER_S)
        session.fire()
        session.fired(loop)
        await asyncio.sleep(25)
        await session.close()
        return session.record(RUN_ID, "w1", "eu", None, 0), child

    return v.in_virtual_time(work)


GOOD: list[Said] = [joined(), saw(0.3), saw(0.35, "speaking"), *heard(0.5)]


def test_a_good_session_by_the_childs_own_moments() -> None:
    def slow_pipe(child: FakeChild) -> None:
        child.delay_s = 1.5

    record, child = play(GOOD, change=slow_pipe)
    assert record.outcome is Finding.OK
    at_ms = {mark: at_ns / NS_PER_MS for mark, at_ns in record.marks_ns.items()}
    expected = {
        "fired": 0, "connected": 50, "media_up": 50, "agent_seen": 300, "agent_active": 300,
        "agent_ready": 350, "agent_speaking": 350, "agent_track": 400, "first_audio": 500, "welcomed": 500,
    }  # fmt: skip
    assert {mark: at_ms[mark] for mark in expected} == expected
    assert record.evidence["sdk"] == "1.2.1"
    assert record.evidence["receive_delay_ms"] == 12.5
    assert (record.room_sid, record.participant_sid) == ("RM_1", "PA_user")
    assert [order["do"] for order in child.orders] == ["build", "join", "leave"]
    assert child.freed == 1


def test_the_child_gets_url_and_token_before_t0() -> None:
    _, child = play(GOOD)
    assert child.orders[0]["url"] == "ws://lk.example.com:7880/path"
    assert child.orders[0]["token"].startswith("eyJ")
    assert child.orders[1] == {"do": "join"}


def test_text_is_heard_by_its_moment() -> None:
    said = {"is": "text", "topic": "lk.transcription", "sender": "agent-1", "text": "Hi", "final": True,
        "segment": "stream SG_1",
    }  # fmt: skip
    record, _ = play([*GOOD, (0.45, said)], welcome="audio,text")
    assert record.marks_ns["first_text"] == 450 * NS_PER_MS
    assert record.marks_ns["welcomed"] == 500 * NS_PER_MS


def test_a_child_that_dies_ends_its_open_session() -> None:
    record, _ = play([joined(), saw(5.0)], crash_at_s=1.0)
    assert (record.outcome, record.cause) == (Finding.ENGINE_CRASHED, "its SDK child ended: SIGKILL")
    assert record.decided_ns == 1 * NS_PER_S
    assert record.evidence["sdk_ended"] == "its SDK child ended: SIGKILL"


def test_a_child_that_dies_before_t0_costs_no_start() -> None:
    record, child = play(GOOD, crash_at_s=-1.0)
    assert (record.outcome, record.marks_ns) == (Finding.ENGINE_CRASHED, {})
    assert [order["do"] for order in child.orders] == ["build"]


def test_a_child_that_dies_after_the_welcome_takes_nothing_back() -> None:
    record, _ = play(GOOD, crash_at_s=3.0)
    assert record.outcome is Finding.OK
    assert record.evidence["sdk_ended"] == "its SDK child ended: SIGKILL"


def test_a_child_that_cannot_start_is_ours() -> None:
    def broken(child: FakeChild) -> None:
        child.fault = "its SDK child ended: exit status 1"

    record, _ = play(GOOD, change=broken)
    assert record.findings == {"engine_crashed": "before T0: its SDK child ended: exit status 1"}


def test_a_child_that_does_not_answer_is_ours_and_left_alone() -> None:
    def mute(child: FakeChild) -> None:
        child.answers = {}

    record, child = play(GOOD, change=mute)
    assert record.cause == "before T0: its SDK child did not answer within 10 s"
    assert child.freed == 1


@pytest.mark.parametrize(
    ("cause", "finding"),
    [
        ("engine: signal failure: client error: 401 Unauthorized - invalid token", Finding.CONNECT_FAILED),
        ("engine: signal failure: client error: 429 Too Many Requests - wait", Finding.RATE_LIMITED),
        ("engine: signal failure: transport connection error: IO error: x", Finding.CONNECT_FAILED),
    ],
)
def test_a_refused_join_by_its_status(cause: str, finding: Finding) -> None:
    record, _ = play([(0.2, {"is": "join_failed", "cause": cause})])
    assert record.outcome is finding
    assert cause in record.cause


@pytest.mark.parametrize(
    ("reason", "finding"),
    [
        ("room_deleted", Finding.ROOM_CLOSED),
        ("participant_removed", Finding.USER_DROPPED),
        ("signal_close", Finding.CONNECTION_LOST),
    ],
)
def test_out_of_the_room_by_its_reason(reason: str, finding: Finding) -> None:
    record, _ = play([joined(), (1.0, {"is": "disconnected", "reason": reason})])
    assert (record.outcome, record.cause) == (finding, reason)


def test_a_cut_that_does_not_heal_is_a_lost_connection() -> None:
    record, _ = play([joined(), (1.0, {"is": "reconnecting"})])
    assert record.outcome is Finding.CONNECTION_LOST
    assert record.decided_ns == (1 + RECONNECT_S) * NS_PER_S
    assert record.evidence["reconnects"] == 1


def test_a_cut_that_heals_costs_nothing() -> None:
    cut: list[Said] = [(1.0, {"is": "reconnecting"}), (3.0, {"is": "reconnected"})]
    record, _ = play([joined(), *cut, saw(12.5), saw(12.6, "speaking"), *heard(13.0)])
    assert record.outcome is Finding.OK
    assert record.evidence["reconnects"] == 1
