"""The summary in words, for people who never saw this program: short sentences, one a line."""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from lk_users.outcome import Fault, Finding, Verdict, fault_of
from lk_users.record import Phase
from lk_users.report.cases import cause_class
from lk_users.report.figures import worst_lag
from lk_users.sinks.outbox import SINK, SPOOL_DIR

if TYPE_CHECKING:
    from collections.abc import Mapping

    Summary = Mapping[str, Any]

CAUSES_SHOWN: Final = 3
# Below it the "bottleneck" is a crumb of a wait for something that never came.
EXPLAINS_SHARE: Final = 0.1
NEXT_SHARE: Final = 0.05
SLOWEST_WORTH_IT: Final = 3
# The findings by which an agent's entrypoint ran more than once for a user.
RAN_TWICE: Final = (Finding.JOB_RETRIED, Finding.DUPLICATE_AGENT)
LATE_AGENT_MS: Final = 1000.0
AUDIO_SHOWN: Final = 5
# The two lower ones of LiveKit's four connection qualities.
BAD_QUALITIES: Final = ("lost", "poor")

PHASES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        Phase.SESSION_API: (
            "the answer of your own backend",
            "from writing the request to its answer",
        ),
        Phase.DISPATCH_API: ("the answer to the dispatch request", "from writing the request to its answer"),
        Phase.USER_JOIN: ("the user's own way into the room", "from writing the join to being in the room"),
        Phase.MEDIA_SETUP: ("setting up media", "from being in the room to the media connection being up"),
        Phase.SERVER_QUEUE: (
            "the server's queue",
            "from storing the dispatch to offering the job to the worker that took it",
        ),
        Phase.ACCEPT_TO_JOIN: ("the agent's way into the room", "from the offer of the job to its join"),
        Phase.AGENT_START: ("the agent's start", "from its join to its audio track"),
        Phase.SPEAK: ("the agent's first words", "from its audio track to the first that was heard or read"),
    }
)

OUTCOMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        Finding.GENERATOR_LOST: "the worker that ran them died or sent no record",
        Finding.ENGINE_CRASHED: "the generator's own engine crashed under them",
        Finding.CANCELLED: "the run was stopped before their outcome",
        Finding.CLIENT_BLIND: "the server lists the agent in the room, and the user did not see it",
        Finding.MEDIA_FAILED: "in the room, and the media connection never came up",
        Finding.DISPATCH_UNCLEAR: "the dispatch request timed out or failed, and yet there was a job",
        Finding.RATE_LIMITED: "the request was refused for its rate limit (HTTP 429)",
        Finding.SESSION_FAILED: "your own backend gave nothing to join with",
        Finding.DISPATCH_FAILED: "the dispatch request was refused, failed or never answered",
        Finding.CONNECT_FAILED: "the user's first try to join failed; an SDK would have tried again",
        Finding.USER_DROPPED: "the server sent the user away",
        Finding.CONNECTION_LOST: "the user's connection to the server was cut",
        Finding.ROOM_CLOSED: "the room was closed under the user",
        Finding.NEVER_ASSIGNED: "no agent worker got the job",
        Finding.REJECTED: "an agent worker declined the job",
        Finding.ASSIGNED_NOT_JOINED: "an agent worker took the job, and no agent came",
        Finding.DUPLICATE_AGENT: "two of the agent were in one room",
        Finding.JOB_RETRIED: "the job was given to a second worker",
        Finding.AGENT_REJOINED: "the agent left and came back",
        Finding.AGENT_LEFT: "the agent went away",
        Finding.AGENT_ENDED: "the agent's job was shut down on purpose",
        Finding.WELCOME_MISSING: "the agent came, and its welcome did not",
        Finding.WELCOME_CLIPPED: "the beginning of the welcome could not be heard",
        Finding.WELCOME_LATE: "the welcome came after --welcome-timeout",
        Finding.WELCOME_TWICE: "two participants spoke a welcome",
    }
)

FAULTS: Final[Mapping[Fault, str]] = MappingProxyType(
    {
        Fault.OURS: "the generator's doing",
        Fault.OPEN: "open whose doing",
        Fault.THEIRS: "the target's doing",
    }
)


