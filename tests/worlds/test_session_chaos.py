"""Whatever an engine tells, in whatever order, a session ends as exactly one record."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

import virtual as v
from test_session import ORDERS, backed, play

from lk_users.clock import NS_PER_S
from lk_users.errors import HttpError
from lk_users.outcome import OUTCOMES, Finding
from lk_users.record import Mark, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtual import Step, VirtualClock

    from lk_users.engines.port import EngineListener


def chaos(rng: random.Random, clock: VirtualClock) -> list[Step]:
    """The join's answer, and after it anything that an engine can tell of a room, at any time."""
    names = ("", v.AGENT_NAME, "back-office")
    views = [
        v.agent(
            f"PA_{n}", f"agent-{n % 2}", state, agent_state, name=rng.choice(names), disconnect_reason="x"
        )
        for n in range(3)
        for state in ("joining", "active", "disconnected")
        for agent_state in ("", "initializing", "speaking")
    ]
    sids = ("PA_0", "PA_1", "PA_2", "PA_none")
    pool = [
        *(v.participant(view) for view in views),
        *(v.subscribed(sid) for sid in sids),
        *(v.packet(sid) for sid in sids),
        *(v.audible(clock, sid) for sid in sids),
        *(v.text(sender) for sender in ("agent-0", "agent-1", "", "nobody")),
        v.participant(v.user()),
    ]
    ends: list[Callable[[EngineListener], None]] = [
        lambda to: to.dropped(Finding.CONNECTION_LOST, "closed by the server"),
        lambda to: to.media_failed("failed"),
    ]
    rng.shuffle(pool)
    chosen = pool[: rng.randrange(len(pool))] + rng.sample(ends, rng.choice((0, 0, 0, 1, 2)))
    chosen += [v.media_up] * (rng.random() < 0.8)
    later = [(0.04 + rng.expovariate(0.2), happen) for happen in chosen]
    return [(0.03, v.connected()), *later]


def test_whatever_comes_in_whatever_order_there_is_one_record() -> None:
    outcomes = set()
    for seed in range(300):
        rng = random.Random(seed)
        refused = v.dispatch_failed(HttpError(rng.choice((429, 503))))
        answers: list[Step] = [(rng.expovariate(1), rng.choice((v.dispatched(), v.dispatched(), refused)))]
        played = play(
            partial(chaos, rng),
            answers[: rng.randrange(5)],
            cancel_at_s=rng.choice((None, None, rng.uniform(-2, 20))),
            linger_s=0.5,
            order=rng.choice(ORDERS),
            watch=rng.choice(("0", "4")),
            welcome=rng.choice(("audio", "text", "state,audio", "track")),
            session_timeout="30",
        )
        assert len(played.decided) == 1, f"seed {seed}"
        record = played.record
        outcomes.add(record.outcome)
        assert record.outcome in OUTCOMES, f"seed {seed}"
        assert record.decided_ns <= 30 * NS_PER_S, f"seed {seed}"
        assert record.welcomed or record.outcome is not Finding.OK, f"seed {seed}"
        assert Record.from_json(record.to_json()) == record, f"seed {seed}"
    # The seeds reach far into the tree.
    assert len(outcomes) >= 12


def test_whatever_comes_of_a_backend_in_whatever_order_there_is_one_record() -> None:
    outcomes = set()
    for seed in range(200):
        rng = random.Random(seed)
        refused = v.session_failed(HttpError(rng.choice((429, 503))))
        answers: list[Step] = [
            (rng.expovariate(1), rng.choice((v.session_created(), v.session_created("own"), refused)))
        ]
        played = backed(
            answers[: rng.randrange(5)],
            partial(chaos, rng),
            cancel_at_s=rng.choice((None, None, rng.uniform(-2, 20))),
            linger_s=0.5,
            agent_name=rng.choice(("", v.AGENT_NAME)),
            session_timeout="30",
        )
        assert len(played.decided) == 1, f"seed {seed}"
        record = played.record
        outcomes.add(record.outcome)
        assert record.decided_ns <= 30 * NS_PER_S, f"seed {seed}"
        assert record.welcomed or record.outcome is not Finding.OK, f"seed {seed}"
        assert Mark.SESSION_CREATED not in record.marks_ns or record.room in ("lobby", "own"), f"seed {seed}"
        assert Record.from_json(record.to_json()) == record, f"seed {seed}"
    assert {Finding.SESSION_FAILED, Finding.RATE_LIMITED, Finding.OK, Finding.CANCELLED} <= outcomes
