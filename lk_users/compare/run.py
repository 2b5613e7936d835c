"""``lk-users compare``: reads the runs, compares each side with the first, says what differs."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lk_users.compare import rules, words
from lk_users.compare.sides import check, read_side, unlike
from lk_users.outcome import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """``exit_code``: what it comes to for a CI job that must not let a worse side pass."""

    text: str
    exit_code: ExitCode


def compare(run_dirs: Sequence[Path], others: Sequence[Path], *, as_json: bool) -> Answer:
    """``run_dirs`` against ``others``, of which each are one side; without ``others`` each is a side of its
    own, and the first is what the rest are compared with.

    Raises Refused where there is nothing to compare or a folder is no run, RecordError.
    """
    groups = [run_dirs, others] if others else [[run_dir] for run_dir in run_dirs]
    check(groups)
    sides = [read_side(name, group) for name, group in zip(_names(len(groups)), groups, strict=True)]
    compared = [(other, rules.compare(sides[0], other), unlike(sides[0], other)) for other in sides[1:]]
    told = (
        json.dumps(words.as_json(sides, compared), indent=2, ensure_ascii=False)
        if as_json
        else words.text(sides, compared)
    )
    if any(side.void for side in sides) or not all(differences for _, differences, _ in compared):
        return Answer(told, ExitCode.VOID)
    worse = any(found.worse for _, differences, _ in compared for found in differences)
    return Answer(told, ExitCode.SLO_FAILED if worse else ExitCode.PASS)


def _names(count: int) -> list[str]:
    letters = string.ascii_uppercase
    return [letters[number] if number < len(letters) else f"R{number + 1}" for number in range(count)]
