"""Which job, which worker, which agent: the rules for sessions in which more than one came. Pure.

One dispatch is one job, and one job is one agent in the room. What can be otherwise:

- ``duplicate_agent``: two of the named agent at once, under different identities, for one dispatch;
- ``job_retried``: one job that two workers had. Reads of the API show it where its worker or the moment of
  its offer changed between them; one late read shows it where the job was offered after an agent of it had
  joined already;
- ``agent_rejoined``: an agent that came again under its identity, of a job that was offered once;
- ``double_dispatch``: the room was asked for the agent twice, so that two agents are what was asked for.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.outcome import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lk_users.evidence import DispatchView, JobView, Observation, Offer, ServerView, Sighting

# Offer and join are stamped by different nodes of a cluster: less than this may be their clocks.
NODES_APART_NS = NS_PER_S


def several(seen: Observation, view: ServerView | None) -> dict[Finding, str]:
    """The findings of this file with their causes, which name ids and moments."""
    found: dict[Finding, str] = {}
    asked = _asked(seen, view)
    if len(asked) > 1:
        why = ": our request went out again after its connection was cut" if seen.rearmed else ""
        ids = " and ".join(dispatch.dispatch_id for dispatch in asked)
        found[Finding.DOUBLE_DISPATCH] = f"{ids} both ask for {seen.agent_name or 'the unnamed agent'}{why}"
    for first, second in itertools.combinations(seen.named, 2):
        if first.identity == second.identity:
            found[Finding.AGENT_REJOINED] = _came_back(seen, view, first, second)
        elif first.overlaps(second) and not _asked_for_both(seen, view, first, second):
            found[Finding.DUPLICATE_AGENT] = (
                f"{_entry(seen, view, first)} and {_entry(seen, view, second)}, both there at once"
            )
    retried = _retried(seen, view)
    if retried:
        found[Finding.JOB_RETRIED] = retried
        found.pop(Finding.AGENT_REJOINED, None)
    return found


def started_at_ns(seen: Observation, view: ServerView | None, job: JobView) -> int:
    """When the job was offered to the worker whose agent came first (server clock); 0: not known.

    The API shows the last offer; where a later agent came of it, it tells nothing of the first one's way.
    """
    joined_ns = seen.named[0].joined_at_ms * NS_PER_MS if seen.named else 0
    offers = view.offers_of(job.job_id) if view is not None else ()
    if not joined_ns or not offers:
        return job.started_at_ns
    return max(
        (o.started_at_ns for o in offers if o.started_at_ns <= joined_ns + NODES_APART_NS), default=0
    )  # fmt: skip


def evidence(seen: Observation, view: ServerView | None) -> dict[str, Any]:
    """What the record keeps, times in ms from the intended start: ``agents`` where more than one was seen or
    one went, ``offers`` where a job was offered more than once or there was more than one, and
    ``listed_agents`` where the API lists one that the user did not see."""
    facts: dict[str, Any] = {}
    if len(seen.sightings) > 1 or any(item.gone_ns is not None for item in seen.sightings):
        facts["agents"] = [_agent_facts(seen, view, item) for item in seen.sightings]
    offers = view.offers if view is not None else ()
    if len(offers) > 1:
        facts["offers"] = [
            {
                "dispatch_id": offer.dispatch_id,
                "job_id": offer.job_id,
                "worker_id": offer.worker_id,
                "started_ms": _ms(seen.placed_ns(offer.started_at_ns)),
            }
            for offer in offers
        ]
    known = {item.sid for item in seen.sightings}
    listed = [item for item in (view and view.participants) or () if item.agent and item.sid not in known]
    if listed:
        facts["listed_agents"] = [
            {
                "sid": item.sid,
                "identity": item.identity,
                "named": item.is_named(seen.agent_name),
                "state": item.state,
                "joined_ms": _ms(seen.placed_ns(item.joined_at_ms * NS_PER_MS)),
                "region": item.region,
            }
            for item in listed
        ]
    return facts


def _agent_facts(seen: Observation, view: ServerView | None, item: Sighting) -> dict[str, Any]:
    job = _job_of(seen, view, item)
    return {
        "sid": item.sid,
        "identity": item.identity,
        "named": item.named,
        "job_id": job.job_id if job is not None else "",
        "worker_id": _worker_of(seen, view, job, item),
        "seen_ms": _ms(item.seen_ns),
        "joined_ms": _ms(seen.placed_ns(item.joined_at_ms * NS_PER_MS)),
        "gone_ms": _ms(item.gone_ns),
        "gone_reason": item.gone_reason,
        "replaced_by": item.replaced_by,
    }


def _asked(seen: Observation, view: ServerView | None) -> list[DispatchView]:
    """The dispatches that ask for our agent."""
    return [item for item in view.dispatches if item.asks_for(seen.agent_name)] if view is not None else []


def _job_of(seen: Observation, view: ServerView | None, agent: Sighting) -> JobView | None:
    """The job that an agent is of: by its identity, or where there is but one."""
    jobs = [job for dispatch in _asked(seen, view) for job in dispatch.jobs]
    for job in jobs:
        if agent.identity in (job.participant_identity, f"agent-{job.job_id}"):
            return job
    return jobs[0] if len(jobs) == 1 and agent.named else None


def _asked_for_both(seen: Observation, view: ServerView | None, first: Sighting, second: Sighting) -> bool:
    """Is each of the two what a dispatch of its own asked for?"""
    asked = _asked(seen, view)
    if len(asked) < 2:
        return False
    jobs = [_job_of(seen, view, agent) for agent in (first, second)]
    owners = [next((d.dispatch_id for d in asked if job in d.jobs), "") if job else "" for job in jobs]
    if all(owners):
        return owners[0] != owners[1]
    return len({agent.identity for agent in seen.named}) <= len(asked)


def _retried(seen: Observation, view: ServerView | None) -> str:
    """Which job two workers had, and when; empty if none had."""
    for dispatch in _asked(seen, view):
        for job in dispatch.jobs:
            agents = [agent for agent in seen.named if _job_of(seen, view, agent) == job]
            offers = view.offers_of(job.job_id) if view is not None else ()
            if len({offer.worker_id for offer in offers}) > 1 or _offered_after(agents, offers):
                return _two_workers(seen, view, job, agents, offers)
    return ""


def _offered_after(agents: Sequence[Sighting], offers: Sequence[Offer]) -> bool:
    """Was the job offered although an agent of it had joined before?"""
    joined_ns = [agent.joined_at_ms * NS_PER_MS for agent in agents if agent.joined_at_ms]
    last_ns = max((offer.started_at_ns for offer in offers), default=0)
    return bool(joined_ns) and last_ns > min(joined_ns) + NODES_APART_NS


def _two_workers(
    seen: Observation,
    view: ServerView | None,
    job: JobView,
    agents: Sequence[Sighting],
    offers: Sequence[Offer],
) -> str:
    if len(agents) > 1:
        return f"job {job.job_id} entered " + " and ".join(
            f"at {_at(seen, agent)} on {_worker_of(seen, view, job, agent) or 'a worker not known any more'} "
            f"({agent.sid}{_went(agent)})"
            for agent in agents
        )
    given = " and ".join(
        f"to {offer.worker_id} at {_seconds(seen.placed_ns(offer.started_at_ns))}" for offer in offers
    )
    return f"job {job.job_id} was given {given}" + "".join(
        f"; its agent {agent.sid} entered at {_at(seen, agent)}{_went(agent)}" for agent in agents
    )


def _worker_of(seen: Observation, view: ServerView | None, job: JobView | None, agent: Sighting) -> str:
    """The worker that had the job when this agent of it joined; empty where no read says."""
    if job is None or view is None:
        return ""
    offers = view.offers_of(job.job_id)
    joined_ns = agent.joined_at_ms * NS_PER_MS
    if not joined_ns and seen.intended_server_ns:
        joined_ns = seen.intended_server_ns + agent.seen_ns
    if not joined_ns:
        return offers[0].worker_id if len({offer.worker_id for offer in offers}) == 1 else ""
    before = [offer.worker_id for offer in offers if offer.started_at_ns <= joined_ns + NODES_APART_NS]
    return before[-1] if before else ""


def _came_back(seen: Observation, view: ServerView | None, first: Sighting, second: Sighting) -> str:
    job = _job_of(seen, view, second)
    worker = _worker_of(seen, view, job, second)
    same = f"; job {job.job_id} is still the one of {worker}" if job is not None and worker else ""
    return (
        f"{first.identity} entered at {_at(seen, first)} ({first.sid}{_went(first)}) and came back at "
        f"{_at(seen, second)} ({second.sid}){same}"
    )


def _entry(seen: Observation, view: ServerView | None, agent: Sighting) -> str:
    job = _job_of(seen, view, agent)
    worker = _worker_of(seen, view, job, agent)
    of_job = f" of job {job.job_id}" if job is not None else ""
    on = f" on {worker}" if worker else ""
    return f"{agent.identity}{of_job} entered at {_at(seen, agent)}{on} ({agent.sid}{_went(agent)})"


def _went(agent: Sighting) -> str:
    if agent.gone_ns is None:
        return ""
    if agent.replaced_by:
        return f", replaced at {_seconds(agent.gone_ns)}: {agent.gone_reason}"
    return f", gone at {_seconds(agent.gone_ns)}: {agent.gone_reason}"


def _at(seen: Observation, agent: Sighting) -> str:
    """When it joined by the server's clock, and never after it was seen."""
    joined_ns = seen.placed_ns(agent.joined_at_ms * NS_PER_MS)
    return _seconds(agent.seen_ns if joined_ns is None else min(joined_ns, agent.seen_ns))


def _seconds(moment_ns: int | None) -> str:
    return "a moment not known" if moment_ns is None else f"{moment_ns / NS_PER_S:.2f} s"


def _ms(moment_ns: int | None) -> float | None:
    return None if moment_ns is None else round(moment_ns / NS_PER_MS, 3)
