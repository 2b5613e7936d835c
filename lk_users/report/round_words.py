"""The burst beside its baseline and its control, in words: is it the burst, or the load?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lk_users.course import Role
from lk_users.outcome import OURS, Finding, Verdict
from lk_users.record import Mark
from lk_users.report import words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lk_users.report.words import Summary

    Round = Mapping[str, Any]

# From here on one wait is said to be longer than another: p99 of two equal rounds differ by less.
LONGER: Final = 2.0
HEAD: Final = ("", "sessions", "ok", "agent in", "welcomed", "p99", "max")
NO_AGENT: Final = (Finding.NEVER_ASSIGNED, Finding.REJECTED, Finding.ASSIGNED_NOT_JOINED)


def alone_lines(summary: Summary) -> list[str]:
    """A baseline that the target failed: what no burst is needed for. Nothing where all is well."""
    lines = []
    for baseline in _compared(summary, Role.BASELINE):
        causes = {name: found for name, found in baseline["causes"].items() if name not in OURS}
        if not causes:
            continue
        outcome = Finding(next(iter(causes)))
        cause = next(iter(causes[outcome]))
        failed = sum(baseline["outcomes"][name] for name in causes)
        who = "a session" if baseline["recorded"] == 1 else f"{failed} of {baseline['recorded']} sessions"
        lines.append(
            f"Already alone, before the burst, {who} failed: {outcome}, {words.OUTCOMES[outcome]}. "
            f"Cause: {cause}. {_advice(outcome, summary)}"
        )
    return lines


def lines(summary: Summary) -> list[str]:
    """One sentence that sets them side by side; nothing where the burst is all that there is."""
    bursts, controls = _of_role(summary, Role.BURST), _of_role(summary, Role.CONTROL)
    baselines = [one for one in _compared(summary, Role.BASELINE) if not _failed(one)]
    if not bursts or not (baselines or controls):
        return []
    burst = _asked(summary, bursts)
    said = [*[_alone(one) for one in baselines], *[_waited(one) for one in controls], _waited(burst)]
    text = "; ".join(said)
    text = text[:1].upper() + text[1:]
    if summary["verdict"] == Verdict.VOID:
        return [f"{text}. The run is void, so nothing follows from that."]
    if controls:
        return [f"{text}{_by_control(burst, controls[0], baselines)}", *_uneven(controls[0], summary)]
    times = _times(_p99(burst), _p50(baselines[0]))
    asked = f" {_ask_for_control(burst)}" if times or _never(burst) else ""
    return [f"{text}{times}.{asked}"]


def rows(summary: Summary) -> list[tuple[str, ...]]:
    """A table's head and a row for each role; nothing where the burst is all that there is."""
    beside = [*_compared(summary, Role.BASELINE), *_compared(summary, Role.CONTROL)]
    bursts = _of_role(summary, Role.BURST)
    if not beside:
        return []
    asked = [_asked(summary, bursts)] if bursts else []
    before = [one for one in beside if one["role"] == Role.BASELINE]
    after = [one for one in beside if one["role"] != Role.BASELINE]
    return [HEAD, *(_row(one) for one in (*before, *asked, *after))]


def table_rows(summary: Summary) -> list[tuple[str, ...]]:
    """A table's head and a row for each round; nothing where there is only one."""
    if len(summary["rounds"]) < 2:
        return []
    head = ("round", "", "T0 (UTC)", *HEAD[1:], "start error p99")
    return [
        head,
        *(
            (
                str(one["round"]),
                f"{one['role']}: {how(one)}",
                one["t0"] or "not known",
                *_row(one)[1:],
                words.duration(one["start_error_ms"]["p99"]),
            )
            for one in summary["rounds"]
        ),
    ]


def how(one: Round) -> str:
    """How its sessions started."""
    if one["role"] == Role.BASELINE:
        return "alone" if one["users"] == 1 else "one by one"
    if one["spread_s"]:
        return f"spread over {one['spread_s']:g} s"
    if 0 < one["batch_size"] < one["users"]:
        return f"batches of {one['batch_size']} every {one['batch_delay_s']:g} s"
    return "at the same instant"


def _of_role(summary: Summary, role: Role) -> list[Round]:
    return [one for one in summary["rounds"] if one["role"] == role]


def _compared(summary: Summary, role: Role) -> list[Round]:
    """Those that a burst is set beside. In a search they only ask whether the target is idle."""
    return [] if words.search_section(summary) else _of_role(summary, role)


