"""The timeline: one row a session, from T0 to its outcome, coloured by what it waited for.

Phases overlap (a user joins while its agent is still in the queue). A row shows at each moment the phase
nearest to the welcome: the agent's own lie over the user's, and those over plain waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool

from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.outcome import Fault, fault_of
from lk_users.record import Mark, Phase
from lk_users.report import words
from lk_users.report.figures import wait_ns
from lk_users.report.page import looks
from lk_users.report.page.canvas import Chart, plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bokeh.plotting import figure

    from lk_users.record import Record

ROW_PX: Final = 1.6
FEW_ROW_PX: Final = 14.0
LEAST_PX: Final = 150
MOST_PX: Final = 900
# Thinner rows would fade: a pixel that is covered in part is drawn in part.
THINNEST_PX: Final = 1.0
# So many rows are high enough for a long label beside them.
FEW: Final = 25
# So few rows have room for a gap between them.
SPACED: Final = 100
NAME: Final = "timeline"
USERS: Final = (Phase.SESSION_API, Phase.DISPATCH_API, Phase.USER_JOIN, Phase.MEDIA_SETUP)
AGENTS: Final = (Phase.SERVER_QUEUE, Phase.ACCEPT_TO_JOIN, Phase.AGENT_START, Phase.SPEAK)
# What is said of a row that is pointed at.
TOLD: Final = ("session", "room", "region", "outcome", "waited", "user", "agent")


def spans_ns(record: Record) -> dict[Phase, tuple[int, int]]:
    """Phase → from and to, in ns from the intended start; in the order in which they are drawn.

    Phases by the server's clock are placed by the one moment that both clocks know: the agent's join.
    """
    marks, lengths = record.marks_ns, record.phases_ns
    joined_ns = marks.get(Mark.AGENT_JOINED)
    ends: dict[Phase, int | None] = {
        Phase.SESSION_API: marks.get(Mark.SESSION_CREATED),
        Phase.DISPATCH_API: marks.get(Mark.DISPATCHED),
        Phase.USER_JOIN: marks.get(Mark.CONNECTED),
        Phase.MEDIA_SETUP: marks.get(Mark.MEDIA_UP),
        Phase.SERVER_QUEUE: None if joined_ns is None else joined_ns - lengths.get(Phase.ACCEPT_TO_JOIN, 0),
        Phase.ACCEPT_TO_JOIN: joined_ns,
        Phase.AGENT_START: marks.get(Mark.AGENT_TRACK),
        Phase.SPEAK: marks.get(Mark.FIRST_AUDIO, marks.get(Mark.FIRST_TEXT)),
    }
    return {
        phase: (end - lengths[phase], end)
        for phase, end in ends.items()
        if end is not None and phase in lengths
    }


def starts_ns(records: Sequence[Record]) -> list[int]:
    """Each session's intended start, from that of its burst's first."""
    zeros: dict[int, int] = {}
    for record in records:
        if record.intended_wall_ns:
            zeros[record.burst] = min(
                zeros.get(record.burst, record.intended_wall_ns), record.intended_wall_ns
            )
    return [
        record.intended_wall_ns - zeros[record.burst] if record.intended_wall_ns else 0 for record in records
    ]


def chart(records: Sequence[Record]) -> Chart:
    """Of all sessions, burst by burst, in the order in which their waits ended."""
    starts = dict(zip((record.session_id for record in records), starts_ns(records), strict=True))

    def ended_ns(record: Record) -> int:
        return starts[record.session_id] + wait_ns(record)

    rows = sorted(records, key=lambda record: (record.burst, ended_ns(record), record.sort_key()))
    height = round(min(MOST_PX, max(LEAST_PX, min(FEW_ROW_PX * len(rows), max(420, ROW_PX * len(rows))))))
    last_s = max((ended_ns(record) for record in rows), default=0) / NS_PER_S
    reach_s = 1.02 * last_s or 1.0
    plot = plain(
        height + 60,
        y_range=(max(1, len(rows)), 0),
        x_range=(0, reach_s),
        x_axis_label="s since T0" if len({record.burst for record in rows}) < 2 else "s since its burst's T0",
        y_axis_label="sessions, in the order in which their wait ended" if len(rows) > FEW else "sessions",
    )
    plot.ygrid.grid_line_color = None
    plot.yaxis.major_label_text_font_size = "0px"
    plot.yaxis.major_tick_line_color = None
    # A border of its own colour keeps a thin row visible at every zoom.
    border = THINNEST_PX if len(rows) * THINNEST_PX > height else 0.0
    used = _bars(plot, rows, starts, border)
    failed = _failures(plot, rows, starts)
    _hover(plot, rows, reach_s)
    legend = [(looks.WAITING, "bar", "waiting, for nothing that is known")]
    legend += [
        (looks.PHASE_COLORS[phase], "bar", f"{phase}: {looks.phase_place(phase)}")
        for phase in Phase
        if phase in used
    ]
    legend += [
        (looks.FAULT_COLORS[fault], looks.FAULT_MARKERS[fault], f"failed: {words.FAULTS[fault]}")
        for fault in looks.FAULT_MARKERS
        if fault in failed
    ]
    note = (
        "One row is one session, from its planned start to its welcome or its end. Point at a row for its "
        "ids. Where phases overlap, the one nearer to the welcome is shown."
    )
    return Chart(NAME, "Every session", note, plot, len(rows), legend=legend)


def _bars(plot: figure, rows: Sequence[Record], starts: Mapping[str, int], border: float) -> set[Phase]:
    """The waiting of each, and what is known of it above."""
    found: dict[Phase | None, list[tuple[float, float, float]]] = {None: []}
    for phase in Phase:
        found[phase] = []
    for number, record in enumerate(rows):
        start_ns = starts[record.session_id]
        found[None].append((number, start_ns, start_ns + wait_ns(record)))
        for phase, (begin, end) in spans_ns(record).items():
            found[phase].append((number, start_ns + begin, start_ns + end))
    for kind, spans in found.items():
        if not spans:
            continue
        values = np.array(spans, "f8")
        source = ColumnDataSource(
            {
                "y": (values[:, 0] + 0.5).astype("f4"),
                "left": (values[:, 1] / NS_PER_S).astype("f4"),
                "right": (values[:, 2] / NS_PER_S).astype("f4"),
            }
        )
        color, alpha = (looks.WAITING, 0.45) if kind is None else (looks.PHASE_COLORS[kind], 1.0)
        plot.hbar(
            "y",
            left="left",
            right="right",
            height=0.86 if len(rows) < SPACED else 1.0,
            source=source,
            color=color,
            alpha=alpha,
            line_width=border,
            name=kind or "waiting",
        )
    return {phase for phase in Phase if found[phase]}


def _failures(plot: figure, rows: Sequence[Record], starts: Mapping[str, int]) -> set[Fault]:
    """A mark at the end of each session that is not ok, by whose doing it is."""
    places: dict[Fault, list[tuple[float, float]]] = {}
    for number, record in enumerate(rows):
        fault = fault_of(record.outcome)
        if fault is not Fault.NONE:
            end_s = (starts[record.session_id] + wait_ns(record)) / NS_PER_S
            places.setdefault(fault, []).append((end_s, number + 0.5))
    for fault, points in places.items():
        values = np.array(points, "f4")
        plot.scatter(
            "x", "y", source=ColumnDataSource({"x": values[:, 0], "y": values[:, 1]}), size=6,
            marker=looks.FAULT_MARKERS[fault], color=looks.FAULT_COLORS[fault], line_width=1.5,
            name=f"failed {fault}",
        )  # fmt: skip
    return set(places)


def _hover(plot: figure, rows: Sequence[Record], reach_s: float) -> None:
    """One invisible bar a session over the whole width, so that a row is found wherever it is pointed at."""
    source = ColumnDataSource(
        {
            "y": (np.arange(len(rows)) + 0.5).astype("f4"),
            "session": [record.session_id for record in rows],
            "room": [record.room for record in rows],
            "region": [record.region for record in rows],
            "outcome": [record.outcome.value for record in rows],
            "waited": [words.duration(wait_ns(record) / NS_PER_MS) for record in rows],
            "user": [_phases(record, USERS) for record in rows],
            "agent": [_phases(record, AGENTS) for record in rows],
        }
    )
    reach = plot.hbar(
        "y", left=0, right=reach_s, height=1.0, source=source, fill_alpha=0,
        line_alpha=0, name="rows",
    )  # fmt: skip
    tips = [(name, f"@{name}") for name in TOLD]
    plot.add_tools(HoverTool(renderers=[reach], tooltips=tips, limit=1, visible=False))


def _phases(record: Record, some: Sequence[Phase]) -> str:
    known = record.phases_ns
    told = [f"{phase} {words.duration(known[phase] / NS_PER_MS)}" for phase in some if phase in known]
    return ", ".join(told) or "-"
