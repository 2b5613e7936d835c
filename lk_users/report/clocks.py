"""Do the server's stamps and the user's own marks tell the same story? Pure.

The record keeps the server's clock at the intended start, as brackets of many sessions place it, and how
far off that can be. A stamp so placed has its order among the marks: a dispatch is stored after its request
was due and before it was answered, an agent has joined before its user saw it. Where that does not hold by
more than the uncertainty, the clocks of server nodes differ, or something is wrong with this program.
``fired`` is no bound: it is set when the write has returned, and the server may have read it long before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lk_users.clock import NS_PER_MS
from lk_users.outcome import Finding
from lk_users.record import Mark

if TYPE_CHECKING:
    from lk_users.record import Record


def contradictions(record: Record) -> list[str] | None:
    """One line each with the figures, empty if all agrees; None where the record has nothing to compare."""
    zero_ns = record.evidence.get("intended_server_ns", 0)
    uncertainty_ms = record.evidence.get("server_clock_uncertainty_ms")
    if not zero_ns or uncertainty_ms is None:
        return None
    slack_ns = round(uncertainty_ms * NS_PER_MS)
    marks = record.marks_ns
    created_ns = record.created_at_ns - zero_ns if record.created_at_ns else None
    joined_ns = record.joined_at_ns - zero_ns if record.joined_at_ns else None
    # Who asks within the join, or after it, is answered by other marks than who asks first.
    asked_first = record.dispatch in ("api", "room") and record.order == "dispatch-first"
    asked_ns = 0 if asked_first or record.dispatch == "token" else marks.get(Mark.CONNECTED)
    answered_ns = marks.get(Mark.CONNECTED if record.dispatch == "token" else Mark.DISPATCHED)
    if record.dispatch == "room" and answered_ns is not None:
        # A room whose node is gone before its user came is made anew as it comes, and its dispatch with it.
        answered_ns = max(answered_ns, marks.get(Mark.CONNECTED, 0))
    pairs = [
        ("the request was due", asked_ns, "its dispatch was stored", created_ns, slack_ns),
        ("its dispatch was stored", created_ns, "that was answered", answered_ns, slack_ns),
        ("the request was due", asked_ns, "the agent joined", joined_ns, slack_ns + NS_PER_MS),
        ("the agent joined", joined_ns, "it was seen", marks.get(Mark.AGENT_SEEN), slack_ns),
    ]
    if record.dispatch in ("none", "backend"):
        # The room's own dispatch is as old as the room, and a backend's may be older than the request.
        pairs = pairs[3:]
    found = [
        f"{earlier} at {_ms(first)}, {later} at {_ms(second)} ({_ms(uncertainty)} uncertain)"
        for earlier, first, later, second, uncertainty in pairs
        if first is not None and second is not None and first > second + uncertainty
    ]
    return found + _on_the_server_s_own_clock(record)


def _on_the_server_s_own_clock(record: Record) -> list[str]:
    """Stored, offered, joined: in that order by any clock. Of a job that was offered again the first offer
    is not known here."""
    created_ns, started_ns, joined_ns = record.created_at_ns, record.started_at_ns, record.joined_at_ns
    found = []
    if created_ns and started_ns and started_ns < created_ns:
        found.append(f"the job was offered {_ms(created_ns - started_ns)} before its dispatch was stored")
    again = Finding.JOB_RETRIED in record.findings or Finding.DOUBLE_DISPATCH in record.findings
    # The join is cut to whole milliseconds.
    if started_ns and joined_ns and joined_ns + NS_PER_MS < started_ns and not again:
        found.append(f"the agent joined {_ms(started_ns - joined_ns)} before its job was offered")
    return found


def _ms(length_ns: int) -> str:
    return f"{length_ns / NS_PER_MS:.2f} ms"