def duration(ms: float | None) -> str:
    """In a unit that fits: 0.4 ms, 9.8 ms, 210 ms, 1.25 s, 18.2 s, 120 s; a dash for None."""
    if ms is None:
        return "-"
    if ms < 9.95:
        return f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    return f"{seconds:.1f} s" if seconds < 99.95 else f"{seconds:.0f} s"


def percent(share: float | None) -> str:
    """A share of 1 as whole percent, never rounded to nothing or to all; a dash for None."""
    if share is None:
        return "-"
    if 0 < share < 0.01:
        return "under 1 %"
    if 0.99 < share < 1:
        return "over 99 %"
    return f"{100 * share:.0f} %"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def headline(summary: Summary) -> str:
    """The verdict and what it means, in one line. A pass says what its SLOs let through."""
    verdict, slos = summary["verdict"], summary["slo"]
    search = search_section(summary)
    if search and verdict != Verdict.VOID:
        return f"{verdict}: {search['text']} (exit code {summary['exit_code']})"
    missed = sum(not slo["ok"] for slo in slos)
    meaning = {
        Verdict.PASS: f"every SLO was met{_let_through(summary)}",
        Verdict.SLO_FAILED: f"{missed} of {plural(len(slos), 'SLO')} missed",
        Verdict.VOID: "this run says nothing reliable about the target",
    }[Verdict(verdict)]
    return f"{verdict}: {meaning} (exit code {summary['exit_code']})"


def search_section(summary: Summary) -> Mapping[str, Any] | None:
    """``ladder`` or ``batch_search``; None where the run was no search for a limit."""
    return summary.get("ladder") or summary.get("batch_search")


def _let_through(summary: Summary) -> str:
    """Welcomes that came, but not as they should: the default SLOs ask only whether they came."""
    found = summary["findings"]
    flaws = (
        (Finding.WELCOME_LATE, "came later than --welcome-timeout"),
        (Finding.WELCOME_CLIPPED, "could not be heard from the beginning"),
        (Finding.WELCOME_TWICE, "came twice"),
    )
    told = [f"{plural(found[name], 'welcome')} {what}" for name, what in flaws if found.get(name)]
    return f", BUT {', '.join(told)}" if told else ""


def slo_value(slo: Mapping[str, Any]) -> str:
    """What an SLO came to, in its own unit."""
    value = slo["value"]
    if value is None:
        return str(slo["missing"])
    where = f" in {slo['worst']}" if slo["worst"] else ""
    if slo["never"]:
        return f"never within {duration(value)}{where}"
    about = f"{slo['bound']} " if slo["bound"] else ""
    if slo["unit"] == "count":
        return f"{about}{value:g}{where}"
    if slo["unit"] == "share":
        return f"{about}{100 * value:.6g} %{where}"
    part = slo["samples"] < slo["sessions"]
    had = f", over the {slo['samples']} of {slo['sessions']} sessions that have it" if part else ""
    lacks = f", not known of {slo['unknown']} of {slo['samples']} sessions" if slo["unknown"] else ""
    return f"{about}{duration(value)}{where}{lacks or had}"


def slo_was(slo: Mapping[str, Any]) -> str:
    """The same, as it stands behind an SLO."""
    return slo_value(slo) if slo["value"] is None else f"was {slo_value(slo)}"


def slo_state(slo: Mapping[str, Any]) -> str:
    if slo["value"] is None:
        return "no data"
    return "met" if slo["ok"] else "missed"


def anew_line(summary: Summary) -> str:
    """Where the SLOs are not the run's own; empty where they are."""
    if not summary["judged_anew"]:
        return ""
    own = summary["resolved"]["slo"]
    return (
        "Judged anew by the SLOs that were given to `lk-users report`. The run's own, by which "
        f"`lk-users report RUN_DIR` judges it again: `{own}`."
    )


