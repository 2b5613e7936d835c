from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import virtual as v
from builders import settings

from lk_users.clock import NS_PER_MS, NS_PER_S, ServerClock
from lk_users.errors import BackendError, ConnectionCut, HttpError, UpgradeRefused, WireError
from lk_users.evidence import DispatchView, JobView, ServerView
from lk_users.outcome import Finding
from lk_users.plan import planned
from lk_users.record import Mark, Phase, Record
from lk_users.report.clocks import contradictions
from lk_users.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from virtual import Step, VirtualClock

    from lk_users.engines.port import EngineListener
    from lk_users.plan import PlannedSession

    Steps = Callable[[VirtualClock], Sequence[Step]]

RUN_ID = "20260301-120000-ab12"
ANSWERED: Sequence[Step] = (
    (0.02, v.dispatched(DispatchView("AD_1", v.AGENT_NAME, v.wall_ms(0.01) * NS_PER_MS))),
)
JOINED: Sequence[Step] = ((0.03, v.connected(joined_at_ms=v.wall_ms(0.04))), (0.08, v.media_up))
CAME: Sequence[Step] = (
    (0.5, v.participant(v.agent(state="joining", joined_at_ms=v.wall_ms(0.5)))),
    (0.55, v.participant(v.agent())),
    (0.6, v.participant(v.agent(agent_state="initializing"))),
    (0.65, v.participant(v.agent(agent_state="listening"))),
    (0.7, v.subscribed()),
)
ORDERS = ("dispatch-first", "join-first")


def spoke(clock: VirtualClock, at_s: float = 0.8) -> Sequence[Step]:
    """Packets, the state, audible sound, and the transcript 300 ms into it."""
    return (
        (at_s - 0.06, v.packet()),
        (at_s - 0.05, v.participant(v.agent(agent_state="speaking"))),
        (at_s, v.audible(clock)),
        (at_s + 0.3, v.text()),
    )


def good(clock: VirtualClock) -> Sequence[Step]:
    return (*JOINED, *CAME, *spoke(clock))


def script(*steps: Step) -> Steps:
    return lambda clock: (*JOINED, *steps)


@dataclass
class Played:
    """A session that was played to its end, as its burst sees it."""

    clock: VirtualClock
    session: Session | None = None
    engine: v.FakeEngine | None = None
    decided: list[Record] = field(default_factory=list)
    """The provisional record of each ``decided``: to be one."""
    marks: list[tuple[str, int]] = field(default_factory=list)
    view: ServerView | None = None
    lag_ns: int = 0

    def marked(self, session: Session, mark: Mark, at_ns: int) -> None:
        self.marks.append((str(mark), at_ns))

    def decided_(self, session: Session) -> None:
        self.decided.append(session.record(RUN_ID, "w1", "eu", None, 0))

    @property
    def record(self) -> Record:
        """The final record."""
        assert self.session is not None
        return self.session.record(RUN_ID, "w1", "eu", self.view, self.lag_ns)

    @property
    def marks_ms(self) -> dict[str, float]:
        return {mark: at_ns / NS_PER_MS for mark, at_ns in self.record.marks_ns.items()}

    @property
    def decided_s(self) -> float:
        assert len(self.decided) == 1
        return self.decided[0].decided_ns / NS_PER_S

    @property
    def found(self) -> tuple[Finding, str]:
        return self.record.outcome, self.record.cause


class _Observer:
    def __init__(self, played: Played) -> None:
        self.marked = played.marked
        self.decided = played.decided_


