"""Parts of a Markdown file that hold whatever text others wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lk_users.report import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def points(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {' '.join(sentence.split())}" for sentence in sentences)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Empty where there are no rows."""
    lines = ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *lines])


def cell(text: str) -> str:
    """Safe inside a table: foreign texts may hold what would end the cell."""
    return " ".join(text.split()).replace("|", "\\|") or "-"


def phases(found: Mapping[str, Any]) -> str:
    """``phases`` of the summary; those that no session has are left out."""
    rows = [
        (name, words.PHASES[name][1], str(phase["n"]), *_times(phase), words.percent(phase["share"]))
        for name, phase in found.items()
        if phase["n"]
    ]
    return table(("phase", "", "sessions", "p50", "p90", "p99", "max", "share of the wait"), rows)


def marks(found: Mapping[str, Any]) -> str:
    """``marks`` of the summary; those that no session passed are left out."""
    rows = [
        (name, str(mark["n"]), str(mark["censored"]), *_times(mark))
        for name, mark in found.items()
        if mark["n"]
    ]
    return table(("mark", "sessions", "never", "p50", "p90", "p99", "max"), rows)


def _times(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(words.duration(values[key]) for key in ("p50", "p90", "p99", "max"))
