"""``support.md``: what LiveKit's support needs to look into a run, in at most ``MAX_LINES`` lines to paste.

For readers who never saw this program and have logs of their own: who the users were, what went wrong,
and every id and moment by which they can find the sessions on their side.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from lk_users.clock import NS_PER_MS
from lk_users.outcome import OUTCOMES, Fault, Finding, Verdict, fault_of
from lk_users.record import Mark
from lk_users.report import backend, region_words, witness_words, words
from lk_users.report.cases import failures, slowest
from lk_users.report.folder import BUNDLE_FILE, RECORDS_FILE, RUN_FILE
from lk_users.report.summary import iso
from lk_users.report.tables import marks, phases, points, table
from lk_users.settings.options import RUN_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lk_users.record import Record
    from lk_users.report.cases import Kind
    from lk_users.report.words import Summary

MAX_LINES: Final = 200
MAX_TEXT: Final = 300
MAX_EVIDENCE: Final = 800
REASONS_SHOWN: Final = 3
OUTCOMES_NAMED: Final = 4
OUTCOMES_SHOWN: Final = 6
KINDS_SHOWN: Final = 7
ALIKE_SHOWN: Final = 5
VALUES_SHOWN: Final = 4
BURSTS_SHOWN: Final = 5
NOT_KNOWN: Final = "not known"

_DEFAULTS: Final[Mapping[str, str]] = MappingProxyType({one.name: one.default for one in RUN_OPTIONS})
_TOLD_ELSEWHERE: Final = ("server", "local_ports")
_ASKED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "api": "by CreateDispatch",
        "room": "by CreateRoom with the agent in it",
        "token": "by the room configuration in the user's token",
        "none": "by nothing: the unnamed agent",
        "backend": "by a backend of the users' own",
    }
)


def text(summary: Summary, records: Sequence[Record]) -> str:
    """The whole file, with its final newline. ``records``: the sessions that figures are taken over."""
    kinds = failures(records)
    parts = [
        _users(summary),
        f"# {_title(kinds, records)}",
        points(_problem(summary, records)),
        "## Where to find it",
        _where(summary, records),
        "## What became of the sessions",
        _outcomes(kinds, len(records)),
        "## Times from the planned start",
        marks(summary["marks"]),
        phases(summary["phases"]),
        "## Why it is not the load generator",
        points(_generator(summary)),
        *_witness(summary.get("witness")),
        *_kinds(kinds),
        *_slowest(slowest(records)),
        "## How to check it",
        points(_checks(summary, kinds, records)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _users(summary: Summary) -> str:
    """Line one: whoever reads this asks first whether the clients were real."""
    version = summary["versions"].get("lk-users", "")
    line = (
        f"The users of this run are WebRTC participants of lk-users {version}: LiveKit's signalling and "
        "aiortc, not the official SDK."
    )
    witness = summary.get("witness")
    if witness:
        sessions = words.plural(witness["sessions"], "session")
        return f"{line} Beside them {sessions} of the same bursts ran on the official SDK: see Witnesses."
    return f"{line} None ran on the official SDK beside them; `--witness 10` makes ten of a burst do so."


def _title(kinds: Sequence[Kind], records: Sequence[Record]) -> str:
    failed = sum(len(kind.records) for kind in kinds)
    sessions = words.plural(len(records), "session")
    return f"{failed} of {sessions} failed" if failed else f"{sessions}, none failed"


def _problem(summary: Summary, records: Sequence[Record]) -> list[str]:
    """What went wrong, in sentences that need no knowledge of this program."""
    counts = Counter(record.outcome for record in records)
    became = [f"{counts.pop(Finding.OK, 0)} ok"] + [
        f"{counts[outcome]} {outcome} ({words.meaning(outcome, summary)})"
        for outcome in OUTCOMES
        if counts[outcome]
    ]
    missed = [f"`{slo['text']}` ({words.slo_was(slo)})" for slo in summary["slo"] if not slo["ok"]]
    void = "; ".join(_short(reason) for reason in _first(summary["void_reasons"], REASONS_SHOWN))
    return [
        *([f"**Not to be sent as it is: the run is void.** {void}."] if void else []),
        f"{_how_many(summary, len(records))}: {', '.join(_first(became, OUTCOMES_NAMED))}.",
        _agents(summary["marks"][Mark.AGENT_JOINED]),
        *words.time_lines(summary),
        *backend.lines(summary),
        *_first(region_words.telling(summary), OUTCOMES_NAMED),
        *([f"Expected and missed: {', '.join(_first(missed, OUTCOMES_NAMED))}."] if missed else []),
    ]


def _agents(joined: Mapping[str, Any]) -> str:
    if not joined["n"]:
        return "No agent was seen in any room."
    p50, p90, p99 = (words.duration(joined[name]) for name in ("p50", "p90", "p99"))
    without = f"; the {joined['censored']} without one count at their deadline" if joined["censored"] else ""
    return (
        f"The agent was in the room {p50} (p50), {p90} (p90), {p99} (p99) after the planned start{without}."
    )


def _how_many(summary: Summary, count: int) -> str:
    settings, resolved = summary["settings"], summary["resolved"]
    sessions = words.plural(count, "session")
    bursts = len(summary["bursts"])
    if resolved["release"] == "free":
        return f"{sessions}, each when its user was started"
    where = f"{sessions} in {bursts} bursts, each" if bursts > 1 else sessions
    if resolved["batches"]:
        size, delay = (_setting(settings, name) for name in ("batch-size", "batch-delay"))
        return f"{where} in batches of {size} every {delay} s"
    return f"{where} at one instant"


def _where(summary: Summary, records: Sequence[Record]) -> str:
    settings, resolved, wall = summary["settings"], summary["resolved"], summary["wall"]
    starts = [burst["t0"] or NOT_KNOWN for burst in summary["bursts"]]
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    rows = [
        ("project", settings.get("project-id") or f"{NOT_KNOWN}; `--project-id p_…` puts it here"),
        ("URL", _code(summary["target"].get("url", ""))),
        ("server", _server(records)),
        ("agent", _code(backend.agent(summary))),
        ("asked for", f"{_ASKED[resolved['dispatch']]}, {resolved['order']}"),
        ("agent's SDK", _agent_sdk(summary)),
        ("agent hosted by LiveKit Cloud", _hosted(records)),
        ("run, started (UTC)", f"{summary['run_id']}, {wall['started']}"),
        ("T0 (UTC)", ", ".join(_first(starts, BURSTS_SHOWN)) or NOT_KNOWN),
        ("last outcome (UTC)", wall["ended"] or NOT_KNOWN),
        (
            "regions of the users",
            ", ".join(_first(sorted({one["region"] for one in summary["workers"]}), VALUES_SHOWN)),
        ),
        ("versions", versions),
        ("settings beside defaults", _code(_options(settings)) if _options(settings) else "none"),
    ]
    return table(("", ""), rows)


def _server(records: Sequence[Record]) -> str:
    """Edition, version, node and region as the join responses told, and in how many sessions."""
    told = Counter(_short(str(one.evidence["server"])) for one in records if one.evidence.get("server"))
    silent = len(records) - sum(told.values())
    shown = [*_first(_ranked(told), VALUES_SHOWN), *([f"{NOT_KNOWN} ({silent})"] if silent else [])]
    return "; ".join(shown) or NOT_KNOWN


def _agent_sdk(summary: Summary) -> str:
    """As the agent's workers tell it; LiveKit's API does not."""
    told = sorted({worker["sdk_version"] or "" for worker in summary.get("agent_workers", ())} - {""})
    return ", ".join(_first(told, VALUES_SHOWN)) or f"{NOT_KNOWN}: LiveKit's API does not tell it"


def _hosted(records: Sequence[Record]) -> str:
    """Does LiveKit Cloud run the agents that were seen? Their participants say so."""
    agents = [record.evidence.get("agent", {}) for record in records if record.agent_sid]
    told = Counter("yes" if agent.get("hosted_by_livekit") else "no" for agent in agents)
    return "; ".join(_ranked(told)) or f"{NOT_KNOWN}: none was seen"


def _ranked(counts: Counter[str]) -> list[str]:
    """Each value with its number, the most frequent first."""
    return [f"{value} ({n})" for value, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _outcomes(kinds: Sequence[Kind], count: int) -> str:
    failed = sum(len(kind.records) for kind in kinds)
    rows = [("ok", "", str(count - failed), "")] if count > failed else []
    rows += [
        (kind.outcome.value, _short(kind.cause), str(len(kind.records)), words.FAULTS[fault_of(kind.outcome)])
        for kind in kinds[:OUTCOMES_SHOWN]
    ]
    rest = kinds[OUTCOMES_SHOWN:]
    if rest:
        sessions = sum(len(kind.records) for kind in rest)
        rows.append((f"{len(rest)} further kinds", f"in {RECORDS_FILE}", str(sessions), ""))
    return table(("outcome", "cause", "sessions", "whose doing"), rows)


def _generator(summary: Summary) -> list[str]:
    settings, found = summary["settings"], summary["findings"]
    sessions = words.plural(summary["sessions"]["recorded"], "session")
    limits = [_setting(settings, f"max-{name}") for name in ("start-error", "stall", "clock-uncertainty")]
    return [
        *(["It may have been: the run is void, see above."] if summary["verdict"] == Verdict.VOID else []),
        f"{words.burst_line(summary)} A run is void beyond {limits[0]} ms (p99).",
        f"{words.health_line(summary)} A run is void beyond a stall of {limits[1]} ms or ±{limits[2]} ms.",
        "No phase is blamed that is shorter than the generator's own lag while its session ran. A stall of "
        f"100 ms or more fell into {found.get(Finding.LAG_IN_WINDOW, 0)} of {sessions}.",
        f"{found.get(Finding.REARMED, 0)} of {sessions} had a connection made again since it was found dead "
        "at or before its write; no other request was repeated.",
        *dict.fromkeys([*words.user_lines(summary), words.way_line(summary)]),
    ]


def _witness(witness: Mapping[str, Any] | None) -> list[str]:
    """The official SDK's sessions beside ours, of the same bursts."""
    if not witness:
        return []
    outcomes = [
        f"`{engine}`: {', '.join(f'{n} {name}' for name, n in found.items()) or 'none'}"
        for engine, found in witness["outcomes"].items()
    ]
    rows = [
        (
            name,
            *(_figure(mark.get(engine)) for engine in ("listen", "sdk")),
            words.duration(mark.get("difference_p50_ms")),
        )
        for name, mark in witness["marks"].items()
    ]
    head = ("mark", "listen: p50, p90 (sessions)", "sdk: p50, p90 (sessions)", "difference of p50")
    told = f"Outcomes by engine: {'; '.join(outcomes)}.{witness_words.unlike_in_short(witness)}"
    return ["## Witnesses", told, table(head, rows)]