def session_line(summary: Summary) -> str:
    sessions, groups = summary["sessions"], summary["groups"]
    ok = summary["outcomes"].get(Finding.OK, 0)
    text = f"{sessions['recorded']} of {plural(sessions['intended'], 'intended session')} recorded, {ok} ok"
    if groups["lost"]:
        text += f", {groups['lost']} without a welcome"
    return text + "."


def failure_lines(summary: Summary) -> list[str]:
    """One line for each outcome that is not ok: how many, whose doing, what it means, the kinds of cause."""
    lines = []
    for name, causes in summary["causes"].items():
        outcome = Finding(name)
        kinds: Counter[str] = Counter()
        for cause, count in causes.items():
            kinds[cause_class(cause)] += count
        ranked = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
        shown = [f"{cause} ({count})" for cause, count in ranked[:CAUSES_SHOWN]]
        rest = len(kinds) - len(shown)
        if rest:
            shown.append(f"and {plural(rest, 'other cause')}")
        count = summary["outcomes"][name]
        lines.append(
            f"{count} {name} ({FAULTS[fault_of(outcome)]}): {meaning(outcome, summary)}. "
            f"Cause: {', '.join(shown)}."
        )
    uncounted = summary["sessions"]["uncounted"]
    if uncounted:
        lines.append(
            f"{plural(uncounted, 'session')} had no outcome yet when the run was stopped: normal with "
            "--release free, and in no figure or SLO."
        )
    return lines


def lacks_key(summary: Summary) -> bool:
    """Were tokens a backend's, and the API not asked for want of a key?"""
    return summary["backend"] is not None and not summary["backend"]["api_key"]


def meaning(outcome: Finding, summary: Summary) -> str:
    """What an outcome means, as far as it is known in this run."""
    if outcome is Finding.NEVER_ASSIGNED and lacks_key(summary):
        return "no agent came; what became of the job is not known"
    return OUTCOMES[outcome]


def twice_lines(summary: Summary) -> list[str]:
    """Which job came twice, when and where, and what to do about it."""
    twice = [item for item in summary["entered_twice"] if item["finding"] in RAN_TWICE]
    if not twice:
        return []
    first = twice[0]
    cause = str(first["cause"])
    more = f" So in {plural(len(twice) - 1, 'more session')}." if len(twice) > 1 else ""
    return [f"{cause[:1].upper()}{cause[1:]}: make the entrypoint idempotent per job id.{more}"]


def time_lines(summary: Summary) -> list[str]:
    """Where the time went."""
    return [
        *_bottleneck_lines(summary),
        *_slowest_lines(summary),
        *_ghost_lines(summary),
        *_late_lines(summary),
    ]


def clock_line(summary: Summary) -> str:
    """How well the server's stamps can be placed among the users' marks; empty where there were none."""
    clock = summary["server_clock"]
    if clock is None:
        return ""
    text = f"Server's clock known to ±{duration(clock['uncertainty_ms'])} from {clock['brackets']} brackets"
    if clock["nodes_apart_ms"]:
        text += (
            f"; the clocks of its {clock['nodes']} nodes differ by {duration(clock['nodes_apart_ms'])} or "
            "more, so phases between nodes can be off by that"
        )
    if clock["apart"]:
        text += f"; {clock['apart']} of them do not agree with the others of their node"
    if clock["contradicted"]:
        text += f"; {clock['contradicted']} of {plural(clock['compared'], 'session')} contradict it"
    elif clock["compared"]:
        text += f", and no session of {clock['compared']} contradicts it"
    return text + "."


def burst_line(summary: Summary) -> str:
    """How true the burst was."""
    error, resolved = summary["start_error_ms"], summary["resolved"]
    if not error["n"]:
        return "No request left."
    what = "request" if resolved["release"] == "barrier" else "first request"
    to = "T0" if resolved["release"] == "barrier" and not resolved["batches"] else "their planned start"
    return (
        f"{plural(error['n'], what)} left within {duration(error['p99'])} of {to} (p99), "
        f"max {duration(error['max'])}."
    )