def play(
    after_join: Steps = good,
    after_dispatch: Sequence[Step] = ANSWERED,
    *,
    fault: WireError | None = None,
    cancel_at_s: float | None = None,
    facts: dict[str, object] | None = None,
    linger_s: float = 5.0,
    server_clock: ServerClock | None = None,
    after_open: Sequence[Step] = (),
    write_us: int = 0,
    **options: str,
) -> Played:
    """One session from two seconds before T0 to some seconds after its deadline, whatever it does."""

    async def work(clock: VirtualClock) -> Played:
        chosen = settings(1, **options)
        played = Played(clock)

        def make_engine(item: PlannedSession, listener: EngineListener) -> v.FakeEngine:
            played.engine = v.FakeEngine(
                clock, listener, after_dispatch, after_join(clock), fault, after_open
            )
            played.engine.facts = {**(facts or {})}
            played.engine.write_us = write_us
            return played.engine

        item = planned(RUN_ID, 1, 0, chosen, "eu")
        around = server_clock or ServerClock()
        session = played.session = Session(item, chosen, clock, around, _Observer(played), make_engine)
        loop = asyncio.get_running_loop()
        await session.build()
        session.announce(v.T0_NS, v.WALL_START_NS + 2 * NS_PER_S)
        if cancel_at_s is not None:
            loop.call_later(2.0 + cancel_at_s, session.cancel, "the operator stopped the run")
        await asyncio.sleep((v.T0_NS - clock.monotonic_ns()) / NS_PER_S)
        session.fire()
        session.fired(loop)
        await asyncio.sleep(chosen.session_timeout_s + linger_s)
        return played

    return v.in_virtual_time(work)


def backed(
    answer: Sequence[Step] = ((0.02, v.session_created("lobby")),),
    after_join: Steps = good,
    **options: Any,
) -> Played:
    """One session that the user's own backend starts."""
    return play(after_join, after_open=answer, session_url="https://app.example.com/token", **options)


# Good sessions.


def test_a_good_session_dispatch_first() -> None:
    played = play()
    assert played.found == (Finding.OK, "")
    marks = played.marks_ms
    joined_ms = marks.pop("agent_joined")
    assert marks == {
        "fired": 0, "dispatched": 20, "connected": 50, "media_up": 100,
        "agent_seen": 520, "agent_active": 570, "agent_ready": 670, "agent_speaking": 770, "agent_track": 720,
        "first_audio": 820, "first_text": 1120, "welcomed": 820,
    }  # fmt: skip
    assert abs(joined_ms - 500) <= played.record.joined_uncertainty_ns / NS_PER_MS
    assert played.record.joined_uncertainty_ns <= 16 * NS_PER_MS
    assert played.decided_s == 0.82


def test_the_record_holds_marks_in_the_order_of_a_good_session() -> None:
    assert list(play(expect_text="Wel").record.marks_ns) == [
        mark.value for mark in Mark if mark is not Mark.SESSION_CREATED
    ]
    assert list(backed(expect_text="Wel").record.marks_ns) == [
        mark.value for mark in Mark if mark is not Mark.DISPATCHED
    ]


def test_every_mark_is_told_once_and_as_recorded() -> None:
    played = play()
    told = dict(played.marks)
    assert len(told) == len(played.marks)
    assert told == {name: at for name, at in played.record.marks_ns.items() if name != Mark.AGENT_JOINED}


def test_a_good_session_from_the_user_s_own_backend() -> None:
    played = backed()
    assert played.engine is not None
    assert played.engine.calls[:3] == ["build", "open", "join"]
    assert played.found == (Finding.OK, "")
    marks, phases = played.marks_ms, played.record.phases_ns
    assert (marks["fired"], marks["session_created"]) == (0, 20)
    assert "dispatched" not in marks
    assert phases[Phase.SESSION_API] == 20 * NS_PER_MS
    assert phases[Phase.USER_JOIN] == 30 * NS_PER_MS
    assert (played.record.room, played.record.dispatch, played.record.order) == (
        "lobby", "backend", "session-first",
    )  # fmt: skip
    assert contradictions(played.record) == []


def test_a_session_with_credentials_of_the_locustfile_joins_first() -> None:
    played = play(dispatch="backend")
    assert played.engine is not None
    assert played.engine.calls[:2] == ["build", "join"]
    assert played.found == (Finding.OK, "")
    assert "session_created" not in played.marks_ms


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (HttpError(429, "slow down"), (Finding.RATE_LIMITED, "HTTP 429: slow down")),
        (HttpError(500, "oops"), (Finding.SESSION_FAILED, "HTTP 500: oops")),
        (ConnectionCut("connection reset"), (Finding.SESSION_FAILED, "connection reset")),
        (BackendError("its answer is no JSON"), (Finding.SESSION_FAILED, "its answer is no JSON")),
    ],
)
def test_the_user_s_own_backend_gives_no_session(error: WireError, found: tuple[Finding, str]) -> None:
    played = backed(answer=[(0.3, v.session_failed(error))])
    assert played.found == found
    assert played.decided_s == 0.3
    assert played.engine is not None
    assert "join" not in played.engine.calls
    assert played.record.lost
    assert played.record.room.startswith("lk-")


