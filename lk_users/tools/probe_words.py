"""What ``lk-users probe`` prints: the timeline, the welcome that it proposes, and what to mind."""

from __future__ import annotations

import shlex
import textwrap
from typing import TYPE_CHECKING, Final

from lk_users.agent_name import ANY_AGENT
from lk_users.evidence import AGENT_NAME_ATTRIBUTES
from lk_users.outcome import Finding
from lk_users.report.words import OUTCOMES
from lk_users.tools.hints import hints
from lk_users.tools.proposal import propose
from lk_users.tools.timeline import LINE_CHARS, points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lk_users.settings.run import Settings
    from lk_users.tools.probe import Probed
    from lk_users.tools.proposal import Proposal


def told(probed: Probed, settings: Settings, wait_s: float, given: Sequence[tuple[str, str]]) -> list[str]:
    """All of it, as lines. ``given``: options of the run that were given, and their values."""
    names = {"": "The unnamed agent", ANY_AGENT: "Any agent"}
    name = names.get(settings.agent_name, f'Agent "{settings.agent_name}"')
    head = f"{name}, one session in room {probed.room}, dispatch by {settings.dispatch}, {settings.order}:"
    lines = [head, "", *probed.timeline, ""]
    if not probed.came:
        return [*lines, *_none_came(probed, settings, wait_s)]
    proposal = propose(probed.seen, probed.speech, probed.watched_s)
    options = " ".join(f"--{option} {shlex.quote(value)}" for option, value in proposal.options())
    lines += [f"Proposal: {options}", *points(proposal.reasons)]
    remarks = [*proposal.warnings, *_remarks(probed, settings)]
    if remarks:
        lines += ["", "Mind:", *points(remarks)]
    return [*lines, "", "A burst of 50 with it:", "", f"  {command(proposal, given)}"]


def command(proposal: Proposal, given: Sequence[tuple[str, str]]) -> str:
    """A run as it would be typed."""
    words = ["locust -f locustfiles/burst.py --headless -u 50 -r 50"]
    words += [f"--{name} {shlex.quote(value)}" for name, value in (*given, *proposal.options())]
    return " ".join(words)


def _none_came(probed: Probed, settings: Settings, wait_s: float) -> list[str]:
    outcome, cause = next(iter(probed.findings.items()))
    why = OUTCOMES.get(outcome, "why is not known")
    lines = textwrap.wrap(
        f"No agent came within {wait_s:g} s: {why} ({outcome}: {cause}).", LINE_CHARS, break_on_hyphens=False
    )
    if probed.seen.sightings:
        names = ", ".join(
            next((s.attributes[key] for key in AGENT_NAME_ATTRIBUTES if s.attributes.get(key)), s.identity)
            for s in probed.seen.sightings
        )
        lines.append(f"An agent of another name was there: {names}.")
    return [*lines, "Check:", *points(hints(probed.findings, settings, wait_s))]


_REMARKS: Final = {
    Finding.GHOST_DISPATCH: "The room also asked for the unnamed agent, which no worker serves: in a burst "
    "by --dispatch api that holds the server up (about 1 s for 2 of its 50 slots each). --dispatch room or "
    "token avoids it.",
    Finding.BYSTANDER_AGENT: "Another agent was in the room, too: {cause}.",
    Finding.DUPLICATE_AGENT: "Two of the agent were there at once: {cause}.",
    Finding.DOUBLE_DISPATCH: "The room was asked for the agent twice: {cause}.",
    Finding.JOB_RETRIED: "The job was given away twice: {cause}.",
    Finding.AGENT_REJOINED: "The agent went and came back: {cause}.",
    Finding.WELCOME_CLIPPED: "The beginning of its welcome is lost to the user: {cause}.",
    Finding.WELCOME_TWICE: "The welcome came twice: {cause}.",
    Finding.USER_DROPPED: "The server sent the user away: {cause}.",
    Finding.CONNECTION_LOST: "The user's connection was cut: {cause}.",
    Finding.ROOM_CLOSED: "The room was closed under the user: {cause}.",
}


def _remarks(probed: Probed, settings: Settings) -> list[str]:
    found = []
    for finding, cause in probed.findings.items():
        if finding is Finding.GHOST_DISPATCH and settings.dispatch != "api":
            continue
        if finding in _REMARKS:
            found.append(_REMARKS[finding].format(cause=cause))
    return found
