"""What Locust's statistics and web UI show: phases as they happen, one ``session`` event each.

These are for watching. Locust keeps two digits of a figure; the verdict comes from the records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lk_users.clock import NS_PER_MS
from lk_users.errors import SessionFailed
from lk_users.outcome import Finding
from lk_users.record import Mark, Phase

if TYPE_CHECKING:
    from lk_users.record import Record

# Phases that end with a mark which the user itself sets; the others need the server's clock.
LIVE_PHASES: Final = {
    Mark.SESSION_CREATED: (Phase.SESSION_API, Mark.FIRED),
    Mark.DISPATCHED: (Phase.DISPATCH_API, Mark.FIRED),
    Mark.MEDIA_UP: (Phase.MEDIA_SETUP, Mark.CONNECTED),
    Mark.FIRST_AUDIO: (Phase.SPEAK, Mark.AGENT_TRACK),
}
LIVE_MARKS = (Mark.CONNECTED, Mark.AGENT_SEEN, Mark.WELCOMED)
LATE_PHASES = (Phase.SERVER_QUEUE, Phase.ACCEPT_TO_JOIN, Phase.AGENT_START)


class LocustStats:
    """Fires Locust's request events. ``request``: ``environment.events.request``."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def marked(self, mark: Mark, at_ns: int, marks_ns: dict[str, int]) -> None:
        """A mark was set, ``at_ns`` from the intended start; ``marks_ns``: all of the session so far."""
        if mark in LIVE_MARKS:
            self._fire("mark", mark, at_ns)
        if mark in LIVE_PHASES:
            phase, start = LIVE_PHASES[mark]
            if start in marks_ns:
                self._fire("phase", phase, at_ns - marks_ns[start])

    def recorded(self, record: Record) -> None:
        """A session's final record."""
        phases = record.phases_ns
        for phase in LATE_PHASES:
            if phase in phases:
                self._fire("phase", phase, phases[phase])
        outcome = record.outcome
        failure = None if outcome is Finding.OK else SessionFailed(str(outcome))
        self._fire("session", "session", record.marks_ns.get(Mark.WELCOMED, record.decided_ns), failure)

    def _fire(self, kind: str, name: str, duration_ns: int, failure: Exception | None = None) -> None:
        self._request.fire(
            request_type=kind,
            name=str(name),
            response_time=max(0, duration_ns) / NS_PER_MS,
            response_length=0,
            exception=failure,
            context={},
        )