def test_the_user_s_own_backend_never_answers() -> None:
    played = backed(answer=[], session_timeout="7")
    assert played.found == (Finding.SESSION_FAILED, "no answer within 7 s")


def test_an_answer_after_the_deadline_changes_nothing() -> None:
    played = backed(answer=[(9.0, v.session_created("late"))], session_timeout="7")
    assert played.found == (Finding.SESSION_FAILED, "no answer within 7 s")
    assert played.engine is not None
    assert "join" not in played.engine.calls


def test_a_join_with_a_token_that_the_server_does_not_take() -> None:
    refused = UpgradeRefused(401, "invalid token")
    played = backed(after_join=lambda clock: [(0.1, lambda to: to.join_failed(refused))])
    assert played.found == (Finding.CONNECT_FAILED, "HTTP 401: invalid token")
    assert played.marks_ms["session_created"] == 20


def test_credentials_that_failed_before_t0() -> None:
    played = play(fault=BackendError("credentials() raised KeyError: 'token'"), dispatch="backend")
    assert played.found == (
        Finding.SESSION_FAILED, "before T0: credentials() raised KeyError: 'token'",
    )  # fmt: skip


def test_any_agent_will_do_where_only_the_backend_knows_its_name() -> None:
    assert backed(agent_name="").found == (Finding.OK, "")
    assert backed(agent_name="somebody-else", session_timeout="7").found[0] is Finding.NEVER_ASSIGNED


def test_a_good_session_join_first() -> None:
    played = play(order="join-first")
    assert played.found == (Finding.OK, "")
    marks = played.marks_ms
    assert (marks["fired"], marks["connected"], marks["dispatched"], marks["welcomed"]) == (0, 30, 50, 800)
    assert played.engine is not None
    assert played.engine.calls == ["build", "join", "dispatch"]
    assert played.record.phases_ns[Phase.USER_JOIN] == 30 * NS_PER_MS


@pytest.mark.parametrize(
    ("dispatch", "order", "calls"),
    [
        ("api", "dispatch-first", ["build", "dispatch", "join"]),
        ("api", "join-first", ["build", "join", "dispatch"]),
        ("room", "dispatch-first", ["build", "dispatch", "join"]),
        ("token", "join-first", ["build", "join"]),
        ("none", "join-first", ["build", "join"]),
    ],
)
def test_each_way_to_dispatch_writes_what_it_needs(dispatch: str, order: str, calls: list[str]) -> None:
    name = "" if dispatch == "none" else v.AGENT_NAME
    played = play(dispatch=dispatch, order=order, agent_name=name)
    assert played.engine is not None
    assert played.engine.calls == calls
    # An unnamed agent is any agent that tells no other name.
    assert played.record.outcome is (Finding.NEVER_ASSIGNED if dispatch == "none" else Finding.OK)
    assert (Mark.DISPATCHED in played.record.marks_ns) == ("dispatch" in calls)


def test_an_unnamed_agent_is_one_that_tells_no_name() -> None:
    def unnamed(clock: VirtualClock) -> Sequence[Step]:
        return (*JOINED, (0.5, v.participant(v.agent(name=""))), (0.8, v.audible(clock)))

    assert play(unnamed, agent_name="").found == (Finding.OK, "")


def test_a_record_survives_its_json_line() -> None:
    record = play(facts={"local_ports": [50000]}).record
    assert Record.from_json(record.to_json()) == record


