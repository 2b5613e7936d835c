"""The users' own side of the room: their microphones, the way of their media, how the server scored them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from lk_users.record import Mark
from lk_users.stats import spread_ms

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lk_users.record import Record


def users(records: Sequence[Record], mic: str) -> dict[str, Any]:
    """The section ``users`` of the summary. Counts are sessions; times in ms.

    ``mic``: what was asked for; ``published``: whose microphone the server took, ``unpublished``: whose media
    came up without one. ``ice``: by the type of our own candidate that media went by; ``rtt_ms``: each
    session's smallest round trip to the server's media port; ``worst_quality``: the server's lowest score of
    each user's connection.
    """
    facts = [record.evidence for record in records]
    ice = [fact["ice"] for fact in facts if isinstance(fact.get("ice"), dict)]
    return {
        "mic": mic,
        "published": sum(fact.get("mic") == "silence" for fact in facts),
        "unpublished": sum(
            Mark.MEDIA_UP in record.marks_ns and record.evidence.get("mic", "silence") != "silence"
            for record in records
        ),
        "ice": _tally(path.get("local") for path in ice),
        "rtt_ms": _spread(path.get("rtt_ms") for path in ice),
        "gather_ms": _spread(path.get("gather_ms") for path in ice),
        "worst_quality": _tally(fact.get("worst_quality") for fact in facts),
    }


def _tally(values: Iterable[Any]) -> dict[str, int]:
    counts = Counter(str(value) for value in values if value)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _spread(values: Iterable[Any]) -> dict[str, Any]:
    """Of the sessions that know theirs."""
    return spread_ms((value for value in values if isinstance(value, (int, float))), (50, 100))
