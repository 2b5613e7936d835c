"""Colours, dashes and names of what the charts show; shared by canvas, tables and legends."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from lk_users.outcome import Fault
from lk_users.record import Mark, Phase
from lk_users.report import words

if TYPE_CHECKING:
    from collections.abc import Mapping

# Okabe and Ito, "Color Universal Design" (2008): told apart by people of every colour vision. The yellow is
# darker than theirs, to be seen on white, and the first is Tol's wine, since they have only seven.
PHASE_COLORS: Final[Mapping[str, str]] = MappingProxyType(
    {
        Phase.SESSION_API: "#882255",
        Phase.DISPATCH_API: "#e69f00",
        Phase.USER_JOIN: "#56b4e9",
        Phase.MEDIA_SETUP: "#cc79a7",
        Phase.SERVER_QUEUE: "#0072b2",
        Phase.ACCEPT_TO_JOIN: "#d55e00",
        Phase.AGENT_START: "#009e73",
        Phase.SPEAK: "#d9c300",
    }
)
WAITING: Final = "#9aa0a6"
SERIES: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#d9c300")
# Lines differ by these too, for print and for who sees no colours.
DASHES: Final = ("solid", "dashed", "dotted", "dotdash", "dashdot")
GOOD: Final = "#009e73"
BAD: Final = "#d55e00"
FAULT_COLORS: Final[Mapping[Fault, str]] = MappingProxyType(
    {Fault.NONE: GOOD, Fault.THEIRS: BAD, Fault.OPEN: "#e69f00", Fault.OURS: WAITING}
)
FAULT_MARKERS: Final[Mapping[Fault, str]] = MappingProxyType(
    {Fault.THEIRS: "x", Fault.OPEN: "triangle", Fault.OURS: "square"}
)
MARK_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        Mark.SESSION_CREATED: "session created",
        Mark.DISPATCHED: "dispatch answered",
        Mark.CONNECTED: "user in the room",
        Mark.AGENT_JOINED: "agent in the room",
        Mark.FIRST_AUDIO: "agent heard",
        Mark.WELCOMED: "welcomed",
    }
)


def phase_place(phase: str) -> str:
    """Where a phase spends its time, in words."""
    return words.PHASES[phase][0]


def dash(number: int) -> str:
    """Of the ``number``-th line of a chart."""
    return DASHES[number % len(DASHES)]


def color(number: int) -> str:
    return SERIES[number % len(SERIES)]