def _asked(summary: Summary, bursts: Sequence[Round]) -> Round:
    """What was asked for: of several bursts all sessions together."""
    return {
        **bursts[0],
        "recorded": summary["sessions"]["recorded"],
        "outcomes": summary["outcomes"],
        "marks": summary["marks"],
    }


def _row(one: Round) -> tuple[str, ...]:
    joined, welcomed = one["marks"][Mark.AGENT_JOINED], one["marks"][Mark.WELCOMED]
    return (
        how(one),
        str(one["recorded"]),
        str(one["outcomes"].get(Finding.OK, 0)),
        words.duration(joined["p50"]) if joined["n"] else "-",
        *(words.duration(welcomed[key]) if welcomed["n"] else "-" for key in ("p50", "p99", "max")),
    )


def _failed(one: Round) -> int:
    return int(one["recorded"] - one["outcomes"].get(Finding.OK, 0))


def _never(one: Round) -> int:
    return int(one["marks"][Mark.WELCOMED]["censored"])


def _p99(one: Round) -> float | None:
    """In ms; None where it is but the deadline of those that never were welcomed."""
    welcomed = one["marks"][Mark.WELCOMED]
    return welcomed["p99"] if _never(one) * 100 <= one["recorded"] and welcomed["n"] else None


def _p50(one: Round) -> float | None:
    return one["marks"][Mark.WELCOMED]["p50"]  # type: ignore[no-any-return]


def _alone(one: Round) -> str:
    if one["users"] == 1:
        return f"alone, a user is welcomed after {words.duration(_p50(one))}"
    return f"one by one, users are welcomed after {words.duration(_p50(one))} (p50 of {one['recorded']})"


def _waited(one: Round) -> str:
    never = f"{_never(one)} never welcomed" if _never(one) else ""
    p99 = _p99(one)
    waited = f"p99 {words.duration(p99)}" if p99 is not None else ""
    return f"{words.plural(one['recorded'], 'user')} {how(one)}: {', '.join(filter(None, (waited, never)))}"


def _times(longer: float | None, than: float | None) -> str:
    """``, 18 times as long``; nothing where it isn't."""
    if not longer or not than or longer < LONGER * than:
        return ""
    ratio = longer / than
    return f", {ratio:.1f} times as long" if ratio < 9.95 else f", {ratio:.0f} times as long"


def _by_control(burst: Round, control: Round, baselines: Sequence[Round]) -> str:
    """What follows of the comparison of equally many sessions."""
    more = _never(burst) - _never(control)
    times = _times(_p99(burst), _p99(control))
    if times or more * 100 > burst["recorded"]:
        return f"{times}: it is the burst, not the load."
    if _times(_p99(control), _p99(burst)):
        return ": the burst is not what makes them wait."
    alone = _p50(baselines[0]) if baselines else None
    if _times(_p99(control), alone) or _never(control) * 100 > control["recorded"]:
        return ": about as long spread out, so it is the load, not the burst."
    return ": about as long, so the burst does no harm." if alone else ": about as long, spread out or not."


def _uneven(control: Round, summary: Summary) -> list[str]:
    """A control that did not start as planned is a poor one."""
    error_ms = control["start_error_ms"]["p99"]
    limit_ms = float(summary["settings"].get("max-start-error") or 0.0)
    if error_ms is None or not limit_ms or error_ms <= limit_ms:
        return []
    return [
        f"The control's own requests left {words.duration(error_ms)} off their planned start (p99): it was "
        "not as even as it was to be."
    ]


def _ask_for_control(burst: Round) -> str:
    users = words.plural(burst["recorded"], "user")
    return f"Is it the burst or the load? `--control spread=60s` shows the same {users} spread out."


def _advice(outcome: Finding, summary: Summary) -> str:
    settings = summary["settings"]
    if outcome in NO_AGENT and summary["resolved"]["dispatch"] == "backend":
        return (
            "That is no burst's doing: check which agent your backend asks for, and that a worker of it runs."
        )
    if outcome in NO_AGENT:
        name = settings.get("agent-name")
        agent = f"--agent-name {name} is the agent's own name" if name else "an agent without a name is meant"
        return f"That is no burst's doing: check that {agent}, and that a worker of it runs."
    if outcome is Finding.WELCOME_MISSING:
        wanted = settings.get("welcome", "audio")
        return f"That is no burst's doing: does this agent do what --welcome {wanted} waits for?"
    return "That is no burst's doing: look into it first."