def test_the_record_says_who_and_where() -> None:
    record = play(facts={"packets": 3}).record
    assert (record.session_id, record.room) == (f"{RUN_ID}-b1-0", f"lk-{RUN_ID}-b1-0")
    assert (record.dispatch_id, record.room_sid, record.participant_sid) == ("AD_1", "RM_1", "PA_user")
    assert (record.agent_sid, record.agent_identity) == ("PA_1", "agent-1")
    assert record.created_at_ns == v.wall_ms(0.01) * NS_PER_MS
    assert record.joined_at_ns == v.wall_ms(0.5) * NS_PER_MS
    assert record.intended_wall_ns == v.WALL_START_NS + 2 * NS_PER_S
    placed_ms = (record.evidence.pop("intended_server_ns") - v.wall_ms(0) * NS_PER_MS) / NS_PER_MS
    assert abs(placed_ms) <= record.evidence.pop("server_clock_uncertainty_ms") <= 15
    assert record.evidence == {
        "agent": {"attributes": {"lk.agent.name": v.AGENT_NAME}},
        "server": "open source 1.13.5 node N region -", "audible_dbfs": -18.0, "threshold_dbfs": -45.0,
        "frames_before": 0, "ms_before": 0.0, "packet_ms": 760.0, "packets": 3,
        "texts": [
            {"kind": "transcription", "sender": "agent-1", "text": "Welcome", "ms": 1120.0, "final_ms": None}
        ],
    }  # fmt: skip


def test_whether_the_cloud_runs_the_agent_is_kept() -> None:
    def hosted(clock: VirtualClock) -> Sequence[Step]:
        return (*JOINED, (0.5, v.participant(v.agent(hosted=True))), (0.8, v.audible(clock)))

    assert play(hosted).record.evidence["agent"]["hosted_by_livekit"] is True
    assert "hosted_by_livekit" not in play().record.evidence["agent"]


def test_the_job_comes_from_the_api() -> None:
    played = play()
    job = JobView("AJ_1", "AW_1", "running", started_at_ns=77)
    played.view = ServerView((DispatchView("AD_1", v.AGENT_NAME, 66, (job,)),))
    record = played.record
    assert (record.job_id, record.worker_id, record.started_at_ns, record.created_at_ns) == (
        "AJ_1",
        "AW_1",
        77,
        66,
    )


def test_an_unread_api_takes_nothing_from_what_the_answer_said() -> None:
    played = play()
    played.view = ServerView(unread="connection refused")
    assert (played.record.dispatch_id, played.record.created_at_ns) == ("AD_1", v.wall_ms(0.01) * NS_PER_MS)
    assert played.found == (Finding.OK, "")


def test_lag_in_the_window_is_found_from_100_ms() -> None:
    played = play()
    played.lag_ns = 100 * NS_PER_MS - 1
    assert Finding.LAG_IN_WINDOW not in played.record.findings
    played.lag_ns = 350 * NS_PER_MS
    assert played.record.findings == {"ok": "", "lag_in_window": "the loop was up to 350 ms late"}
    assert played.record.lag_ms == 350.0


def test_a_connection_made_again_is_found() -> None:
    assert play(facts={"rearmed": True}).record.findings == {
        "ok": "",
        "rearmed": "its connection was made again",
    }


def test_an_agent_that_was_there_before_the_user() -> None:
    def there(clock: VirtualClock) -> Sequence[Step]:
        return (
            (0.03, v.connected(v.agent(joined_at_ms=v.wall_ms(0.03)))),
            (0.08, v.media_up),
            (0.1, v.audible(clock)),
        )

    played = play(there)
    assert played.found == (Finding.OK, "")
    assert (played.marks_ms["agent_seen"], played.marks_ms["welcomed"]) == (50, 120)
    assert played.marks_ms["agent_joined"] <= 50


def test_a_session_is_placed_by_the_clock_of_its_own_node() -> None:
    """Another node is 300 ms ahead, and its brackets are the narrower ones."""
    ahead = ServerClock()
    for after_ms in range(10):
        ours_ns = v.T0_NS - after_ms * NS_PER_MS
        theirs_ns = v.wall_ms(0.3) * NS_PER_MS - after_ms * NS_PER_MS
        ahead.add("another", ours_ns - 1000, theirs_ns, ours_ns)
    record = play(server_clock=ahead).record
    assert abs(record.marks_ns["agent_joined"] - 500 * NS_PER_MS) <= record.joined_uncertainty_ns
    assert record.joined_uncertainty_ns <= 25 * NS_PER_MS
    assert contradictions(record) == []


