"""What is compared: each side is one run or several of the same setting, and in it burst by burst."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lk_users.errors import Refused
from lk_users.report.figures import worst_lag
from lk_users.report.make import draft

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lk_users.record import Record
    from lk_users.report.make import Draft

    Burst = Sequence[Record]


@dataclass(frozen=True)
class Side:
    """``name``: A, B, …; ``bursts``: the counted sessions of each; ``lag_ms``: the worst p95 of its loops."""

    name: str
    run_ids: Sequence[str]
    bursts: Sequence[Burst]
    lag_ms: float
    void: Sequence[str]
    """Runs of it that say nothing reliable, with the first reason."""
    facts: Sequence[Mapping[str, str]]
    """What each run was asked for, and of whom: shown where sides differ in it."""

    @property
    def sessions(self) -> int:
        return sum(map(len, self.bursts))


def read_side(name: str, run_dirs: Sequence[Path]) -> Side:
    """Raises Refused where a folder is no run, RecordError where it cannot be read."""
    drafts = [draft(run_dir) for run_dir in run_dirs]
    lags = [lag["p95"] for found in drafts if (lag := worst_lag(found.summary["workers"]))]
    return Side(
        name=name,
        run_ids=[found.info.run_id for found in drafts],
        bursts=[burst for found in drafts for burst in _bursts(found)],
        lag_ms=max(lags, default=0.0),
        void=[
            f"{found.info.run_id}: {found.summary['void_reasons'][0]}"
            for found in drafts
            if found.summary["void_reasons"]
        ],
        facts=[_facts(found.summary) for found in drafts],
    )


def check(sides: Sequence[Sequence[Path]]) -> None:
    """Raises Refused where there is nothing to compare."""
    folders = [run_dir.resolve() for side in sides for run_dir in side]
    if len(sides) < 2:
        raise Refused([f"compare {sides[0][0]}: name a second run folder to compare it with"])
    twice = sorted({str(folder) for folder in folders if folders.count(folder) > 1})
    if twice:
        raise Refused(
            [f"compare {folder}: named twice, and a run does not differ from itself" for folder in twice]
        )


def _bursts(found: Draft) -> list[Burst]:
    """Those with anything to count."""
    numbers = sorted({record.burst for record in found.figures})
    return [[record for record in found.figures if record.burst == number] for number in numbers]


def _facts(summary: Mapping[str, Any]) -> dict[str, str]:
    return {
        "target": summary["target"].get("url", ""),
        **{f"--{name}": str(value) for name, value in summary["settings"].items()},
        **{name: str(value) for name, value in summary["resolved"].items() if name in ("dispatch", "order")},
        **{str(name): str(value) for name, value in summary["versions"].items()},
    }


def unlike(first: Side, second: Side) -> list[tuple[str, str, str]]:
    """(what, of the first, of the second) where their settings, targets or versions are not the same."""
    names = dict.fromkeys(name for side in (first, second) for facts in side.facts for name in facts)
    found = []
    for name in names:
        values = [_told({facts.get(name, "") for facts in side.facts}) for side in (first, second)]
        if values[0] != values[1]:
            found.append((name, values[0], values[1]))
    return found


def _told(values: set[str]) -> str:
    return " and ".join(sorted(value or "not given" for value in values))
