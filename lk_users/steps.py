"""The transaction as tables: step × event → step. Everything about what may follow what is in this file.

A session is strands that run side by side: the opening by the user's own backend (where there is one), the
dispatch, the user and the agent. Each is a table of its own, and every event belongs to one strand, so no
order between strands is assumed: an agent may be seen before the request for it was answered. This file
knows neither time nor network. An event that its strand's step does not list is a bug of ours: it raises and
changes nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lk_users.errors import IllegalEvent

if TYPE_CHECKING:
    from collections.abc import Mapping


class Event(enum.StrEnum):
    """What can happen to a session."""

    SESSION_WRITTEN = "session_written"
    SESSION_CREATED = "session_created"
    SESSION_REFUSED = "session_refused"

    DISPATCH_WRITTEN = "dispatch_written"
    DISPATCH_ANSWERED = "dispatch_answered"
    DISPATCH_REFUSED = "dispatch_refused"

    JOIN_WRITTEN = "join_written"
    JOIN_REFUSED = "join_refused"
    CONNECTED = "connected"
    MEDIA_UP = "media_up"
    DROPPED = "dropped"

    AGENT_SEEN = "agent_seen"
    AGENT_GONE = "agent_gone"
    HEARD = "heard"
    WELCOMED = "welcomed"


class Opening(enum.StrEnum):
    """The request to the user's own backend, which answers with server and token."""

    UNASKED = "unasked"
    ASKED = "asked"
    CREATED = "created"
    FAILED = "failed"


class Dispatch(enum.StrEnum):
    """The request for the agent."""

    UNSENT = "unsent"
    ASKED = "asked"
    STORED = "stored"
    FAILED = "failed"


class User(enum.StrEnum):
    """The user's own way into the room."""

    OUTSIDE = "outside"
    JOINING = "joining"
    IN_ROOM = "in_room"
    LISTENING = "listening"
    GONE = "gone"


class Agent(enum.StrEnum):
    """The agent that was asked for, as the user perceives it."""

    ABSENT = "absent"
    PRESENT = "present"
    HEARD = "heard"
    WELCOMED = "welcomed"
    LEFT = "left"


OPENING: Mapping[Opening, Mapping[Event, Opening]] = {
    Opening.UNASKED: {Event.SESSION_WRITTEN: Opening.ASKED, Event.SESSION_REFUSED: Opening.FAILED},
    Opening.ASKED: {Event.SESSION_CREATED: Opening.CREATED, Event.SESSION_REFUSED: Opening.FAILED},
    Opening.CREATED: {},
    Opening.FAILED: {},
}

DISPATCH: Mapping[Dispatch, Mapping[Event, Dispatch]] = {
    Dispatch.UNSENT: {Event.DISPATCH_WRITTEN: Dispatch.ASKED, Event.DISPATCH_REFUSED: Dispatch.FAILED},
    Dispatch.ASKED: {Event.DISPATCH_ANSWERED: Dispatch.STORED, Event.DISPATCH_REFUSED: Dispatch.FAILED},
    Dispatch.STORED: {},
    Dispatch.FAILED: {},
}

USER: Mapping[User, Mapping[Event, User]] = {
    User.OUTSIDE: {Event.JOIN_WRITTEN: User.JOINING, Event.JOIN_REFUSED: User.GONE},
    User.JOINING: {Event.CONNECTED: User.IN_ROOM, Event.JOIN_REFUSED: User.GONE},
    User.IN_ROOM: {Event.MEDIA_UP: User.LISTENING, Event.DROPPED: User.GONE},
    User.LISTENING: {Event.DROPPED: User.GONE},
    User.GONE: {},
}

AGENT: Mapping[Agent, Mapping[Event, Agent]] = {
    Agent.ABSENT: {Event.AGENT_SEEN: Agent.PRESENT},
    Agent.PRESENT: {
        Event.HEARD: Agent.HEARD,
        Event.WELCOMED: Agent.WELCOMED,
        Event.AGENT_GONE: Agent.LEFT,
    },
    Agent.HEARD: {Event.HEARD: Agent.HEARD, Event.WELCOMED: Agent.WELCOMED, Event.AGENT_GONE: Agent.LEFT},
    # A welcome is not taken back; what is heard later is more of it.
    Agent.WELCOMED: {Event.HEARD: Agent.WELCOMED, Event.AGENT_GONE: Agent.LEFT},
    Agent.LEFT: {Event.AGENT_SEEN: Agent.PRESENT},
}


@dataclass(frozen=True)
class Transaction:
    """Where one session stands."""

    dispatch: Dispatch = Dispatch.UNSENT
    user: User = User.OUTSIDE
    agent: Agent = Agent.ABSENT
    opening: Opening = Opening.UNASKED

    def advance(self, event: Event) -> Transaction:
        """The transaction after ``event``. Raises IllegalEvent where its strand does not allow it."""
        if event in OPENING[self.opening]:
            return replace(self, opening=OPENING[self.opening][event])
        if event in DISPATCH[self.dispatch]:
            return replace(self, dispatch=DISPATCH[self.dispatch][event])
        if event in USER[self.user]:
            return replace(self, user=USER[self.user][event])
        if event in AGENT[self.agent]:
            return replace(self, agent=AGENT[self.agent][event])
        raise IllegalEvent(f"{event} at {self.opening}, {self.dispatch}, {self.user}, {self.agent}")

    def allows(self, event: Event) -> bool:
        """Would ``advance`` take it?"""
        rows = (OPENING[self.opening], DISPATCH[self.dispatch], USER[self.user], AGENT[self.agent])
        return any(event in row for row in rows)