@pytest.mark.parametrize("order", ORDERS)
def test_what_the_server_stamps_before_our_write_has_returned_is_no_contradiction(order: str) -> None:
    """A kernel that delivers at once, and takes the processor away from who wrote."""
    # The first request takes effect after 1 ms and is answered after 32, the second follows then.
    stored_s, entered_s = (0.001, 0.033) if order == "dispatch-first" else (0.033, 0.001)
    answered = ((0.032, v.dispatched(DispatchView("AD_1", v.AGENT_NAME, v.wall_ms(stored_s) * NS_PER_MS))),)
    joined = (0.032, v.connected(joined_at_ms=v.wall_ms(entered_s)))
    record = play(lambda _: (joined, *CAME), answered, order=order, write_us=30_000).record
    assert record.marks_ns["fired"] == 30 * NS_PER_MS
    placed_ms = (record.evidence["intended_server_ns"] - v.wall_ms(0) * NS_PER_MS) / NS_PER_MS
    assert abs(placed_ms) <= record.evidence["server_clock_uncertainty_ms"]
    assert contradictions(record) == []


def test_a_join_that_was_stamped_after_it_was_seen_is_a_contradiction_and_not_hidden() -> None:
    late = (*JOINED, (0.5, v.participant(v.agent(joined_at_ms=v.wall_ms(0.9)))))
    record = play(lambda _: late).record
    assert record.marks_ns["agent_joined"] == record.marks_ns["agent_seen"]
    (line,) = contradictions(record) or []
    assert "it was seen at 520.00 ms" in line


# Ways to end before the agent.


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("error", "outcome", "cause"),
    [
        (HttpError(429, "slow down", "2"), Finding.RATE_LIMITED, "HTTP 429: slow down"),
        (HttpError(500, "internal"), Finding.DISPATCH_FAILED, "HTTP 500: internal"),
        (HttpError(401), Finding.DISPATCH_FAILED, "HTTP 401"),
        (ConnectionCut("connection reset"), Finding.DISPATCH_FAILED, "connection reset"),
    ],
)
def test_a_dispatch_that_fails(order: str, error: WireError, outcome: Finding, cause: str) -> None:
    played = play(script(), ((0.25, v.dispatch_failed(error)),), order=order)
    assert played.found == (outcome, cause)
    assert played.decided_s == (0.25 if order == "dispatch-first" else 0.28)


@pytest.mark.parametrize("order", ORDERS)
def test_a_dispatch_that_is_never_answered(order: str) -> None:
    played = play(script(), (), order=order)
    assert played.found == (Finding.DISPATCH_FAILED, "no answer within 120 s")
    assert played.decided_s == 120.0


@pytest.mark.parametrize(
    ("error", "outcome", "cause"),
    [
        (UpgradeRefused(401, "invalid token"), Finding.CONNECT_FAILED, "HTTP 401: invalid token"),
        (UpgradeRefused(429), Finding.RATE_LIMITED, "HTTP 429"),
        (ConnectionCut("closed by the server"), Finding.CONNECT_FAILED, "closed by the server"),
    ],
)
def test_a_join_that_fails(error: WireError, outcome: Finding, cause: str) -> None:
    played = play(lambda _: ((0.1, lambda to: to.join_failed(error)),))
    assert played.found == (outcome, cause)
    assert played.decided_s == 0.12


def test_a_join_that_is_never_answered() -> None:
    played = play(lambda _: ())
    assert played.found == (Finding.CONNECT_FAILED, "no answer within 120 s")
    assert played.decided_s == 120.0


def test_media_that_never_comes_up() -> None:
    played = play(lambda _: (JOINED[0], *CAME))
    assert played.found == (Finding.MEDIA_FAILED, "the peer connection was not up within 120 s")


def test_media_that_fails() -> None:
    played = play(lambda _: (JOINED[0], (7.0, lambda to: to.media_failed("failed"))))
    assert played.found == (Finding.MEDIA_FAILED, "peer connection: failed")
    assert played.decided_s == 7.02


