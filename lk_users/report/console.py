"""The plain-text ending of a run: the verdict first, then why, in at most ``MAX_LINES`` lines."""

from __future__ import annotations

import textwrap
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from lk_users.record import Mark
from lk_users.report import agent_load, backend, limit_words, region_words, round_words, witness_words, words
from lk_users.settings.options import WELCOME_ITEMS
from lk_users.welcome import mark_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lk_users.report.words import Summary

MAX_LINES: Final = 60
WIDTH: Final = 110
REASONS_SHOWN: Final = 3
SLOS_SHOWN: Final = 4
FAILURES_SHOWN: Final = 3
# Both ids, both moments and both workers of a job that came twice have to fit.
TWICE_LINES: Final = 4
# What it is, its cause, and what to check.
ALONE_LINES: Final = 4
ANEW_LINES: Final = 4
SLO_LINES: Final = 3
AGENT_LINES_SHOWN: Final = 3
REGION_LINES_SHOWN: Final = 4
REGIONS_SHOWN: Final = 4
TRIED_SHOWN: Final = 12

MARKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        Mark.SESSION_CREATED: "session created",
        Mark.DISPATCHED: "dispatch answered",
        Mark.CONNECTED: "user in the room",
        Mark.AGENT_JOINED: "agent in the room",
        Mark.FIRST_AUDIO: "agent heard",
        Mark.FIRST_TEXT: "agent read",
        Mark.TEXT_MATCHED: "expected text read",
        Mark.WELCOMED: "welcomed",
    }
)


def text(summary: Summary) -> str:
    """The ending, without a final newline."""
    lines = [
        words.headline(summary),
        *_points(round_words.alone_lines(summary), 1, ALONE_LINES),
        *_points(summary["void_reasons"], REASONS_SHOWN),
        *_slo_lines(summary["slo"]),
        *(_points([anew], 1, ANEW_LINES) if (anew := words.anew_line(summary)) else []),
        "",
        *_search_lines(summary),
        _about(summary),
        *_points([words.session_line(summary)], 1),
        *_points(words.failure_lines(summary), FAILURES_SHOWN),
        *_points(words.twice_lines(summary), 1, TWICE_LINES),
        *_points(agent_load.lines(summary), AGENT_LINES_SHOWN),
        "",
        "Where the time went",
        *_points([*words.time_lines(summary), *backend.lines(summary)], 5),
        *_mark_lines(summary["marks"], summary["settings"]),
        *_round_lines(summary),
        *_region_lines(summary),
        "",
        "How far to trust it",
        *_points([*words.trust_lines(summary), *words.user_lines(summary)], 5),
        *_points(words.sink_lines(summary), 2),
        *_points(witness_words.lines(summary["witness"])[:1], 1),
    ]
    return "\n".join(lines)


def _points(sentences: Sequence[str], shown: int, lines_each: int = 2) -> list[str]:
    """Each sentence as a point of at most ``lines_each``; of more than ``shown`` the rest is counted."""
    lines = []
    for sentence in sentences[:shown]:
        lines += textwrap.wrap(
            " ".join(sentence.split()),
            WIDTH,
            initial_indent="  - ",
            subsequent_indent="    ",
            max_lines=lines_each,
            placeholder=" …",
            break_on_hyphens=False,
        )
    if len(sentences) > shown:
        lines.append(f"  - and {len(sentences) - shown} more, in summary.md")
    return lines


def _slo_lines(slos: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those without data first, then the missed ones."""
    ordered = sorted(slos, key=lambda slo: (slo["value"] is not None, slo["ok"]))
    lines = []
    for slo in ordered[:SLOS_SHOWN]:
        line = f"  {_state(slo)}  {slo['text']}   ({words.slo_was(slo)})"
        lines += textwrap.wrap(line, WIDTH, subsequent_indent=" " * 10, max_lines=SLO_LINES, placeholder=" …")
    return lines + ([f"  and {len(slos) - SLOS_SHOWN} more" for _ in (0,) if len(slos) > SLOS_SHOWN])


def _search_lines(summary: Summary) -> list[str]:
    """Every size or plan that was tried; nothing where the run was no search."""
    head, *tried = limit_words.rows(summary) or [()]
    if not tried:
        return []
    widths = [max(len(row[column]) for row in (head, *tried)) for column in range(len(head))]
    lines = [
        "  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in (head, *tried[:TRIED_SHOWN])
    ]
    rest = len(tried) - TRIED_SHOWN
    more = [f"  and {rest} more, in summary.md"] if rest > 0 else []
    return [*lines, *more, *_points(limit_words.lines(summary), 3), ""]


def _state(slo: Mapping[str, Any]) -> str:
    """What is not well stands out."""
    state = words.slo_state(slo)
    return f"{state if slo['ok'] else state.upper():<6}"


def _about(summary: Summary) -> str:
    resolved = summary["resolved"]
    bursts = words.plural(len(summary["bursts"]), "burst")
    where = f" on {url}" if (url := summary["target"].get("url")) else ""
    return (
        f"Run {summary['run_id']}{where}: {bursts}, agent {backend.agent(summary)}, dispatch by "
        f"{resolved['dispatch']}, {resolved['order']}"
    )


def _mark_lines(marks: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """When each thing happened, from the planned start. What happened to nobody is left out, and so is a
    part of the welcome that ``--welcome`` does not list: its sessions left without waiting for it."""
    listed = [item.strip() for item in str(settings.get("welcome", "")).split(",")]
    if settings.get("expect-text"):
        listed.append("text")
    optional = {mark_of(item, ""): item for item in WELCOME_ITEMS}
    seen = {
        name: title
        for name, title in MARKS.items()
        if marks[name]["n"] and (name not in optional or optional[Mark(name)] in listed)
    }
    if not seen:
        return []
    lines = [f"  {'from the planned start to':<26}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}{'never':>7}"]
    for name, title in seen.items():
        cells = "".join(f"{words.duration(marks[name][key]):>9}" for key in ("p50", "p90", "p99", "max"))
        lines.append(f"  {title:<26}{cells}{marks[name]['censored']:>7}")
    return lines


def _round_lines(summary: Summary) -> list[str]:
    """The burst beside what it is compared with; nothing where there is nothing."""
    rows = round_words.rows(summary)
    if not rows:
        return []
    return [
        "",
        "Is it the burst?",
        *_points(round_words.lines(summary), 2, ALONE_LINES),
        *(f"  {row[0]:<26}" + "".join(f"{cell:>9}" for cell in row[1:]) for row in rows),
    ]


def _region_lines(summary: Summary) -> list[str]:
    """Which region is slow, in which phase, by how much; nothing where there is only one."""
    rows = region_words.console_rows(summary)
    if not rows:
        return []
    lines = ["", "By region, the slowest first", *_points(region_words.lines(summary), REGION_LINES_SHOWN)]
    lines += [
        f"  {row[0][:20]:<20}" + "".join(f"{cell:>9}" for cell in row[1:])
        for row in rows[: REGIONS_SHOWN + 1]
    ]
    rest = len(rows) - 1 - REGIONS_SHOWN
    return [*lines, *([f"  and {rest} more, in summary.md"] if rest > 0 else [])]
