from __future__ import annotations

import asyncio
import gc
import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
import virtual as v
from builders import RUN_ID, burst_round, settings

from lk_users import burst as burst_module
from lk_users.burst import BUILD_CONCURRENCY, Burst, FreeUsers, Meters, Stage, Worker
from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.course import Role
from lk_users.ending import GONE_AFTER
from lk_users.errors import ConnectionCut, HttpError
from lk_users.evidence import DispatchView, JobView
from lk_users.health import Lag, LagMeter
from lk_users.outcome import Finding
from lk_users.plan import Share
from lk_users.wire.api import CONCURRENCY

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from virtual import Step, VirtualClock

    from lk_users.engines.port import EngineListener
    from lk_users.evidence import ParticipantView
    from lk_users.plan import PlannedSession
    from lk_users.record import Mark, Record
    from lk_users.session import Session
    from lk_users.wire.api import Api
    from lk_users.wire.recording import Recording

USERS = 100
# When the last of them has heard its ``welcome``.
LAST_MS = 620 + 50 * (USERS - 1)
JOB = JobView("AJ_1", "AW_1", "running", started_at_ns=7)


@pytest.fixture(autouse=True)
def no_spin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Virtual time stands while it is looked at. And whatever a test does, collection is on afterwards."""
    monkeypatch.setattr(burst_module, "SPIN_NS", 0)
    yield
    gc.enable()


class NotedPrecedence:
    """When, and between how many writes, it was taken and given back. Idempotent as the real one."""

    def __init__(self, one: Bench) -> None:
        self._one = one
        self._taken = False
        self.noted: list[tuple[str, float, int]] = []

    def take(self) -> None:
        self._note("taken", before=False)

    def give_back(self) -> None:
        self._note("given back", before=True)

    def _note(self, what: str, *, before: bool) -> None:
        if self._taken is before:
            self._taken = not before
            fired = sum(engine.calls.count("dispatch") for engine in self._one.engines)
            self.noted.append((what, (self._one.clock.monotonic_ns() - v.T0_NS) / NS_PER_MS, fired))


class FakeApi:
    """Lists one dispatch a room, with a job from ``jobs_after_s`` on; ``fault`` is raised instead."""

    def __init__(
        self,
        clock: VirtualClock,
        jobs_after_s: float = 0.0,
        fault: Exception | None = None,
        answers_in_s: float = 0.001,
        well_every: int = 0,
    ) -> None:
        """``well_every``: one in so many has its answer in spite of ``fault``."""
        self._answers_in_s = answers_in_s
        self._well_every = well_every
        self.answers = 0
        self._clock = clock
        self._jobs_from_ns = v.T0_NS + round(jobs_after_s * NS_PER_S)
        self._fault = fault
        self.asked: Counter[str] = Counter()
        self.deleted: list[str] = []
        self.at_once = self.most_at_once = 0

    async def dispatches(self, room: str) -> tuple[DispatchView, ...]:
        self.asked[room] += 1
        await self._answer()
        jobs = (JOB,) if self._clock.monotonic_ns() >= self._jobs_from_ns else ()
        return (DispatchView("AD_1", v.AGENT_NAME, 5, jobs),)

    async def participants(self, room: str) -> tuple[ParticipantView, ...]:
        await self._answer()
        return (v.agent(),)

    async def delete_room(self, room: str) -> None:
        await self._answer()
        self.deleted.append(room)

    async def _answer(self) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self._answers_in_s)
        self.at_once -= 1
        self.answers += 1
        if self._fault is not None and not (self._well_every and self.answers % self._well_every == 0):
            raise self._fault


@dataclass
class Bench:
    """A burst over fake engines, and all that it reports."""

    clock: VirtualClock
    options: dict[str, str]
    users: int = USERS
    role: Role = Role.BURST
    script: Callable[[PlannedSession, VirtualClock], Sequence[Step]] = lambda *_: ()
    faults: dict[int, Exception] = field(default_factory=dict)
    engines: list[v.FakeEngine] = field(default_factory=list)
    provisional: list[Record] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    marks: Counter[str] = field(default_factory=Counter)
    ended: list[int] = field(default_factory=list)
    """When ``all_decided`` was called."""
    meters: Meters = field(default_factory=lambda: Meters(LagMeter(), LagMeter()))

    def __post_init__(self) -> None:
        self.settings = settings(max(1, self.users), **self.options)
        of = replace(burst_round(max(1, self.users), **self.options), role=self.role)
        share = Share(RUN_ID, 1, 0, self.users, of)
        self.stage = Stage(
            RUN_ID, self.settings, Worker("w1", "eu"), self.clock, self.meters, self, self.make_engine
        )
        self.burst = Burst(share, self.stage)

    def make_engine(self, item: PlannedSession, listener: EngineListener) -> v.FakeEngine:
        engine = v.FakeEngine(
            self.clock, listener, [(0.02, v.dispatched(DispatchView("AD_1", v.AGENT_NAME)))],
            self.script(item, self.clock), self.faults.get(item.ordinal),  # type: ignore[arg-type]
        )  # fmt: skip
        self.engines.append(engine)
        return engine

    def marked(self, session: Session, mark: Mark, at_ns: int) -> None:
        self.marks[mark] += 1

    def decided(self, session: Session, record: Record) -> None:
        self.provisional.append(record)

    def recorded(self, record: Record, recording: Recording | None) -> None:
        self.records.append(record)

    def all_decided(self) -> None:
        self.ended.append(self.clock.monotonic_ns())

    async def start(self) -> None:
        await self.burst.build()
        self.burst.announce(v.T0_NS, v.WALL_START_NS + 2 * NS_PER_S)

    async def until(self, after_t0_s: float) -> None:
        await asyncio.sleep((v.T0_NS - self.clock.monotonic_ns()) / NS_PER_S + after_t0_s)

    async def whole(self, api: Any = None) -> None:
        await self.start()
        await self.until(self.settings.session_timeout_s + 10)
        await self.burst.collect(api)

    @property
    def outcomes(self) -> Counter[Finding]:
        return Counter(record.outcome for record in self.records)


def welcome(item: PlannedSession, clock: VirtualClock) -> Sequence[Step]:
    """Agents come one after another, 50 ms apart."""
    came_s = 0.5 + 0.05 * item.ordinal
    return (
        (0.03, v.connected()), (0.08, v.media_up), (came_s, v.participant(v.agent())),
        (came_s + 0.1, v.audible(clock)),
    )  # fmt: skip


def no_agent(item: PlannedSession, clock: VirtualClock) -> Sequence[Step]:
    return ((0.03, v.connected()), (0.08, v.media_up))


def bench(work: Callable[[Bench], Coroutine[Any, Any, object]], **changes: Any) -> Bench:
    """Run ``work`` on a bench in virtual time; the bench afterwards. ``options``: names of settings."""
    values = {"script": welcome, "options": {}, **changes}

    async def run(clock: VirtualClock) -> Bench:
        made = Bench(clock, **values)
        await work(made)
        return made

    return v.in_virtual_time(run)


def with_api(**of_api: Any) -> tuple[list[FakeApi], Callable[[Bench], Coroutine[Any, Any, None]]]:
    """A whole burst with an API to ask: the API, once there is one, and the work."""
    made: list[FakeApi] = []

    async def work(one: Bench) -> None:
        made.append(FakeApi(one.clock, **of_api))
        await one.whole(made[0])

    return made, work


# The start.


@pytest.mark.parametrize(
    ("said_at_s", "by_ms", "fired_ms"),
    # The last word counts until 300 ms before T0; an earlier T0 may be past already, and shows so.
    [(-1.0, 40, 40), (-0.31, -40, -40), (-0.29, 40, 0), (0.5, 3000, 0)],
)
def test_t0_can_be_put_right_until_shortly_before(said_at_s: float, by_ms: int, fired_ms: int) -> None:
    async def work(one: Bench) -> None:
        await one.start()
        await one.until(said_at_s)
        one.burst.announce(v.T0_NS + by_ms * NS_PER_MS, v.WALL_START_NS + 2 * NS_PER_S)
        await one.until(one.settings.session_timeout_s + 10)
        await one.burst.collect(None)

    one = bench(work)
    assert one.outcomes == {Finding.OK: USERS}
    assert [engine.calls.count("dispatch") for engine in one.engines] == [1] * USERS
    assert [session.intended_ns - v.T0_NS for session in one.burst.sessions] == [fired_ms * NS_PER_MS] * USERS
    assert [record.marks_ns["fired"] for record in one.records] == [0] * USERS


class SetInMidBurst:
    """The virtual clock, its wall clock three seconds ahead from T0 on."""

    def __init__(self, clock: VirtualClock) -> None:
        self.monotonic_ns = clock.monotonic_ns
        self._clock = clock

    def wall_ns(self) -> int:
        return self._clock.wall_ns() + (3 * NS_PER_S if self.monotonic_ns() > v.T0_NS else 0)


def test_the_trailer_says_by_how_much_the_wall_clock_was_set() -> None:
    async def work(one: Bench) -> None:
        stage = replace(one.stage, clock=SetInMidBurst(one.clock))
        one.burst = Burst(Share(RUN_ID, 1, 0, USERS, burst_round(USERS)), stage)
        await one.whole()

    assert bench(work).burst.trailer(0).wall_step_ms == 3000


def test_all_600_are_released_at_t0() -> None:
    one = bench(Bench.whole, users=600)
    assert [record.marks_ns["fired"] for record in one.records] == [0] * 600
    assert {record.intended_wall_ns for record in one.records} == {v.WALL_START_NS + 2 * NS_PER_S}
    assert one.outcomes == {Finding.OK: 600}
    assert [record.marks_ns["welcomed"] // NS_PER_MS for record in one.records] == [
        620 + 50 * ordinal for ordinal in range(600)
    ]


def test_batches_start_at_their_offsets() -> None:
    one = bench(Bench.whole, users=600, options={"batch_size": "200", "batch_delay": "1.5"}, script=no_agent)
    starts = Counter(record.intended_wall_ns - v.WALL_START_NS for record in one.records)
    assert starts == {2 * NS_PER_S: 200, 3_500_000_000: 200, 5 * NS_PER_S: 200}
    assert {record.marks_ns["fired"] for record in one.records} == {0}
    # The timeout counts from each one's own start.
    assert {record.decided_ns for record in one.records} == {120 * NS_PER_S}
    assert one.ended == [v.T0_NS + 123 * NS_PER_S]


def test_the_last_stretch_to_t0_is_spun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burst_module, "SPIN_NS", 3 * NS_PER_MS)
    woke: list[int] = []

    class Creeping:
        """Each look at it takes a microsecond."""

        def __init__(self, clock: VirtualClock) -> None:
            self._clock = clock

        def monotonic_ns(self) -> int:
            woke.append(self._clock.monotonic_ns())
            self._clock.now_us += 1
            return self._clock.monotonic_ns()

        def wall_ns(self) -> int:
            return self._clock.wall_ns()

    async def work(one: Bench) -> None:
        one.burst._clock = Creeping(one.clock)
        await one.start()
        woke.clear()
        await one.until(1)

    one = bench(work, users=3)
    assert v.T0_NS - woke[0] == 3 * NS_PER_MS
    assert [session.marks_ns["fired"] for session in one.burst.sessions] == [0, 0, 0]


def noted_precedence(work: Callable[[Bench], Coroutine[Any, Any, None]], **changes: Any) -> Any:
    made: list[NotedPrecedence] = []

    async def noting(one: Bench) -> None:
        made.append(NotedPrecedence(one))
        one.burst._precedence = made[0]  # type: ignore[assignment]
        await work(one)

    bench(noting, **changes)
    return made[0].noted


def test_precedence_is_there_before_it_is_needed_and_gone_after_the_last_write() -> None:
    assert noted_precedence(Bench.whole) == [("taken", -20, 0), ("given back", 0, USERS)]


def test_precedence_for_each_batch() -> None:
    noted = noted_precedence(Bench.whole, users=4, options={"batch_size": "2", "batch_delay": "1"})
    assert noted == [("taken", -20, 0), ("given back", 0, 2), ("taken", 980, 2), ("given back", 1000, 4)]


def test_batches_that_follow_closely_take_it_again() -> None:
    noted = noted_precedence(Bench.whole, users=4, options={"batch_size": "2", "batch_delay": "0.01"})
    assert noted == [("taken", -20, 0), ("given back", 0, 2), ("taken", 10, 2), ("given back", 10, 4)]


def test_a_burst_that_is_called_off_gives_precedence_back() -> None:
    async def work(one: Bench) -> None:
        await one.start()
        await one.until(-0.01)
        one.burst.cancel("stopped")
        await one.until(5)

    assert noted_precedence(work) == [("taken", -20, 0), ("given back", -10, 0)]


def test_failures_in_build_end_at_t0_and_the_others_go_on() -> None:
    faults = {ordinal: ConnectionCut("connection refused") for ordinal in range(0, USERS, 50)}
    one = bench(Bench.whole, faults=faults)
    assert one.outcomes == {Finding.OK: USERS - 2, Finding.CONNECT_FAILED: 2}
    failed = [record for record in one.records if record.outcome is Finding.CONNECT_FAILED]
    assert {record.cause for record in failed} == {"before T0: connection refused"}
    assert {record.decided_ns for record in failed} == {0}
    assert one.marks["fired"] == USERS - 2


def test_building_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = [0, 0]

    async def slow(self: v.FakeEngine) -> None:
        at_once[0] += 1
        at_once[1] = max(at_once)
        await asyncio.sleep(0.01)
        at_once[0] -= 1

    monkeypatch.setattr(v.FakeEngine, "build", slow)
    bench(lambda one: one.burst.build(), users=100)
    assert at_once == [0, BUILD_CONCURRENCY]


def test_a_share_of_nobody_is_decided_at_once() -> None:
    one = bench(Bench.whole, users=0)
    assert len(one.ended) == 1
    assert one.ended[0] < v.T0_NS
    assert one.records == []


# Records.


def test_exactly_one_record_each_provisional_and_final() -> None:
    one = bench(Bench.whole)
    for records in (one.provisional, one.records):
        assert sorted(record.ordinal for record in records) == list(range(USERS))
    assert len(one.ended) == 1
    assert one.ended[0] == v.T0_NS + LAST_MS * NS_PER_MS


def test_the_final_records_know_what_the_api_says() -> None:
    made, work = with_api()
    one = bench(work)
    api = made[0]
    assert {(record.job_id, record.worker_id) for record in one.records} == {("AJ_1", "AW_1")}
    assert {(record.job_id, record.dispatch_id) for record in one.provisional} == {("", "AD_1")}
    assert set(api.asked.values()) == {1}
    assert api.most_at_once == CONCURRENCY
    assert sorted(api.deleted) == sorted(record.room for record in one.records)
    assert all(engine.calls[-1] == "close" for engine in one.engines)


class Retrying(FakeApi):
    """From ``moves_s`` after T0 on, another worker has the job."""

    moves_s = 40.0

    async def dispatches(self, room: str) -> tuple[DispatchView, ...]:
        (found,) = await super().dispatches(room)
        moved = self._clock.monotonic_ns() >= v.T0_NS + round(self.moves_s * NS_PER_S)
        jobs = (JobView("AJ_1", "AW_2", "running", started_at_ns=9),) if moved else found.jobs
        return (DispatchView("AD_1", v.AGENT_NAME, 5, jobs),)


def test_a_look_during_the_watch_knows_the_first_worker_of_a_job_that_moves_on() -> None:
    looked: list[float] = []

    async def work(one: Bench) -> None:
        api: Any = Retrying(one.clock)
        await one.start()
        await one.until(5)
        one.burst.look(api)
        one.burst.look(api)
        await one.until(62)
        looked.append(sum(api.asked.values()))
        await one.burst.collect(api)

    one = bench(work, users=40, options={"watch": "60"})
    assert looked == [40]
    assert one.outcomes == {Finding.JOB_RETRIED: 40}
    assert {record.worker_id for record in one.records} == {"AW_2"}
    offers = one.records[0].evidence["offers"]
    assert [(offer["worker_id"], offer["started_ms"]) for offer in offers] == [("AW_1", None), ("AW_2", None)]


def test_a_look_that_is_not_done_by_the_end_is_given_up() -> None:
    async def work(one: Bench) -> None:
        api: Any = FakeApi(one.clock)
        await one.start()
        await one.until(4)
        one.burst.look(api)
        await asyncio.sleep(0.0005)
        await one.burst.collect(api)

    one = bench(work, users=200, options={"watch": "1"})
    assert len(one.records) == 200
    assert {record.worker_id for record in one.records} == {"AW_1"}


def test_an_agent_that_came_twice_is_read_twice() -> None:
    def twice(item: PlannedSession, clock: VirtualClock) -> Sequence[Step]:
        again = (3.0, v.participant(v.agent("PA_2" if item.ordinal == 0 else "PA_1")))
        return (*welcome(item, clock)[:-1], again, (4.0, v.audible(clock)))

    async def work(one: Bench) -> None:
        made.append(FakeApi(one.clock))
        await one.whole(made[0])

    made: list[FakeApi] = []
    one = bench(work, users=3, script=twice)
    assert sorted(made[0].asked.values()) == [1, 1, 2]
    assert one.outcomes == {Finding.OK: 2, Finding.AGENT_REJOINED: 1}


def test_a_job_without_its_worker_is_read_again() -> None:
    class Half(FakeApi):
        async def dispatches(self, room: str) -> tuple[DispatchView, ...]:
            (found,) = await super().dispatches(room)
            jobs = found.jobs or (JobView("AJ_1", "", "pending"),)
            return (DispatchView("AD_1", v.AGENT_NAME, 5, jobs),)

    async def work(one: Bench) -> None:
        made.append(Half(one.clock, jobs_after_s=133))
        await one.whole(made[0])

    made: list[FakeApi] = []
    assert {record.worker_id for record in bench(work, users=2).records} == {"AW_1"}
    assert set(made[0].asked.values()) == {7}


def test_an_agent_that_only_the_api_sees() -> None:
    _, work = with_api()
    assert bench(work, script=no_agent, users=3).outcomes == {Finding.CLIENT_BLIND: 3}


@pytest.mark.parametrize(
    ("users", "times"),
    # The first reads are at 130 s. Then again every half a second, every 1.5 s, every two seconds.
    [(1, 7), (10, 7), (30, 3), (40, 3), (200, 3)],
)
def test_reads_are_repeated_while_jobs_are_empty(users: int, times: int) -> None:
    made, work = with_api(jobs_after_s=132.9)
    one = bench(work, users=users)
    assert set(made[0].asked.values()) == {times}
    assert {record.job_id for record in one.records} == {"AJ_1"}


def test_a_baseline_that_was_welcomed_holds_up_no_burst() -> None:
    made, work = with_api(jobs_after_s=1e6)
    assert bench(work, users=2, role=Role.BASELINE).outcomes == {Finding.OK: 2}
    assert set(made[0].asked.values()) == {1}
    # One that was not has something to explain.
    made, work = with_api(jobs_after_s=1e6)
    bench(work, users=2, role=Role.BASELINE, script=no_agent)
    assert set(made[0].asked.values()) == {17}


@pytest.mark.parametrize(("users", "times"), [(5, 17), (200, 5)])
def test_reads_are_given_up_when_jobs_stay_empty(users: int, times: int) -> None:
    """After eight seconds."""
    made, work = with_api(jobs_after_s=1e6)
    one = bench(work, users=users)
    assert set(made[0].asked.values()) == {times}
    assert {record.job_id for record in one.records} == {""}
    assert one.outcomes == {Finding.OK: users}


def test_an_api_that_answers_with_faults_is_asked_of_every_session() -> None:
    made, work = with_api(fault=HttpError(503))
    one = bench(work, script=no_agent)
    assert len(one.records) == USERS
    assert {record.cause for record in one.records} == {
        "no agent came, and the API could not be asked: HTTP 503"
    }
    assert made[0].asked == dict.fromkeys((record.room for record in one.records), 1)
    # What the answer to the dispatch said is not lost with it.
    assert {record.dispatch_id for record in one.records} == {"AD_1"}


def test_a_server_that_hangs_is_asked_no_more_than_it_takes_to_see_that() -> None:
    """Two timeouts of 10 s and no third, of 200 sessions and of their rooms."""
    made: list[FakeApi] = []
    took_s: list[float] = []
    steps: list[int] = []

    async def work(one: Bench) -> None:
        made.append(FakeApi(one.clock, fault=ConnectionCut("timed out"), answers_in_s=10.0))
        await one.start()
        await one.until(one.settings.session_timeout_s + 10)
        began_ns = one.clock.monotonic_ns()
        collecting = asyncio.ensure_future(one.burst.collect(made[0]))  # type: ignore[arg-type]
        while not collecting.done():
            await asyncio.sleep(1.0)
            steps.append(one.burst.ended)
        took_s.append((one.clock.monotonic_ns() - began_ns) / NS_PER_S)

    one = bench(work, script=no_agent)
    assert 20 < took_s[0] < 25
    # What was under way when it was seen is waited for.
    assert made[0].answers == 2 * CONCURRENCY
    unasked = "no agent came, and the API could not be asked: "
    causes = Counter(record.cause.removeprefix(unasked) for record in one.records)
    not_asked = "not asked, since the server no longer answered: timed out"
    assert causes == {"timed out": 2 * CONCURRENCY, not_asked: USERS - 2 * CONCURRENCY}
    # Whoever waits for the end hears of it all the while: read, left, deleted, recorded.
    assert steps[10] > steps[0]
    assert steps[-1] == 4 * USERS


def test_a_server_that_answers_now_and_then_is_asked_on() -> None:
    made, work = with_api(fault=ConnectionCut("timed out"), well_every=GONE_AFTER)
    one = bench(work, script=no_agent)
    assert set(made[0].asked.values()) == {1}
    assert "not asked" not in " ".join(record.cause for record in one.records)


class OneNodeGone(FakeApi):
    """Answers at once, but three seconds late, and with a fault, for rooms whose node is gone."""

    def __init__(self, clock: VirtualClock, gone: set[str]) -> None:
        super().__init__(clock)
        self._gone = gone
        self.late: Counter[str] = Counter()

    async def dispatches(self, room: str) -> tuple[DispatchView, ...]:
        await self._of_its_node(room, "read")
        return await super().dispatches(room)

    async def delete_room(self, room: str) -> None:
        await self._of_its_node(room, "deleted")
        await super().delete_room(room)

    async def _of_its_node(self, room: str, kind: str) -> None:
        if room in self._gone:
            self.late[kind] += 1
            await asyncio.sleep(3.0)
            raise HttpError(503, "twirp error unknown: no response from servers")


@pytest.mark.parametrize("came_in", [True, False], ids=["its users came in", "nobody came in"])
def test_a_node_that_is_gone_is_asked_no_more_than_it_takes_to_see_that(came_in: bool) -> None:
    """Of 200 rooms half are on it, or nowhere."""

    def half(item: PlannedSession, clock: VirtualClock) -> Sequence[Step]:
        if item.ordinal % 2:
            return welcome(item, clock)
        gone.add(item.room)
        return ((0.03, v.connected(node="GONE")), (0.08, v.media_up)) if came_in else ()

    async def work(one: Bench) -> None:
        made.append(OneNodeGone(one.clock, gone))
        await one.start()
        await one.until(one.settings.session_timeout_s + 10)
        began_ns = one.clock.monotonic_ns()
        await one.burst.collect(made[0])  # type: ignore[arg-type]
        took_s.append((one.clock.monotonic_ns() - began_ns) / NS_PER_S)

    gone: set[str] = set()
    made: list[OneNodeGone] = []
    took_s: list[float] = []
    one = bench(work, script=half)
    # Two timeouts and no third, and what was under way then.
    assert 6 < took_s[0] < 8
    assert made[0].late == {"read": 2 * CONCURRENCY}
    # All others are read and deleted, and a fault that they have in common costs nobody else.
    well = {record.room for record in one.records if record.outcome is Finding.OK}
    assert len(well) == len(gone) == USERS // 2
    assert made[0].asked == dict.fromkeys(well, 1)
    assert sorted(made[0].deleted) == sorted(well)
    causes = " ".join(record.cause for record in one.records)
    assert causes.count("not asked, since the room's node no longer answered: HTTP 503: twirp error") == (
        USERS // 2 - 2 * CONCURRENCY if came_in else 0
    )


def test_jobs_of_a_session_that_never_came_in_are_not_waited_for() -> None:
    made, work = with_api(jobs_after_s=1e6)
    one = bench(work, users=2, faults=dict.fromkeys(range(2), ConnectionCut("connection refused")))
    assert set(made[0].asked.values()) == {1}
    assert one.outcomes == {Finding.CONNECT_FAILED: 2}


# Cancelling.


def test_cancel_before_t0() -> None:
    async def work(one: Bench) -> None:
        await one.start()
        one.burst.cancel("stopped")
        await one.until(5)
        await one.burst.collect(None)

    one = bench(work)
    assert one.outcomes == {Finding.CANCELLED: USERS}
    assert one.marks == {}
    assert {tuple(engine.calls) for engine in one.engines} == {("build", "close")}
    assert len(one.ended) == 1
    assert gc.isenabled()


def test_cancel_before_there_is_a_t0() -> None:
    async def work(one: Bench) -> None:
        await one.burst.build()
        one.burst.cancel("stopped")
        one.burst.announce(v.T0_NS, 0)
        await one.until(5)
        await one.burst.collect(None)

    one = bench(work, users=10)
    assert one.outcomes == {Finding.CANCELLED: 10}
    assert {tuple(engine.calls) for engine in one.engines} == {("build", "close")}
    assert gc.isenabled()


def test_cancel_after_t0_leaves_what_is_decided() -> None:
    async def work(one: Bench) -> None:
        await one.start()
        await one.until(3.0)
        one.burst.cancel("stopped")
        one.burst.cancel("stopped again")
        assert gc.isenabled()
        await one.burst.collect(None)

    one = bench(work)
    heard = sum(LAST_MS - 50 * ordinal <= 3_000 for ordinal in range(USERS))
    assert one.outcomes == {Finding.OK: heard, Finding.CANCELLED: USERS - heard}
    assert {record.cause for record in one.records} == {"", "stopped"}
    assert len(one.provisional) == USERS
    assert one.ended == [v.T0_NS + 3 * NS_PER_S]


def test_cancel_between_batches_keeps_the_rest_from_starting() -> None:
    async def work(one: Bench) -> None:
        await one.start()
        await one.until(0.4)
        one.burst.cancel("stopped")
        await one.until(200)
        await one.burst.collect(None)

    one = bench(work, users=20, options={"batch_size": "10", "batch_delay": "1"})
    assert [len(engine.calls) for engine in one.engines] == [4] * 10 + [2] * 10


# Garbage collection.


def test_collection_is_off_from_the_first_build_to_the_last_decision() -> None:
    states: list[bool] = []

    async def work(one: Bench) -> None:
        states.append(gc.isenabled())
        await one.start()
        for after_t0_s in (-1.0, 0.1, (LAST_MS - 10) / 1000, (LAST_MS + 10) / 1000):
            await one.until(after_t0_s)
            states.append(gc.isenabled())
        await one.burst.collect(None)

    bench(work)
    assert states == [True, False, False, False, True]


def test_collection_is_on_again_after_a_cancel_that_came_before_the_build() -> None:
    async def work(one: Bench) -> None:
        one.burst.cancel("stopped")
        await one.burst.build()
        await one.burst.collect(None)

    assert bench(work, users=3).outcomes == {Finding.CANCELLED: 3}
    assert gc.isenabled()


def test_collection_that_was_off_stays_off() -> None:
    gc.disable()
    bench(Bench.whole, users=1)
    assert not gc.isenabled()


# Lag, and the worker's last word.


def test_lag_belongs_to_the_sessions_that_ran_through_it() -> None:
    async def work(one: Bench) -> None:
        await one.start()
        one.meters.gevent.add(v.T0_NS - 100 * NS_PER_MS, 900 * NS_PER_MS)
        one.meters.asyncio.add(v.T0_NS + 5 * NS_PER_S, 40 * NS_PER_MS)
        one.meters.gevent.add(v.T0_NS + 20 * NS_PER_S, 300 * NS_PER_MS)
        await one.until(130)
        await one.burst.collect(None)

    one = bench(work)
    for record in one.records:
        ran_s = record.decided_ns / NS_PER_S
        assert record.lag_ms == (300 if ran_s >= 19.7 else 40 if ran_s >= 4.96 else 0), record.ordinal
        assert (Finding.LAG_IN_WINDOW in record.findings) == (record.lag_ms == 300)


def test_the_trailer() -> None:
    async def work(one: Bench) -> None:
        one.meters.asyncio.add(v.T0_NS + NS_PER_S, 40 * NS_PER_MS)
        one.meters.asyncio.add(v.T0_NS + (LAST_MS - 100) * NS_PER_MS, 70 * NS_PER_MS)
        one.meters.asyncio.add(v.T0_NS + 60 * NS_PER_S, 900 * NS_PER_MS)
        await one.whole()

    one = bench(work)
    trailer = one.burst.trailer(80.04)
    assert (trailer.worker, trailer.region, trailer.burst) == ("w1", "eu", 1)
    assert (trailer.intended, trailer.recorded) == (USERS, USERS)
    assert (trailer.wall_step_ms, trailer.rss_mb) == (0.0, 80.0)
    assert trailer.lag == {"asyncio": Lag(70, 70, 70), "gevent": Lag()}
    assert trailer.start_lag == {"asyncio": Lag(40, 40, 40), "gevent": Lag()}
    assert 0 < trailer.cpu_s < 60


def test_cpu_is_told_up_to_the_last_welcome_and_up_to_the_last_decision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticking = itertools.count()
    monkeypatch.setattr("lk_users.burst.time.process_time", lambda: float(next(ticking)))
    one = bench(Bench.whole)
    trailer = one.burst.trailer(80.0)
    # It is read as the burst is made, at each welcome, and at the last decision.
    assert one.marks["welcomed"] == USERS
    assert (trailer.welcome_cpu_s, trailer.cpu_s) == (USERS, USERS + 1)


# Free users.


def free(
    work: Callable[[FreeUsers, Bench], Coroutine[Any, Any, object]], api_of: Any = None, **changes: Any
) -> Bench:
    async def both(one: Bench) -> None:
        api: Api | None = api_of(one.clock) if api_of is not None else None
        users = FreeUsers(one.stage, api)
        await work(users, one)

    options = {"release": "free", **changes.pop("options", {})}
    return bench(both, users=0, options=options, **changes)


def test_a_free_user_starts_at_once_and_cleans_up_for_itself() -> None:
    made: list[FakeApi] = []

    def api_of(clock: VirtualClock) -> FakeApi:
        made.append(FakeApi(clock))
        return made[0]

    async def work(users: FreeUsers, one: Bench) -> None:
        await asyncio.sleep(1)
        await users.run(3)

    one = free(work, api_of)
    (record,) = one.records
    assert (record.outcome, record.ordinal, record.burst, record.job_id) == (Finding.OK, 3, 0, "AJ_1")
    assert record.intended_wall_ns == v.WALL_START_NS + NS_PER_S
    assert record.marks_ns["fired"] == 0
    assert len(one.provisional) == 1
    assert made[0].deleted == [record.room]


def test_a_free_user_that_watches_looks_after_its_welcome() -> None:
    made: list[Retrying] = []

    def api_of(clock: VirtualClock) -> Retrying:
        made.append(Retrying(clock))
        made[0].moves_s = 4.0
        return made[0]

    async def work(users: FreeUsers, one: Bench) -> None:
        await one.until(0)
        await users.run(0)
        assert users._looking == {}
        assert users._views == {}

    one = free(work, api_of, options={"watch": "5"})
    assert one.outcomes == {Finding.JOB_RETRIED: 1}
    assert [offer["worker_id"] for offer in one.records[0].evidence["offers"]] == ["AW_1", "AW_2"]
    assert set(made[0].asked.values()) == {2}


def test_cancelling_free_users() -> None:
    async def work(users: FreeUsers, one: Bench) -> None:
        running = [asyncio.ensure_future(users.run(ordinal)) for ordinal in range(20)]
        await asyncio.sleep(1.0)
        users.cancel("stopped")
        await asyncio.gather(*running)

    one = free(work)
    assert one.outcomes == {Finding.OK: 8, Finding.CANCELLED: 12}
    assert len(one.provisional) == 20


def test_a_free_user_cancelled_while_it_builds_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(self: v.FakeEngine) -> None:
        await asyncio.sleep(1)

    monkeypatch.setattr(v.FakeEngine, "build", slow)

    async def work(users: FreeUsers, one: Bench) -> None:
        running = asyncio.ensure_future(users.run(0))
        await asyncio.sleep(0.5)
        users.cancel("stopped")
        await running

    one = free(work)
    assert one.outcomes == {Finding.CANCELLED: 1}
    assert one.engines[0].calls == ["close"]
