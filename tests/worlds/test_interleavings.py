"""Any order in which things can happen to a session ends in exactly one outcome, and the right one is known
for the orders that leave no choice."""

from __future__ import annotations

import itertools
import math
import random
from functools import partial
from typing import TYPE_CHECKING

import pytest
import virtual as v
from test_session import ANSWERED, play

from lk_users.clock import NS_PER_S
from lk_users.errors import HttpError
from lk_users.outcome import OUTCOMES, Finding
from lk_users.record import Mark, Record
from lk_users.wire.text_stream import CHAT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from test_session import Played
    from virtual import Step, VirtualClock

    from lk_users.engines.port import EngineListener

    Happening = Callable[[EngineListener], None]

DEADLINE_S = 30.0
# Of these the user may see more after the decision, and they come before what was lost.
SEEN_LATER = (Finding.DUPLICATE_AGENT, Finding.AGENT_REJOINED)
SEEDS = range(800)
ON = v.participant(v.agent())
SPEAKING = v.participant(v.agent(agent_state="speaking"))


def room(clock: VirtualClock) -> dict[str, Happening]:
    """What can happen once in a room with the agent, its second self, and others."""
    return {
        "media_up": v.media_up,
        "agent": ON,
        "listening": v.participant(v.agent(agent_state="listening")),
        "speaking": SPEAKING,
        "subscribed": v.subscribed(),
        "packet": v.packet(),
        "early packet": v.packet(ago_s=0.3),
        "audible": v.audible(clock),
        "audible after silence": v.audible(clock, ms_before=60.0),
        "interim": v.text(words="Wel"),
        "final": v.text(words="Welcome", final=True),
        "final again": v.text(words="Welcome", final=True, segment="stream SG_2"),
        "chat": v.text(topic=CHAT, words="Welcome", final=True, segment="stream 9"),
        "data": v.data(),
        "gone": v.participant(v.gone()),
        "back": v.participant(v.agent("PA_2")),
        "back, audible": v.audible(clock, "PA_2"),
        "second agent": v.participant(v.agent("PA_3", "agent-3", agent_state="speaking")),
        "second agent, subscribed": v.subscribed("PA_3"),
        "second agent, audible": v.audible(clock, "PA_3"),
        "bystander": v.participant(v.agent("PA_9", "other", name="back-office", agent_state="speaking")),
        "bystander, audible": v.audible(clock, "PA_9"),
        "avatar, audible": v.audible(clock, "PA_7"),
        "dropped": lambda to: to.dropped(Finding.CONNECTION_LOST, "closed by the server"),
        "media failed": lambda to: to.media_failed("failed"),
    }


def shuffled(rng: random.Random, clock: VirtualClock) -> Sequence[Step]:
    """Some of it in any order, now and then at the same instant; the join's answer comes first."""
    happenings = list(room(clock).values())
    rng.shuffle(happenings)
    chosen = happenings[: rng.randint(4, len(happenings))]
    moments = sorted(0.04 + rng.choice((0.0, 0.2, 1.0, 5.0)) * rng.randint(0, 8) for _ in chosen)
    return [(0.03, v.connected()), *zip(moments, chosen, strict=True)]


def played(seed: int) -> Played:
    rng = random.Random(seed)
    answer = rng.choice((v.dispatched(), v.dispatched(), v.dispatched(), v.dispatch_failed(HttpError(503))))
    return play(
        partial(shuffled, rng),
        [(rng.expovariate(1), answer)],
        cancel_at_s=rng.choice((None, None, None, rng.uniform(-2, 20))),
        linger_s=45.0,
        order=rng.choice(("dispatch-first", "join-first")),
        watch=rng.choice(("0", "3")),
        welcome=rng.choice(("audio", "text", "state,audio", "audio,text", "track")),
        expect_text=rng.choice(("", "", "come", "nobody says this")),
        session_timeout=str(DEADLINE_S),
    )


def check(session: Played) -> Finding:
    """What holds of every session, whatever happened to it."""
    # Decided once, by its deadline, as one outcome that is in the list.
    assert len(session.decided) == 1
    provisional, record = session.decided[0], session.record
    assert 0 <= record.decided_ns <= DEADLINE_S * NS_PER_S
    assert next(finding for finding in OUTCOMES if finding in record.findings) is record.outcome
    # Findings in the order that decides, ok alone among the outcomes, each other one with its cause.
    assert list(record.findings) == [finding for finding in Finding if finding in record.findings]
    assert record.outcome is not Finding.OK or not set(record.findings) & (set(OUTCOMES) - {Finding.OK})
    assert all(cause for finding, cause in record.findings.items() if finding != Finding.OK)
    # Ok means welcomed; missing means not.
    assert record.welcomed or record.outcome is not Finding.OK
    assert not record.welcomed or Finding.WELCOME_MISSING not in record.findings
    # What comes after the decision may show more of the agents, but never takes back what was lost.
    assert provisional.welcomed is record.welcomed
    assert not provisional.lost or record.lost or record.outcome in SEEN_LATER
    # The record is the same each time it is made, and survives its line.
    assert session.record == record
    assert Record.from_json(record.to_json()) == record
    return record.outcome


def test_any_interleaving_ends_in_exactly_one_outcome() -> None:
    outcomes = set()
    for seed in SEEDS:
        try:
            outcomes.add(check(played(seed)))
        except BaseException:
            print(f"seed {seed}")
            raise
    # The seeds reach far into the tree, the welcome's own rules among it.
    assert {
        Finding.OK,
        Finding.WELCOME_MISSING,
        Finding.WELCOME_CLIPPED,
        Finding.WELCOME_LATE,
        Finding.WELCOME_TWICE,
        Finding.AGENT_REJOINED,
        Finding.DUPLICATE_AGENT,
        Finding.CONNECTION_LOST,
        Finding.CANCELLED,
    } <= outcomes


HEALTHY = ("media_up", "agent", "listening", "speaking", "subscribed", "packet", "audible")


def test_every_order_of_a_healthy_welcome_that_can_be_heard_is_heard() -> None:
    """Audio is told after the agent it is of, as engines do; no other order is assumed (every third of them
    is played). At a pace at which nothing was lost none is clipped or twice."""
    orders = [
        order
        for order in itertools.permutations(HEALTHY)
        if order.index("agent") < min(map(order.index, ("subscribed", "packet", "audible")))
    ]
    assert len(orders) == math.factorial(7) / 4
    for order in orders[::3]:

        def steps(clock: VirtualClock, order: tuple[str, ...] = order) -> Sequence[Step]:
            happenings = room(clock)
            return [
                (0.03, v.connected()),
                *((0.5 + 0.02 * number, happenings[name]) for number, name in enumerate(order)),
            ]

        record = play(steps, ANSWERED, session_timeout="5", linger_s=0.1).record
        assert record.findings == {"ok": ""}, order
        assert Mark.FIRST_AUDIO in record.marks_ns


@pytest.mark.parametrize("gap_s", [0.15, 0.25])
def test_an_order_alone_makes_no_clip_its_gap_does(gap_s: float) -> None:
    def steps(clock: VirtualClock) -> Sequence[Step]:
        return [
            (0.03, v.connected()), (0.04, v.media_up), (0.5, ON), (0.6, SPEAKING),
            (0.6 + gap_s, v.subscribed()), (0.6 + gap_s, v.packet()), (0.6 + gap_s, v.audible(clock)),
        ]  # fmt: skip

    clipped = play(steps).record.outcome is Finding.WELCOME_CLIPPED
    assert clipped is (gap_s >= 0.2)
