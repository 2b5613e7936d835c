from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from lk_users.errors import IllegalEvent
from lk_users.steps import (
    AGENT,
    DISPATCH,
    OPENING,
    USER,
    Agent,
    Dispatch,
    Event,
    Opening,
    Transaction,
    User,
)

if TYPE_CHECKING:
    import enum
    from collections.abc import Mapping

# Written apart from the tables, so that an edit of a table has to be meant.
LEGAL = {
    "unasked --session_written-> asked",
    "unasked --session_refused-> failed",
    "asked --session_created-> created",
    "asked --session_refused-> failed",
    "unsent --dispatch_written-> asked",
    "unsent --dispatch_refused-> failed",
    "asked --dispatch_answered-> stored",
    "asked --dispatch_refused-> failed",
    "outside --join_written-> joining",
    "outside --join_refused-> gone",
    "joining --connected-> in_room",
    "joining --join_refused-> gone",
    "in_room --media_up-> listening",
    "in_room --dropped-> gone",
    "listening --dropped-> gone",
    "absent --agent_seen-> present",
    "present --heard-> heard",
    "present --welcomed-> welcomed",
    "present --agent_gone-> left",
    "heard --heard-> heard",
    "heard --welcomed-> welcomed",
    "heard --agent_gone-> left",
    "welcomed --heard-> welcomed",
    "welcomed --agent_gone-> left",
    "left --agent_seen-> present",
}
STRANDS: list[tuple[Mapping[Any, Mapping[Event, Any]], type[enum.Enum], str]] = [
    (OPENING, Opening, "opening"),
    (DISPATCH, Dispatch, "dispatch"),
    (USER, User, "user"),
    (AGENT, Agent, "agent"),
]


def test_the_tables_are_what_is_written_here() -> None:
    drawn = {
        f"{step} --{event}-> {after}"
        for table, _, _ in STRANDS
        for step, row in table.items()
        for event, after in row.items()
    }
    assert drawn == LEGAL


@pytest.mark.parametrize(("table", "steps", "strand"), STRANDS)
def test_every_step_has_a_row(
    table: Mapping[Any, Mapping[Event, Any]], steps: type[enum.Enum], strand: str
) -> None:
    assert list(table) == list(steps)


def test_every_event_belongs_to_exactly_one_strand() -> None:
    for event in Event:
        assert sum(any(event in row for row in table.values()) for table, _, _ in STRANDS) == 1


@pytest.mark.parametrize("event", list(Event))
def test_every_event_at_every_state(event: Event) -> None:
    for opening, dispatch, user, agent in itertools.product(Opening, Dispatch, User, Agent):
        before = Transaction(dispatch, user, agent, opening)
        rows = {
            "opening": OPENING[opening],
            "dispatch": DISPATCH[dispatch],
            "user": USER[user],
            "agent": AGENT[agent],
        }
        moved = {name: row[event] for name, row in rows.items() if event in row}
        if not moved:
            assert not before.allows(event)
            with pytest.raises(IllegalEvent, match=event.value):
                before.advance(event)
        else:
            assert before.allows(event)
            after = before.advance(event)
            expected = {"opening": opening, "dispatch": dispatch, "user": user, "agent": agent, **moved}
            assert (after.opening, after.dispatch, after.user, after.agent) == tuple(expected.values())
        assert (before.opening, before.dispatch, before.user, before.agent) == (
            opening, dispatch, user, agent,
        )  # fmt: skip


def test_a_good_session() -> None:
    transaction = Transaction()
    for event in (
        Event.DISPATCH_WRITTEN,
        Event.DISPATCH_ANSWERED,
        Event.JOIN_WRITTEN,
        Event.CONNECTED,
        Event.AGENT_SEEN,
        Event.MEDIA_UP,
        Event.HEARD,
        Event.WELCOMED,
    ):
        transaction = transaction.advance(event)
    assert transaction == Transaction(Dispatch.STORED, User.LISTENING, Agent.WELCOMED)


def test_a_good_session_from_the_user_s_own_backend() -> None:
    transaction = Transaction()
    for event in (
        Event.SESSION_WRITTEN,
        Event.SESSION_CREATED,
        Event.JOIN_WRITTEN,
        Event.CONNECTED,
        Event.MEDIA_UP,
        Event.AGENT_SEEN,
        Event.WELCOMED,
    ):
        transaction = transaction.advance(event)
    assert transaction == Transaction(Dispatch.UNSENT, User.LISTENING, Agent.WELCOMED, Opening.CREATED)
