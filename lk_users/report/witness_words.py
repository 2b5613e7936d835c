"""The witness in words, and as a table."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from lk_users.plan import WITNESS
from lk_users.record import Mark
from lk_users.report.witness import OTHER
from lk_users.report.words import duration, plural

if TYPE_CHECKING:
    from collections.abc import Mapping

UNLIKE_SHOWN: Final = 8
HEAD: Final = ("from the planned start to", "listen", "p50", "p90", "sdk", "p50", "p90", "difference of p50")
_TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        Mark.CONNECTED: "user in the room",
        Mark.MEDIA_UP: "its media connection up",
        Mark.AGENT_JOINED: "agent in the room, by the server's clock",
        Mark.AGENT_TRACK: "agent's microphone",
        Mark.FIRST_AUDIO: "agent heard",
        Mark.FIRST_TEXT: "agent read",
        Mark.WELCOMED: "welcomed",
    }
)


def lines(witness: Mapping[str, Any] | None) -> list[str]:
    """Plain sentences; none of a run without witnesses."""
    if witness is None:
        return []
    count, others = witness["sessions"], sum(witness["outcomes"][OTHER].values())
    text = f"{plural(count, 'session')} beside {others} of engine listen ran on the official livekit SDK: "
    return [
        text + _outcomes(witness) + ".",
        *_unlike(witness),
        *_hearing(witness),
        *_late(witness),
        *_joined_first(witness),
    ]


def rows(witness: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Under ``HEAD``."""
    compared = {_TITLES[mark]: values for mark, values in witness["marks"].items()}
    compared["(from the agent's join) agent heard, by a user who was there before"] = witness["join_to_audio"]
    compared["(from the agent's word that it speaks) agent heard"] = witness["hearing"]
    return [
        (
            title,
            *(cell for side in (OTHER, WITNESS) for cell in _cells(values[side])),
            _signed(values["difference_p50_ms"]),
        )
        for title, values in compared.items()
        if values[OTHER]["n"] or values[WITNESS]["n"]
    ]


def unlike_in_short(witness: Mapping[str, Any]) -> str:
    """For where there is no room to name sessions: one sentence; empty where the sides are alike."""
    unlike = witness["unlike"]
    if not unlike:
        return ""
    said = sum(bool(one["why"]) for one in unlike)
    unsaid = f"; {len(unlike) - said} by nothing that is known" if said < len(unlike) else ""
    return (
        f" The difference is {plural(len(unlike), 'session')}: {said} by an agent that never came or by the "
        f"bound of a rule{unsaid}."
    )


def _outcomes(witness: Mapping[str, Any]) -> str:
    ours, theirs = witness["outcomes"][OTHER], witness["outcomes"][WITNESS]
    if not ours:
        return "there was nothing to compare them with"
    if not witness["unlike"]:
        return f"the same outcomes on both sides ({', '.join(ours)})"
    told = [
        f"{side} {', '.join(f'{count} {name}' for name, count in outcomes.items())}"
        for side, outcomes in ((OTHER, ours), (WITNESS, theirs))
    ]
    return f"the outcomes differ ({'; '.join(told)})"


def _unlike(witness: Mapping[str, Any]) -> list[str]:
    """A line for each session that makes the difference, the unexplained first."""
    lines = [
        f"What makes the difference: {one['engine']} {one['session_id']}, {one['outcome']}: "
        + (one["why"] or "nothing is known that explains it")
        for one in sorted(witness["unlike"], key=lambda one: bool(one["why"]))
    ]
    more = len(lines) - UNLIKE_SHOWN
    return [*lines[:UNLIKE_SHOWN], *([f"And {plural(more, 'session')} more."] if more > 0 else [])]


def _hearing(witness: Mapping[str, Any]) -> list[str]:
    difference = witness["hearing"]["difference_p50_ms"]
    if difference is None:
        return []
    later = "later" if difference >= 0 else "earlier"
    line = (
        f"Once its agent said that it speaks, a user on the SDK heard it {duration(abs(difference))} {later} "
        "than one on listen (p50)."
    )
    delay, buffer = witness["receive_delay_ms"], witness["jitter_buffer_ms"]
    if delay["n"]:
        left = _signed(round(difference - delay["p50"], 3))
        line += (
            f" Once the SDK's own receive delay is taken off, {duration(delay['p50'])} from a packet's "
            f"arrival to its sound (p50 of {delay['n']}): {left}."
        )
    elif buffer["n"]:
        line += (
            " The SDK's whole receive delay could not be measured; its jitter buffer alone held each sample "
            f"for {duration(buffer['p50'])} (p50)."
        )
    return [line]


def _late(witness: Mapping[str, Any]) -> list[str]:
    late = witness["late_users"]
    if not late[WITNESS]:
        return []
    return [
        f"{plural(late[WITNESS], 'user')} on the SDK and {late[OTHER]} on listen came into the room after "
        "their agent. One that waits for its listener speaks later to them: compare those who were there "
        "before it."
    ]


def _joined_first(witness: Mapping[str, Any]) -> list[str]:
    if witness["order"] != "join-first":
        return []
    return [
        "Users joined first here, and their agents were asked for with the join or after it: the SDK's "
        "longer way into the room is part of all that follows."
    ]


def _cells(spread: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(spread["n"]), duration(spread["p50"]), duration(spread["p90"])


def _signed(ms: float | None) -> str:
    return "-" if ms is None else f"{'+' if ms >= 0 else '-'}{duration(abs(ms))}"
