"""What one session saw, as lines with their moments. Pure."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lk_users.clock import NS_PER_S
from lk_users.masking import masked

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LINES_SHOWN: Final = 60
TEXT_CHARS: Final = 72
LINE_CHARS: Final = 110


@dataclass(order=True)
class Note:
    """``at_ns``: monotonic clock. ``order``: as told, where moments are equal."""

    at_ns: int
    order: int
    text: str = field(compare=False)


class Timeline:
    """Notes in the order in which they were told."""

    def __init__(self) -> None:
        self._notes: list[Note] = []

    def add(self, at_ns: int, text: str) -> None:
        self._notes.append(Note(at_ns, len(self._notes), text))

    @property
    def last_ns(self) -> int:
        """When something happened last; 0 before anything did."""
        return max((note.at_ns for note in self._notes), default=0)

    def lines(self, start_ns: int) -> list[str]:
        """By time, in seconds from ``start_ns``, each on one line."""
        notes = sorted(self._notes)
        shown = [f"{_seconds(note.at_ns - start_ns)}  {note.text}" for note in notes[:LINES_SHOWN]]
        if len(notes) > LINES_SHOWN:
            shown.append(f"{'…':>10}  and {len(notes) - LINES_SHOWN} more")
        return shown


def _seconds(ns: int) -> str:
    return f"{max(0, ns) / NS_PER_S:8.3f} s"


def excerpt(text: str) -> str:
    """On one line, quoted, without what must not be shown."""
    words = " ".join(masked(text).split())
    return f"'{words}'" if len(words) <= TEXT_CHARS else f"'{words[:TEXT_CHARS].rstrip()}…'"


def attributes_text(names: Sequence[tuple[str, str]]) -> str:
    """Attributes as ``name=value``, short."""
    return ", ".join(f"{name}={excerpt(value)[1:-1]}" for name, value in names)


def points(sentences: Iterable[str]) -> list[str]:
    """A list for a terminal."""
    return [
        line
        for sentence in sentences
        for line in textwrap.wrap(
            sentence, LINE_CHARS, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False
        )
    ]