@pytest.mark.parametrize(
    ("finding", "cause"),
    [
        (Finding.USER_DROPPED, "duplicate_identity"),
        (Finding.CONNECTION_LOST, "connection reset"),
        (Finding.ROOM_CLOSED, "room_deleted"),
    ],
)
@pytest.mark.parametrize("at_s", [0.05, 3.0])
def test_a_user_that_is_put_out(finding: Finding, cause: str, at_s: float) -> None:
    played = play(script((at_s, lambda to: to.dropped(finding, cause))))
    assert played.found == (finding, cause)
    assert played.decided_s == pytest.approx(at_s + 0.02)


def test_a_failure_in_build_ends_at_t0_and_writes_nothing() -> None:
    played = play(fault=ConnectionCut("connection refused"))
    assert played.found == (Finding.CONNECT_FAILED, "before T0: connection refused")
    assert played.decided_s == 0.0
    assert played.engine is not None
    assert played.engine.calls == ["build"]
    assert played.record.marks_ns == {}


# The agent.


def test_no_agent() -> None:
    played = play(script())
    assert played.found == (Finding.NEVER_ASSIGNED, "no agent came; the API was not asked yet")
    assert played.decided_s == 120.0


def test_a_bystander_is_no_agent() -> None:
    def other(clock: VirtualClock) -> Sequence[Step]:
        view = v.agent("PA_9", "other-9", name="back-office", agent_state="speaking")
        steps: Sequence[Step] = (
            (0.5, v.participant(view)), (0.6, v.subscribed("PA_9")), (0.7, v.packet("PA_9")),
            (0.8, v.audible(clock, "PA_9")), (0.9, v.text("other-9")),
        )  # fmt: skip
        return (*JOINED, *steps)

    played = play(other)
    assert played.record.outcome is Finding.NEVER_ASSIGNED
    assert played.record.findings[Finding.BYSTANDER_AGENT] == "other-9"
    assert set(played.record.marks_ns) == {"fired", "dispatched", "connected", "media_up"}


def test_another_user_is_no_agent() -> None:
    assert Finding.BYSTANDER_AGENT not in play(script((0.5, v.participant(v.user())))).record.findings


@pytest.mark.parametrize(
    ("reason", "outcome", "cause"),
    [
        ("signal_close", Finding.AGENT_LEFT, "it left before the welcome: signal_close"),
        ("client_initiated", Finding.AGENT_ENDED, "it left on purpose before the welcome: client_initiated"),
    ],
)
def test_an_agent_that_leaves_gets_as_long_as_a_welcome_may_take(
    reason: str, outcome: Finding, cause: str
) -> None:
    played = play(script(*CAME, (1.0, v.participant(v.gone(reason)))), welcome_timeout="8")
    assert played.found == (outcome, cause)
    assert played.decided_s == pytest.approx(9.02)


def test_each_leaving_gets_the_whole_grace() -> None:
    played = play(
        script(
            (0.5, v.participant(v.agent())),
            (1.0, v.participant(v.gone())),
            (9.0, v.participant(v.agent("PA_2"))),
            (10.0, v.participant(v.gone(sid="PA_2"))),
        )
    )
    assert played.decided_s == pytest.approx(20.02)
    assert played.record.findings.keys() == {"agent_rejoined", "agent_left"}


def test_an_agent_that_comes_back_in_time_is_waited_for() -> None:
    def back(clock: VirtualClock) -> Sequence[Step]:
        return (
            *JOINED, *CAME, (1.0, v.participant(v.gone())), (5.0, v.participant(v.agent("PA_2"))),
            (20.0, v.audible(clock, "PA_2")),
        )  # fmt: skip

    played = play(back)
    assert played.marks_ms["welcomed"] == 20_020
    assert list(played.record.findings) == ["agent_rejoined", "welcome_late"]
    assert played.record.cause == (
        "agent-1 entered at 0.50 s (PA_1, gone at 1.02 s: signal_close) and came back at 5.02 s (PA_2)"
    )


ON = v.participant(v.agent())
READY = v.participant(v.agent(agent_state="listening"))
SPEAKING = v.participant(v.agent(agent_state="speaking"))


