"""Parts of a Markdown file that hold whatever text others wrote."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from lk_users.report import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


_CODE: Final = re.compile(r"(`+[^`]+`+)")
# What would begin a tag or an entity, or escape what follows.
_MARKUP: Final = re.compile(r"<|&(?=#?\w+;)|\\(?=[!-/:-@\[-`{-~])")


def points(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {plain(sentence)}" for sentence in sentences)


def plain(text: str) -> str:
    """In one line, and not taken for HTML; what is in backticks stays code."""
    parts = _CODE.split(" ".join(text.split()))
    parts[::2] = [_MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def code(text: str) -> str:
    """As code in one line, backticks in it and all; empty of nothing."""
    text = " ".join(text.split())
    if not text:
        return ""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text[0] == "`" or text[-1] == "`" else ""
    return f"{fence}{space}{text}{space}{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Empty where there are no rows."""
    lines = ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *lines])


def cell(text: str) -> str:
    """Safe inside a table: foreign texts may hold what would end the cell."""
    return plain(text).replace("|", "\\|") or "-"


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