def _figure(values: Mapping[str, Any] | None) -> str:
    if not values or not values.get("n"):
        return "-"
    return f"{words.duration(values['p50'])}, {words.duration(values['p90'])} ({values['n']})"


def _kinds(kinds: Sequence[Kind]) -> list[str]:
    if not kinds:
        return []
    lines = []
    for kind in kinds[:KINDS_SHOWN]:
        first, *others = kind.records
        cause = _short(first.cause) or "no cause given"
        about = _session(first)
        seen = {name: value for name, value in first.evidence.items() if name not in _TOLD_ELSEWHERE}
        if seen:
            about.append(f"seen besides: {_code(_short(json.dumps(seen, ensure_ascii=False), MAX_EVIDENCE))}")
        if others:
            ids = [_known(one.room_sid or one.dispatch_id or one.room) for one in others[:ALIKE_SHOWN]]
            about.append(f"{len(others)} more of the kind, such as {', '.join(ids)}")
        sessions = words.plural(len(kind.records), "session")
        lines.append(_case(f"**{kind.outcome}**, {sessions}: {cause}", about))
    if len(kinds) > KINDS_SHOWN:
        lines.append(f"- {len(kinds) - KINDS_SHOWN} further kinds: their sessions are in {RECORDS_FILE}")
    return ["## One of each kind of failure", "\n".join(lines)]