def health_line(summary: Summary) -> str:
    """How well the generator was."""
    workers = summary["workers"]
    lag = worst_lag(workers)
    text = f"Generator of {plural(len(workers), 'worker')}: "
    if lag is None:
        return text + "nothing is known about its lag."
    text += f"loop lag p95 {duration(lag['p95'])}, longest stall {duration(lag['max'])}"
    cpu_s = [worker["cpu_s"] for worker in workers if worker["cpu_s"] is not None]
    sessions = sum(worker["sessions"] for worker in workers if worker["cpu_s"] is not None)
    if sum(cpu_s) and sessions:
        text += f", CPU {duration(1000 * sum(cpu_s))} ({duration(1000 * sum(cpu_s) / sessions)} a session)"
    clocks = [worker["clock_uncertainty_ms"] for worker in workers if worker["clock_uncertainty_ms"]]
    return text + (f", clocks known to ±{duration(max(clocks))}." if clocks else ".")


def trust_lines(summary: Summary) -> list[str]:
    """How far to trust it."""
    lines = (burst_line(summary), health_line(summary), clock_line(summary))
    return [line for line in lines if line]


def sink_lines(summary: Summary) -> list[str]:
    """What InfluxDB did not get by the end of the run."""
    account = summary["sinks"].get(SINK)
    if not account:
        return []
    lines = []
    if spooled := account["spooled"]:
        lines.append(
            f"{plural(spooled, 'point')} could not be written to InfluxDB ({account['why']}) and "
            f"{'lies' if spooled == 1 else 'lie'} in {SPOOL_DIR}/: `lk-users replay RUN_DIR` sends "
            f"{'it' if spooled == 1 else 'them'}."
        )
    if dropped := account["dropped"]:
        causes = ", ".join(f"{cause} ({count})" for cause, count in dropped.items())
        lines.append(
            f"{plural(sum(dropped.values()), 'point')} for InfluxDB "
            f"{'was' if sum(dropped.values()) == 1 else 'were'} dropped: {causes}. "
            "`lk-users replay RUN_DIR` makes those of sessions anew, from the records."
        )
    return lines


def audio_lines(summary: Summary) -> list[str]:
    """Where the sound of failed sessions is kept."""
    files = summary["audio"]
    if not files:
        return []
    sessions = plural(len(files), "failed session")
    shown = [f"`{item['file']}` ({item['outcome']}, worker {item['worker']})" for item in files[:AUDIO_SHOWN]]
    rest = [f"and {len(files) - AUDIO_SHOWN} more"] if len(files) > AUDIO_SHOWN else []
    return [
        f"What {sessions} received is kept as sound (of a welcome that was heard, its first frames), in "
        f"the run folder on the worker's machine: {', '.join([*shown, *rest])}."
    ]


def user_lines(summary: Summary) -> list[str]:
    """What a reader has to know of the users' own side."""
    section = summary["users"]
    lines = _microphone_lines(section)
    bad = [(name, section["worst_quality"].get(name, 0)) for name in BAD_QUALITIES]
    if any(count for _, count in bad):
        scored = " and ".join(f"{name} for {plural(count, 'user')}" for name, count in bad if count)
        lines.append(
            f"The server scored connections as {scored} at some time: their network, or the generator."
        )
    if section["ice"].keys() - {"host"}:
        lines.append(way_line(summary))
    return lines


def _microphone_lines(section: Mapping[str, Any]) -> list[str]:
    """What was published decides, not what was asked for."""
    published, unpublished = section["published"], section["unpublished"]
    overstated = "so what they can bear is overstated"
    if section["mic"] == "none":
        if published:
            return [f"{plural(published, 'user')} published a microphone in spite of --mic none."]
        return [f"The users had no microphone (--mic none): agents had nothing to listen to, {overstated}."]
    if not unpublished:
        return []
    return [
        f"{unpublished} of {plural(published + unpublished, 'user')} with media published no microphone, "
        f"although --mic {section['mic']} asked for one: agents had nothing to listen to there, {overstated}."
    ]


