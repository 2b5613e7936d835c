"""The agent's workers in words: who took no jobs, and what the workers said of their load meanwhile."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from lk_users.outcome import Finding
from lk_users.report import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lk_users.report.words import Summary

# livekit-agents' own `load_threshold` of a worker that runs as in production (its worker.py).
DEFAULT_THRESHOLD: Final = 0.7
WORKERS_SHOWN: Final = 3
ANSWERED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "api": ", although CreateDispatch answered 200 for each",
        "room": ", although CreateRoom answered 200 for each",
    }
)


def lines(summary: Summary) -> list[str]:
    """Nothing where every job was taken and every worker answered."""
    workers = summary["agent_workers"]
    never = summary["outcomes"].get(Finding.NEVER_ASSIGNED, 0)
    return [
        *(_untaken(summary, never) if never else ()),
        *_up_to([_load_line(worker) for worker in workers if never and worker["load"]["max"] is not None]),
        *_up_to([*_unreached(workers), *_strangers(summary)]),
    ]


def rows(summary: Summary) -> list[tuple[str, ...]]:
    """A table's head and one row a worker; nothing where no worker was asked."""
    if not summary["agent_workers"]:
        return []
    head = (
        "agent worker",
        "agent",
        "livekit-agents",
        "samples",
        "not reached",
        "load p50",
        "max",
        "jobs max",
    )
    return [head, *(_row(worker) for worker in summary["agent_workers"])]


def _untaken(summary: Summary, never: int) -> list[str]:
    verb = "was" if never == 1 else "were"
    answered = ANSWERED.get(summary["resolved"]["dispatch"], "")
    recorded = summary["sessions"]["recorded"]
    if words.lacks_key(summary):
        line = f"No agent came to {never} of {words.plural(recorded, 'user')}; their jobs are not known."
    else:
        line = (
            f"{never} of {words.plural(recorded, 'job')} {verb} taken by no agent worker "
            f"(never_assigned){answered}."
        )
    if not summary["agent_workers"]:
        line += " `--agent-worker-url` shows the workers' load: livekit-agents refuses jobs when it is high."
    return [line]


def _load_line(worker: Mapping[str, Any]) -> str:
    load, limit = worker["load"]["max"], f"livekit-agents' default limit of {DEFAULT_THRESHOLD}"
    jobs = words.plural(worker["active_jobs"]["max"], "job")
    said = f"The worker at {worker['url']} reported a load of up to {load:.2f} and up to {jobs}"
    if load >= DEFAULT_THRESHOLD:
        return f"{said}: {limit} was reached, from which on it takes no more."
    return f"{said}: below {limit}, but a worker also counts jobs that it accepted and has not started yet."


def _unreached(workers: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"The worker at {worker['url']} did not tell its load in {worker['unreachable']} of "
        f"{words.plural(worker['samples'], 'sample')} ({worker['error']})."
        for worker in workers
        if worker["unreachable"]
    ]


def _strangers(summary: Summary) -> list[str]:
    agent_name = summary["settings"].get("agent-name", "")
    if not agent_name and summary["resolved"]["dispatch"] == "backend":
        # Whose agent comes is the backend's business.
        return []
    return [
        f"The worker at {worker['url']} serves {_named(worker['agent_name'])}, not {_named(agent_name)}: its "
        "load says nothing about this run."
        for worker in summary["agent_workers"]
        if worker["agent_name"] not in (None, agent_name)
    ]


def _named(agent_name: str) -> str:
    return f"agent {agent_name}" if agent_name else "the unnamed agent"


def _up_to(found: Sequence[str]) -> Iterable[str]:
    rest = len(found) - WORKERS_SHOWN
    more = [f"And so for {words.plural(rest, 'other worker')}."] if rest > 0 else []
    return [*found[:WORKERS_SHOWN], *more]


def _row(worker: Mapping[str, Any]) -> tuple[str, ...]:
    load, jobs = worker["load"], worker["active_jobs"]["max"]
    return (
        worker["url"],
        worker["agent_name"] or "-",
        worker["sdk_version"] or "-",
        str(worker["samples"]),
        str(worker["unreachable"]),
        *("-" if load[key] is None else f"{load[key]:.2f}" for key in ("p50", "max")),
        "-" if jobs is None else str(jobs),
    )