@pytest.mark.parametrize(
    ("steps", "far"),
    [
        ([(0.5, v.participant(v.agent(state="joining")))], "it never became active; missing: audio"),
        ([(0.5, ON)], "it was connected, but never ready; missing: audio"),
        ([(0.5, READY)], "it was ready, but published no track; missing: audio"),
        ([(0.5, READY), (0.6, v.subscribed())], "its track was there, but it never spoke; missing: audio"),
        (
            [(0.5, SPEAKING), (0.6, v.subscribed())],
            "it said that it was speaking, but no audio packet arrived; missing: audio",
        ),
        ([(0.5, SPEAKING), (0.7, v.packet())], "its audio arrived, but silent; missing: audio"),
    ],
)
def test_how_far_a_silent_agent_came(steps: list[Step], far: str) -> None:
    played = play(script(*steps))
    assert played.found == (Finding.WELCOME_MISSING, far)
    assert played.decided_s == 120.0


def test_packets_of_others_are_not_the_agents() -> None:
    steps: list[Step] = [
        (0.5, ON),
        (0.6, v.participant(v.agent("PA_9", "x", name="other"))),
        (0.7, v.packet("PA_9")),
    ]
    assert play(script(*steps)).record.cause.startswith("it was connected, but never ready")


@pytest.mark.parametrize(("at_s", "outcome"), [(10.4, Finding.OK), (10.6, Finding.WELCOME_LATE)])
def test_a_welcome_is_late_after_the_agent_joined(at_s: float, outcome: Finding) -> None:
    played = play(lambda clock: (*JOINED, *CAME, *spoke(clock, at_s)))
    assert played.record.outcome is outcome
    assert played.decided_s == pytest.approx(at_s + 0.02)
    assert played.record.cause == ("" if outcome is Finding.OK else "10.1 s after the agent joined")


ITEMS_AT_MS = {"track": 720, "state": 770, "audio": 820, "text": 1120}


@pytest.mark.parametrize("number", range(1, 16))
def test_welcomed_is_the_latest_of_what_is_listed(number: int) -> None:
    items = [item for bit, item in enumerate(ITEMS_AT_MS) if number & 1 << bit]
    played = play(welcome=",".join(items))
    assert played.record.outcome is Finding.OK
    latest = max(ITEMS_AT_MS[item] for item in items)
    assert played.marks_ms["welcomed"] == latest
    assert played.decided_s == latest / 1000


@pytest.mark.parametrize(
    ("after_join", "watch_s", "rested_ms"),
    [
        (good, 0, 820),
        (good, 3, 820),
        (script((0.4, v.text()), (0.5, ON)), 0, 120_000),
    ],
    ids=["welcomed", "watched", "no_sound"],
)
def test_the_engine_may_rest_when_the_welcome_is_complete_or_waited_for_no_more(
    after_join: Steps, watch_s: int, rested_ms: int
) -> None:
    played = play(after_join, watch=str(watch_s))
    assert played.engine is not None
    # Idempotent, and said by whoever sees it first.
    assert played.engine.rested_ms[:1] == [rested_ms]


@pytest.mark.parametrize("lacking", ITEMS_AT_MS)
def test_a_welcome_that_lacks_one_item_is_missing(lacking: str) -> None:
    def all_but_one(clock: VirtualClock) -> Sequence[Step]:
        steps: dict[str, Step] = {
            "state": (0.75, SPEAKING), "track": (0.7, v.subscribed()), "audio": (0.8, v.audible(clock)),
            "text": (1.1, v.text()),
        }  # fmt: skip
        return (*JOINED, (0.5, ON), *(step for item, step in steps.items() if item != lacking))

    played = play(all_but_one, welcome="state,track,audio,text")
    assert played.record.outcome is Finding.WELCOME_MISSING
    assert played.record.cause.endswith(f"; missing: {lacking}")
    assert Mark.WELCOMED not in played.record.marks_ns


def test_text_before_the_update_that_tells_who_sent_it() -> None:
    played = play(script((0.4, v.text()), (0.5, ON)), welcome="text")
    assert played.found == (Finding.OK, "")
    assert (played.marks_ms["first_text"], played.marks_ms["welcomed"]) == (420, 420)
    assert played.decided_s == 0.52


