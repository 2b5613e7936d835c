"""Reading: what was written to one user, what of it came first, and whether it was what was expected."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from lk_users.clock import NS_PER_MS
from lk_users.evidence import Text
from lk_users.masking import masked
from lk_users.wire.text_stream import CHAT, TRANSCRIPTION, DataPiece, TextPiece

if TYPE_CHECKING:
    from collections.abc import Collection

KINDS: Final = {TRANSCRIPTION: "transcription", CHAT: "chat"}
# A long conversation is no evidence of its welcome.
TEXTS_KEPT = 32
TEXTS_SHOWN = 6
TEXT_SHOWN = 200


class Reading:
    """Texts by sender and segment, and other data by sender and topic. Moments in ns from the intended start.

    ``expected``: regular expression, empty for none. It sees what a text stream kept, so its length is
    bounded (``wire.text_stream.TEXT_BYTES``); its form is the operator's: one that backtracks without end
    stalls the loop, and the run is void for it.
    """

    def __init__(self, expected: str) -> None:
        self._expected = re.compile(expected) if expected else None
        self._texts: dict[tuple[str, str, str], Text] = {}
        self._first_ns: dict[str, int] = {}
        self._matched_ns: dict[str, int] = {}
        self._data: dict[tuple[str, str], dict[str, Any]] = {}

    def take(self, piece: TextPiece | DataPiece, at_ns: int) -> None:
        """One piece that came."""
        if isinstance(piece, TextPiece) and piece.topic in KINDS:
            self._take_text(piece, at_ns)
        else:
            size_bytes = piece.size_bytes if isinstance(piece, DataPiece) else len(piece.text.encode())
            self._take_data(piece.topic, piece.sender, size_bytes, at_ns)

    def first_ns(self, senders: Collection[str]) -> int | None:
        """When the first text of any of ``senders`` came."""
        return min((self._first_ns[name] for name in senders if name in self._first_ns), default=None)

    def matched_ns(self, senders: Collection[str]) -> int | None:
        """When a text of any of ``senders`` first was what is expected."""
        return min((self._matched_ns[name] for name in senders if name in self._matched_ns), default=None)

    def texts(self, senders: Collection[str]) -> tuple[Text, ...]:
        """Theirs, in the order in which they began."""
        return tuple(text for text in self._texts.values() if text.sender in senders)

    def facts(self) -> dict[str, Any]:
        """For the record: the first texts and kinds of data that came, whoever sent them."""
        facts: dict[str, Any] = {}
        if self._texts:
            facts["texts"] = [_shown(text) for text in list(self._texts.values())[:TEXTS_SHOWN]]
        if self._data:
            facts["data"] = list(self._data.values())
        return facts

    def _take_text(self, piece: TextPiece, at_ns: int) -> None:
        self._first_ns.setdefault(piece.sender, at_ns)
        if piece.sender not in self._matched_ns and self._is_expected(piece.text):
            self._matched_ns[piece.sender] = at_ns
        key = (piece.sender, piece.topic, piece.segment)
        known = self._texts.get(key)
        if known is not None:
            final_ns = at_ns if piece.final and known.final_ns is None else known.final_ns
            self._texts[key] = replace(known, text=piece.text, final_ns=final_ns)
        elif len(self._texts) < TEXTS_KEPT:
            self._texts[key] = Text(
                KINDS[piece.topic], piece.sender, piece.segment, piece.text, at_ns,
                at_ns if piece.final else None,
            )  # fmt: skip

    def _is_expected(self, text: str) -> bool:
        return self._expected is not None and self._expected.search(text) is not None

    def _take_data(self, topic: str, sender: str, size_bytes: int, at_ns: int) -> None:
        known = self._data.get((sender, topic))
        if known is not None:
            known["count"] += 1
        elif len(self._data) < TEXTS_SHOWN:
            self._data[sender, topic] = {
                "topic": masked(topic)[:TEXT_SHOWN], "sender": sender, "bytes": size_bytes, "count": 1,
                "ms": round(at_ns / NS_PER_MS, 1),
            }  # fmt: skip


def _shown(text: Text) -> dict[str, Any]:
    return {
        "kind": text.kind,
        "sender": text.sender,
        "text": masked(text.text)[:TEXT_SHOWN],
        "ms": round(text.at_ns / NS_PER_MS, 1),
        "final_ms": None if text.final_ns is None else round(text.final_ns / NS_PER_MS, 1),
    }
