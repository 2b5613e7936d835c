"""Which charts a run has, in the order of the page. Every figure is the summary's; distributions are over the
same samples that its percentiles are taken from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lk_users.clock import NS_PER_MS
from lk_users.course import Role
from lk_users.outcome import Finding, fault_of
from lk_users.record import Mark, Phase
from lk_users.report import round_words, words
from lk_users.report.page import canvas, looks, timeline
from lk_users.report.page.canvas import Chart
from lk_users.stats import mark_samples_ns, phase_samples_ns, start_errors_ns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lk_users.record import Record
    from lk_users.report.words import Summary

PERCENT_HEAD = ("p50", "p90", "p99", "max")


def shares(summary: Summary) -> Chart | None:
    """Where the time went."""
    found = {name: phase for name, phase in summary["phases"].items() if phase["n"] and phase["share"]}
    if not found:
        return None
    names = [f"{name}" for name in found]
    plot = canvas.bars(
        names,
        [phase["share"] for phase in found.values()],
        [f"{words.percent(phase['share'])}" for phase in found.values()],
        [looks.PHASE_COLORS[name] for name in found],
        whole=1.0,
    )
    note = "Of all users' waiting together. Phases overlap, so that they may add up to more than 100 %."
    rows = [(name, words.percent(phase["share"])) for name, phase in found.items()]
    legend = [(looks.PHASE_COLORS[name], "bar", f"{name}: {words.PHASES[name][1]}") for name in found]
    return Chart(
        "shares", "Share of the wait", note, plot, len(found), [("phase", "share of the wait"), *rows], legend
    )


def phases(summary: Summary, figures: Sequence[Record]) -> Chart | None:
    """How long each phase took, as distributions."""
    samples = {
        phase.value: [ns / NS_PER_MS for ns in phase_samples_ns(figures, phase)]
        for phase in Phase
        if summary["phases"][phase]["n"]
    }
    if not samples:
        return None
    plot, drawn = canvas.distribution(samples, looks.PHASE_COLORS, log=True)
    note = (
        "For each phase, the share of sessions that were through with it within so many milliseconds. "
        "Further left is faster; a steep line says that all took the same. The scale is logarithmic."
    )
    rows = [
        (name, words.PHASES[name][1], str(found["n"]), *_times(found))
        for name, found in summary["phases"].items()
        if found["n"]
    ]
    legend = [
        (looks.PHASE_COLORS[name], looks.dash(number), f"{name}: {words.PHASES[name][1]}")
        for number, name in enumerate(samples)
    ]
    return Chart(
        "phases", "How long each phase took", note, plot, drawn, [("phase", "", "n", *PERCENT_HEAD), *rows],
        legend,
    )  # fmt: skip


def marks(summary: Summary, figures: Sequence[Record]) -> Chart | None:
    """How soon users got how far."""
    shown = {name: title for name, title in looks.MARK_NAMES.items() if summary["marks"][name]["n"]}
    if not shown:
        return None
    samples = {
        title: [ns / NS_PER_MS for ns in mark_samples_ns(figures, Mark(name))]
        for name, title in shown.items()
    }
    colors = {title: looks.color(number) for number, title in enumerate(samples)}
    plot, drawn = canvas.distribution(samples, colors, log=False, unit="s")
    note = (
        "From the planned start of each session, which is T0 in a burst. Who never got there counts at the "
        "deadline of the session."
    )
    rows = [
        (title, str(mark["n"]), str(mark["censored"]), *_times(mark))
        for title, mark in ((title, summary["marks"][name]) for name, title in shown.items())
    ]
    legend = [(colors[title], looks.dash(number), title) for number, title in enumerate(samples)]
    head = ("from the planned start to", "sessions", "never", *PERCENT_HEAD)
    return Chart("marks", "How soon users got how far", note, plot, drawn, [head, *rows], legend)


def outcomes(summary: Summary) -> Chart | None:
    """What became of the sessions."""
    found = summary["outcomes"]
    if not found:
        return None
    faults = {name: fault_of(Finding(name)) for name in found}
    total = sum(found.values())
    plot = canvas.bars(
        list(found),
        list(found.values()),
        [f"{count} ({words.percent(count / total)})" for count in found.values()],
        [looks.FAULT_COLORS[faults[name]] for name in found],
    )
    rows = [
        (
            name,
            str(count),
            words.FAULTS.get(faults[name], ""),
            "the user was welcomed in time" if name == Finding.OK else words.meaning(Finding(name), summary),
        )
        for name, count in found.items()
    ]
    legend = [
        (color, "bar", words.FAULTS.get(fault, "ok"))
        for fault, color in looks.FAULT_COLORS.items()
        if fault in faults.values()
    ]
    note = "Each session has exactly one outcome: the gravest thing that was found about it."
    head = ("outcome", "sessions", "whose doing", "what it means")
    return Chart("outcomes", "Outcomes", note, plot, len(found), [head, *rows], legend)


def regions(summary: Summary) -> Chart | None:
    """Waits by region; nothing where there is only one."""
    found = {row["region"]: row["marks"] for row in summary["regions"]}
    if len(found) < 2:
        return None
    names = {Mark.AGENT_JOINED: "agent in", Mark.WELCOMED: "welcomed"}
    rows = [
        (f"{region}: {what}", marks[mark])
        for region, marks in found.items()
        for mark, what in names.items()
        if marks[mark]["n"]
    ]
    if not rows:
        return None
    return _ranges(
        "regions", "By region", "From the planned start to the agent in the room, and to the welcome.", rows,
        [looks.color(number % 2) for number in range(len(rows))], "region",
    )  # fmt: skip


def rounds(summary: Summary) -> Chart | None:
    """Baseline, bursts and control side by side; nothing where there is only one round, and where a search
    made many: that has charts of its own."""
    rows = [
        (f"{one['round']} {one['role']}: {one['users']} {round_words.how(one)}", one["marks"][Mark.WELCOMED])
        for one in summary["rounds"]
        if one["marks"][Mark.WELCOMED]["n"]
    ]
    if len(rows) < 2 or summary.get("ladder") or summary.get("batch_search"):
        return None
    order = list(Role)
    colors = [
        looks.color(order.index(Role(one["role"])))
        for one in summary["rounds"]
        if one["marks"][Mark.WELCOMED]["n"]
    ]
    note = "From the planned start of each session to its welcome, round by round."
    return _ranges("rounds", "Burst, baseline and control", note, rows, colors, "round")


def start_error(summary: Summary, figures: Sequence[Record], limit_ms: float) -> Chart | None:
    """How true the burst was."""
    found = summary["start_error_ms"]
    if not found["n"]:
        return None
    by_region = {
        region: [ns / NS_PER_MS for ns in start_errors_ns(r for r in figures if r.region == region)]
        for region in sorted({record.region for record in figures})
    }
    everybody = [ns / NS_PER_MS for ns in start_errors_ns(figures)]
    samples = {"all": everybody, **(by_region if len(by_region) > 1 else {})}
    samples = {name: values for name, values in samples.items() if values}
    if not samples:
        return None
    colors = {name: looks.color(number) for number, name in enumerate(samples)}
    places = {"p99": found["p99"]}
    if limit_ms <= 3 * found["max"]:
        places["--max-start-error"] = limit_ms
    plot, drawn = canvas.distribution(samples, colors, log=False, least_end=max(places.values()))
    canvas.at_lines(plot, places)
    note = (
        "How far from its planned start the first byte of each session left, early or late. Beyond "
        f"{words.duration(limit_ms)} (p99, --max-start-error) the run would be void."
    )
    rows = [
        (
            "all",
            str(found["n"]),
            words.duration(found["p50"]),
            words.duration(found["p99"]),
            words.duration(found["max"]),
        )
    ]
    if len(by_region) > 1:
        rows += [
            (
                row["region"],
                str(error["n"]),
                words.duration(error["p50"]),
                words.duration(error["p99"]),
                words.duration(error["max"]),
            )
            for row, error in ((row, row["start_error_ms"]) for row in summary["regions"])
        ]
    legend = [(colors[name], looks.dash(number), name) for number, name in enumerate(samples)]
    return Chart(
        "start-error", "Start error", note, plot, drawn, [("region", "n", "p50", "p99", "max"), *rows],
        legend if len(samples) > 1 else [],
    )  # fmt: skip


def sessions(records: Sequence[Record]) -> Chart | None:
    return timeline.chart(records) if records else None


def _ranges(
    name: str,
    title: str,
    note: str,
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    colors: Sequence[str],
    what: str,
) -> Chart:
    values = [value[key] for _, value in rows for key in PERCENT_HEAD if value.get(key)]
    log = bool(values) and max(values) > 20 * min(values)
    plot = canvas.ranges(rows, colors, log=log)
    shape = "Circle p50, diamond p90, square p99, cross the longest."
    if log:
        shape += " The scale is logarithmic."
    table = [(what, *PERCENT_HEAD), *((row, *_times(found)) for row, found in rows)]
    return Chart(name, title, f"{note} {shape}", plot, len(rows), table)


def _times(found: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(words.duration(found.get(key)) for key in PERCENT_HEAD)