def test_text_that_names_no_sender_is_the_agents() -> None:
    assert play(script((0.4, v.text("")), (0.5, ON)), welcome="text").record.outcome is Finding.OK


@pytest.mark.parametrize("step", [v.text("somebody"), v.text(topic="lk.other")])
def test_other_text_is_no_welcome(step: Callable[[EngineListener], None]) -> None:
    played = play(script((0.5, ON), (0.6, step)), welcome="text")
    assert played.record.outcome is Finding.WELCOME_MISSING


def test_an_avatar_speaks_for_the_agent() -> None:
    def avatar(clock: VirtualClock) -> Sequence[Step]:
        face = v.agent("PA_7", "face", attributes={"lk.publish_on_behalf": "agent-1"})
        return (
            *JOINED, (0.5, ON), (0.6, v.participant(face)), (0.7, v.subscribed("PA_7")),
            (0.8, v.audible(clock, "PA_7")),
        )  # fmt: skip

    played = play(avatar)
    assert played.record.findings == {"ok": ""}
    assert (played.marks_ms["agent_track"], played.marks_ms["welcomed"]) == (720, 820)


def test_a_welcome_before_the_dispatch_was_answered_is_a_welcome() -> None:
    played = play(good, ((5.0, v.dispatched()),), order="join-first")
    assert played.found == (Finding.OK, "")
    assert Mark.DISPATCHED not in played.record.marks_ns


# Watching on.


def test_watch_sees_a_second_agent() -> None:
    second = v.participant(v.agent("PA_2", "agent-2"))
    assert play(lambda clock: (*good(clock), (2.0, second))).decided_s == 0.82
    played = play(lambda clock: (*good(clock), (2.0, second)), watch="5")
    assert played.found == (
        Finding.DUPLICATE_AGENT,
        "agent-1 entered at 0.50 s (PA_1) and agent-2 entered at 2.02 s (PA_2), both there at once",
    )
    assert played.decided_s == 5.82
    assert played.record.welcomed


def test_watch_sees_a_rejoin() -> None:
    def rejoin(clock: VirtualClock) -> Sequence[Step]:
        return (*good(clock), (2.0, v.participant(v.gone())), (2.5, v.participant(v.agent("PA_2"))))

    played = play(rejoin, watch="5")
    assert played.found == (
        Finding.AGENT_REJOINED,
        "agent-1 entered at 0.50 s (PA_1, gone at 2.02 s: signal_close) and came back at 2.52 s (PA_2)",
    )
    assert not played.record.lost


def test_an_agent_that_goes_after_its_welcome_has_done_its_work() -> None:
    played = play(lambda clock: (*good(clock), (2.0, v.participant(v.gone()))), watch="5")
    assert played.found == (Finding.OK, "")
    assert played.decided_s == 5.82


def test_the_deadline_ends_a_watch() -> None:
    assert play(watch="200").decided_s == 120.0


def test_what_comes_after_the_decision_is_kept_but_does_not_change_it() -> None:
    late = play(script((121.0, v.participant(v.agent()))))
    assert late.decided[0].outcome is late.record.outcome is Finding.NEVER_ASSIGNED
    assert late.marks_ms["agent_seen"] == 121_020
    left = play(script(*CAME, (121.0, v.participant(v.gone()))))
    assert left.decided[0].outcome is left.record.outcome is Finding.WELCOME_MISSING
    assert left.decided[0].cause == left.record.cause


# Cancelling.


@pytest.mark.parametrize("at_s", [-1.0, 0.01, 0.3, 0.79])
def test_a_cancelled_session(at_s: float) -> None:
    played = play(cancel_at_s=at_s)
    assert played.found == (Finding.CANCELLED, "the operator stopped the run")
    assert played.decided_s == pytest.approx(max(0.0, at_s))


def test_a_session_cancelled_before_t0_writes_nothing() -> None:
    played = play(cancel_at_s=-1.0)
    assert played.engine is not None
    assert played.engine.calls == ["build"]
    assert played.record.marks_ns == {}


def test_cancelling_a_decided_session_changes_nothing() -> None:
    assert play(cancel_at_s=3.0).found == (Finding.OK, "")