def _slowest(records: Sequence[Record]) -> list[str]:
    if not records:
        return []
    lines = []
    for record in records:
        length = words.duration(record.marks_ns[Mark.WELCOMED] / NS_PER_MS)
        also = "" if record.outcome is Finding.OK else f", {record.outcome}"
        lines.append(_case(f"**welcomed after {length}**{also}", _session(record)))
    number = f"{len(records)} " if len(records) > 1 else ""
    return [f"## The {number}slowest that {'were' if number else 'was'} welcomed", "\n".join(lines)]


def _case(title: str, about: Sequence[str]) -> str:
    return "\n".join([f"- {title}", *(f"  - {line}" for line in about)])


def _session(record: Record) -> list[str]:
    """By what to find it, what its user saw, what the server's clock says."""
    agent = f"{_known(record.agent_identity)} ({_known(record.agent_sid)})" if record.agent_sid else NOT_KNOWN
    moments = [(mark.value, record.marks_ns[mark]) for mark in Mark if mark in record.marks_ns]
    if record.decided_ns:
        moments.append(("decided", record.decided_ns))
    seen = ", ".join(f"{name} {at_ns / NS_PER_MS:.1f}" for name, at_ns in moments) or "nothing"
    also = [name for name in record.findings if name != record.outcome]
    server = (
        ("dispatch stored", record.created_at_ns),
        ("job offered", record.started_at_ns),
        ("agent joined", record.joined_at_ns),
    )
    return [
        f"room {_code(record.room)} ({_known(record.room_sid)}), dispatch {_known(record.dispatch_id)}, "
        f"job {_known(record.job_id)}, agent worker {_known(record.worker_id)}, user "
        f"{_known(record.participant_sid)} (engine {record.engine}, region {record.region}), agent {agent}",
        f"planned start {iso(record.intended_wall_ns) or NOT_KNOWN}; from there in ms: {seen}"
        + (f"; also found: {', '.join(also)}" if also else ""),
        "server's clock: " + ", ".join(f"{name} {iso(at_ns) or NOT_KNOWN}" for name, at_ns in server),
    ]


