"""``summary.md``: the summary for people, as GitHub's and GitLab's Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lk_users.outcome import Finding, fault_of
from lk_users.report import agent_load, backend, limit_words, region_words, round_words, witness_words, words
from lk_users.report.tables import code, marks, phases, points, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lk_users.report.words import Summary

# A CI job's page takes so much and no more: GitHub's 1 MiB.
TWICE_SHOWN: Final = 50


def text(summary: Summary) -> str:
    """The whole file, with its final newline."""
    parts = [
        f"# {words.headline(summary)}",
        points([*round_words.alone_lines(summary), *summary["void_reasons"]]),
        table(
            ("SLO", "was", ""),
            (
                (code(s["text"]), words.slo_value(s), "met" if s["ok"] else f"**{words.slo_state(s)}**")
                for s in summary["slo"]
            ),
        ),
        words.anew_line(summary),
        _about(summary),
        _search(summary),
        "## What became of the sessions",
        words.session_line(summary),
        points(words.failure_lines(summary)),
        points(agent_load.lines(summary)),
        _agent_workers(summary),
        _outcomes(summary),
        _twice(summary),
        "## Where the time went",
        points([*words.time_lines(summary), *backend.lines(summary)]),
        phases(summary["phases"]),
        "From the planned start. A session that never got there counts at its deadline, and under *never*.",
        marks(summary["marks"]),
        _rounds(summary),
        _regions(summary),
        "## How far to trust it",
        points(_trust(summary)),
        _workers(summary["workers"]),
        _witness(summary["witness"]),
        "## Slowest and failed sessions",
        _slowest(summary["slowest"]),
        points(words.audio_lines(summary)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _search(summary: Summary) -> str:
    """Every size or plan that was tried; nothing where the run was no search."""
    head, *tried = limit_words.rows(summary) or [()]
    if not tried:
        return ""
    slo_head, *slos = limit_words.slo_rows(summary)
    return "\n\n".join(
        (
            "## What was tried",
            points(limit_words.lines(summary)),
            "The worst burst of each:",
            table(head, tried),
            "Each burst, in the order of the run:",
            table(slo_head, slos),
        )
    )


def _trust(summary: Summary) -> list[str]:
    lines = [*words.trust_lines(summary), *words.user_lines(summary)]
    way = words.way_line(summary)
    return [*lines, *([] if way in lines else [way]), *words.sink_lines(summary)]


def _about(summary: Summary) -> str:
    wall = summary["wall"]
    rows = [
        ("run", summary["run_id"]),
        ("target", summary["target"].get("url", "")),
        ("started, ended (UTC)", f"{wall['started']}, {wall['ended'] or 'not known'}"),
        *((f"--{name}", value) for name, value in summary["settings"].items() if value),
        *summary["versions"].items(),
    ]
    listed = table(("", ""), ((name, code(value)) for name, value in rows if value))
    title = f"Run {summary['run_id']}, settings and versions"
    return f"<details><summary>{title}</summary>\n\n{listed}\n\n</details>"


def _outcomes(summary: Summary) -> str:
    rows = [
        (name, str(count), fault_of(Finding(name)).value if name != Finding.OK else "")
        for name, count in summary["outcomes"].items()
    ]
    further = {
        name: count
        for name, count in summary["findings"].items()
        if count != summary["outcomes"].get(name, 0)
    }
    text = table(("outcome", "sessions", "whose doing"), rows)
    if further:
        found = ", ".join(f"{name} {count}" for name, count in further.items())
        text += f"\n\nFound in sessions, whatever their outcome: {found}."
    return text


def _twice(summary: Summary) -> str:
    """Agents that entered twice, with what their owner needs to find them."""
    sessions = summary["entered_twice"]
    rows = [
        (
            session["finding"],
            session["room"],
            agent["job_id"] or session["job_id"],
            agent["worker_id"] or "not known",
            agent["sid"],
            words.duration(agent["joined_ms"] if agent["joined_ms"] is not None else agent["seen_ms"]),
            words.duration(agent["gone_ms"]),
            agent["gone_reason"],
        )
        for session in sessions[:TWICE_SHOWN]
        for agent in session["agents"]
    ]
    head = ("finding", "room", "job", "agent worker", "agent sid", "entered", "gone", "why")
    if not rows:
        return ""
    advice = [f"{line}\n\n" for line in words.twice_lines(summary)]
    rest = len(sessions) - TWICE_SHOWN
    more = f"\n\nSo in {words.plural(rest, 'more session')}: see summary.json." if rest > 0 else ""
    return f"### Agents that entered twice\n\n{''.join(advice)}{table(head, rows)}{more}"


def _agent_workers(summary: Summary) -> str:
    head, *rows = agent_load.rows(summary) or [()]
    return table(head, rows)


def _rounds(summary: Summary) -> str:
    """Every round, where there is more than one."""
    head, *rows = round_words.table_rows(summary) or [()]
    if not rows:
        return ""
    return "\n\n".join(filter(None, ("## By round", points(round_words.lines(summary)), table(head, rows))))


def _regions(summary: Summary) -> str:
    """Side by side, where there is more than one."""
    head, *rows = region_words.table_rows(summary) or [()]
    if not rows:
        return ""
    return f"## By region\n\n{points(region_words.lines(summary))}\n\n{table(head, rows)}"


def _workers(workers: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for worker in workers:
        lag = worker["lag_ms"] or {}
        start = worker["start_lag_ms"] or {}
        cpu_s = worker["cpu_s"]
        rows.append(
            (
                worker["id"],
                worker["region"],
                str(worker["sessions"]),
                words.duration(lag.get("p95")),
                words.duration(lag.get("max")),
                words.duration(start.get("max")),
                words.duration(worker["clock_uncertainty_ms"]),
                "-" if cpu_s is None else f"{cpu_s:.1f} s",
                "-" if worker["rss_mb"] is None else f"{worker['rss_mb']:.0f} MB",
            )
        )
    head = (
        "worker",
        "region",
        "sessions",
        "lag p95",
        "longest stall",
        "longest at T0",
        "clock ±",
        "CPU",
        "memory",
    )
    return table(head, rows)


def _witness(witness: Mapping[str, Any] | None) -> str:
    if witness is None:
        return ""
    per_session_s = witness["cpu_s"] / witness["sessions"]
    cpu = (
        f"The SDK's processes took {words.duration(1000 * per_session_s)} CPU a session, start-up included; "
        "that is in no other figure."
    )
    said = points([*witness_words.lines(witness), *([cpu] if per_session_s else [])])
    return f"## The witness\n\n{said}\n\n{table(witness_words.HEAD, witness_words.rows(witness))}"


def _slowest(sessions: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for session in sessions:
        phases = session["phases_ms"]
        longest = max(phases, key=phases.__getitem__, default="")
        ids = ("room", "room_sid", "dispatch_id", "job_id", "worker_id", "agent_sid")
        rows.append(
            (
                session["outcome"],
                session["cause"],
                words.duration(session["waited_ms"]),
                f"{longest} {words.duration(phases[longest])}" if longest else "-",
                *(session[name] for name in ids),
                f"{session['worker']} ({session['region']})",
            )
        )
    head = (
        "outcome",
        "cause",
        "waited",
        "longest phase",
        "room",
        "room sid",
        "dispatch",
        "job",
        "agent worker",
    )
    return table((*head, "agent sid", "worker"), rows)