def way_line(summary: Summary) -> str:
    """How media got to the users."""
    ways = ", ".join(f"{way} {count}" for way, count in summary["users"]["ice"].items()) or "none"
    rtt = summary["users"]["rtt_ms"]
    trip = f", round trip p50 {duration(rtt['p50'])}, max {duration(rtt['max'])}" if rtt["n"] else ""
    return f"Media of the users by candidate type: {ways}{trip}."


def _bottleneck_lines(summary: Summary) -> list[str]:
    bottleneck, phases = summary["bottleneck"], summary["phases"]
    if bottleneck is None:
        if not any(phase["n"] for phase in phases.values()):
            return ["No phase of any session came to its end, so there is no telling where the time went."]
        return ["No phase is to blame: each was shorter than the generator's own lag while it ran."]
    name, share = bottleneck["phase"], bottleneck["share"]
    place, span = PHASES[name]
    if share < EXPLAINS_SHARE:
        line = (
            f"No phase that came to its end explains the wait: the largest, {name} ({span}), is "
            f"{percent(share)} of it."
        )
        if summary["marks"]["agent_seen"]["n"] and not phases[Phase.SERVER_QUEUE]["n"]:
            line += " When the server offered the jobs is not known: it was not asked, or did not say."
        return [line]
    lines = [
        f"{percent(share)} of the wait was in {place} ({name}: {span}), p50 {duration(phases[name]['p50'])}, "
        f"p99 {duration(phases[name]['p99'])}."
    ]
    others = sorted(
        ((phase["share"], other) for other, phase in phases.items() if other != name and phase["share"]),
        reverse=True,
    )
    shown = [f"{other} {percent(part)}" for part, other in others[:2] if part >= NEXT_SHARE]
    return [*lines, f"Next: {', '.join(shown)} (phases can overlap)."] if shown else lines


def _slowest_lines(summary: Summary) -> list[str]:
    """Worth a sentence where the slowest waited for something else, or for more of the same."""
    slowest, overall = summary["bottleneck_slowest_tenth"], summary["bottleneck"]
    if slowest is None or slowest["share"] < EXPLAINS_SHARE or slowest["sessions"] < SLOWEST_WORTH_IT:
        return []
    name = slowest["phase"]
    also = ", too" if overall is not None and overall["phase"] == name else ""
    return [
        f"In the slowest tenth ({plural(slowest['sessions'], 'session')}) {percent(slowest['share'])} of the "
        f"wait was in {PHASES[name][0]} ({name}){also}."
    ]


def _ghost_lines(summary: Summary) -> list[str]:
    ghosts, recorded = summary["findings"].get(Finding.GHOST_DISPATCH, 0), summary["sessions"]["recorded"]
    if not ghosts:
        return []
    rooms = f"Each of {recorded} rooms" if ghosts == recorded else f"{ghosts} of {recorded} rooms"
    line = (
        f"{rooms} also asked for an unnamed agent that no worker serves: such a request blocks a slot of "
        "the server for about 1 s."
    )
    if summary["resolved"]["dispatch"] == "api":
        line += " `--dispatch room` or `--dispatch token` avoids it."
    return [line]


def _late_lines(summary: Summary) -> list[str]:
    """A dispatch that was answered says nothing about the agent: worth saying where the two differ."""
    answer, joined = summary["phases"][Phase.DISPATCH_API], summary["marks"]["agent_joined"]
    outcomes = summary["outcomes"]
    without = sum(
        outcomes.get(name, 0)
        for name in (Finding.NEVER_ASSIGNED, Finding.REJECTED, Finding.ASSIGNED_NOT_JOINED)
    )
    if not answer["n"]:
        return []
    late = joined["n"] > 0 and joined["p50"] > max(LATE_AGENT_MS, 10 * answer["p99"])
    if not without and not late:
        return []
    then = []
    if late:
        then.append(f"half of the agents took {duration(joined['p50'])} or more")
    if without:
        then.append(f"{plural(without, 'user')} got no agent at all")
    return [
        f"Dispatch requests were answered within {duration(answer['p99'])} (p99), and yet "
        f"{' and '.join(then)}: HTTP 200 says that the request was stored, not that a worker took it."
    ]