def _checks(summary: Summary, kinds: Sequence[Kind], records: Sequence[Record]) -> list[str]:
    theirs = [kind for kind in kinds if fault_of(kind.outcome) is not Fault.OURS]
    lines = [
        f"{BUNDLE_FILE} holds the records of these sessions, all figures and what the run was asked for."
    ]
    if theirs:
        outcome = theirs[0].outcome
        lines.append(
            f"The ids of all sessions with {outcome}: `jq -r 'select(.findings.{outcome}) | [.room, "
            f".room_sid, .dispatch_id, .job_id, .worker_id] | @tsv' {RECORDS_FILE}`"
        )
    lines += [
        "`dispatch stored` is `created_at` of the dispatch's state and `job offered` is `started_at` of its "
        "job's state (ListDispatch, read after the last outcome); `agent joined` is `joined_at_ms` of its "
        "participant. All three are the server's clock.",
        "Rooms are deleted when their burst is over, so listings no longer show them; session history and "
        "logs have them by room name and sid.",
    ]
    if any(str(one.evidence.get("server", "")).startswith("open source") for one in records):
        lines.append(
            'Log lines of livekit-server to look for: "not dispatching agent job since no worker is '
            'available" (has the room), "failed to send job request", "no worker available to handle job".'
        )
    size = summary["settings"].get("users", "")
    options = _options(summary["settings"])
    command = f"locust -f locustfiles/burst.py --headless -u {size} -r {size} {options}"
    return [*lines, f"The same again: {_code(command)} ({RUN_FILE} has all settings)"]


def _options(settings: Mapping[str, str]) -> str:
    """The options that are not at their default, as on a command line."""
    given = [
        f"{option.flag} {shlex.quote(settings[option.name])}"
        for option in RUN_OPTIONS
        if _setting(settings, option.name) != option.default
    ]
    return " ".join(given)


def _setting(settings: Mapping[str, str], name: str) -> str:
    return settings.get(name, _DEFAULTS[name])


def _first(items: Sequence[str], shown: int) -> list[str]:
    """At most so many; the rest is counted."""
    rest = len(items) - shown
    return [*items[:shown], f"and {rest} more"] if rest > 0 else list(items)


def _known(value: str) -> str:
    return _short(value) or NOT_KNOWN


def _short(value: str, chars: int = MAX_TEXT) -> str:
    """Text of others, on one line."""
    line = " ".join(value.split())
    return line if len(line) <= chars else line[: chars - 1] + "…"


def _code(value: str) -> str:
    return f"`{' '.join(value.split()).replace('`', chr(39))}`" if value.strip() else NOT_KNOWN
