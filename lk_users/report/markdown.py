"""``summary.md``: the summary for people, as GitHub's and GitLab's Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lk_users.outcome import Finding, fault_of
from lk_users.report import witness_words, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lk_users.report.words import Summary


def text(summary: Summary) -> str:
    """The whole file, with its final newline."""
    parts = [
        f"# {words.headline(summary)}",
        _points(summary["void_reasons"]),
        _about(summary),
        _table(
            ("SLO", "was", ""),
            (
                (f"`{s['text']}`", words.slo_value(s), "met" if s["ok"] else "**missed**")
                for s in summary["slo"]
            ),
        ),
        "## What became of the sessions",
        words.session_line(summary),
        _points(words.failure_lines(summary)),
        _outcomes(summary),
        "## Where the time went",
        _points(words.time_lines(summary)),
        _phases(summary),
        "From the planned start. A session that never got there counts at its deadline, and under *never*.",
        _marks(summary["marks"]),
        "## How far to trust it",
        _points([words.burst_line(summary), words.health_line(summary)]),
        _workers(summary["workers"]),
        _bursts(summary["bursts"]),
        _witness(summary["witness"]),
        "## Slowest and failed sessions",
        _slowest(summary["slowest"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(summary: Summary) -> str:
    wall = summary["wall"]
    rows = [
        ("run", summary["run_id"]),
        ("target", summary["target"].get("url", "")),
        ("started, ended (UTC)", f"{wall['started']}, {wall['ended'] or 'not known'}"),
        *((f"--{name}", value) for name, value in summary["settings"].items() if value),
        *summary["versions"].items(),
    ]
    table = _table(("", ""), ((name, f"`{_cell(value)}`") for name, value in rows if value))
    title = f"Run {summary['run_id']}, settings and versions"
    return f"<details><summary>{title}</summary>\n\n{table}\n\n</details>"


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
    text = _table(("outcome", "sessions", "whose doing"), rows)
    if further:
        found = ", ".join(f"{name} {count}" for name, count in further.items())
        text += f"\n\nFound in sessions, whatever their outcome: {found}."
    return text


def _phases(summary: Summary) -> str:
    rows = [
        (name, words.PHASES[name][1], str(phase["n"]), *_times(phase), words.percent(phase["share"]))
        for name, phase in summary["phases"].items()
        if phase["n"]
    ]
    return _table(("phase", "", "sessions", "p50", "p90", "p99", "max", "share of the wait"), rows)


def _marks(marks: Mapping[str, Any]) -> str:
    rows = [
        (name, str(mark["n"]), str(mark["censored"]), *_times(mark))
        for name, mark in marks.items()
        if mark["n"]
    ]
    return _table(("mark", "sessions", "never", "p50", "p90", "p99", "max"), rows)


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
    return _table(head, rows)


def _bursts(bursts: Sequence[Mapping[str, Any]]) -> str:
    """Only worth a table where there is more than one."""
    if len(bursts) < 2:
        return ""
    rows = [
        (
            str(burst["burst"]),
            burst["t0"] or "not known",
            str(burst["sessions"]),
            str(burst["outcomes"].get(Finding.OK, 0)),
            words.duration(burst["first_audio"]["p50"]) if burst["first_audio"]["n"] else "-",
            words.duration(burst["welcomed"]["p50"]) if burst["welcomed"]["n"] else "-",
            words.duration(burst["welcomed"]["p99"]) if burst["welcomed"]["n"] else "-",
        )
        for burst in bursts
    ]
    return _table(("burst", "T0 (UTC)", "sessions", "ok", "heard p50", "welcomed p50", "welcomed p99"), rows)


def _witness(witness: Mapping[str, Any] | None) -> str:
    if witness is None:
        return ""
    per_session_s = witness["cpu_s"] / witness["sessions"]
    cpu = (
        f"The SDK's processes took {words.duration(1000 * per_session_s)} CPU a session, start-up included; "
        "that is in no other figure."
    )
    points = _points([*witness_words.lines(witness), *([cpu] if per_session_s else [])])
    table = _table(witness_words.HEAD, witness_words.rows(witness))
    return f"## The witness\n\n{points}\n\n{table}"


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
    return _table((*head, "agent sid", "worker"), rows)


def _times(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(words.duration(values[key]) for key in ("p50", "p90", "p99", "max"))


def _points(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {' '.join(sentence.split())}" for sentence in sentences)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Empty where there are no rows."""
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *lines])


def _cell(text: str) -> str:
    """Safe inside a table: foreign texts may hold what would end the cell."""
    return " ".join(text.split()).replace("|", "\\|") or "-"
