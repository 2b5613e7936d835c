"""What an agent's worker says of itself over HTTP, sampled while a burst runs. Frozen values, no network.

A worker on livekit-agents answers ``GET /worker`` with the JSON of ``livekit.protocol.agent_worker``'s
WorkerInfo, which leaves out what is zero or empty.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lk_users.stats import percentile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NOT_A_WORKER: Final = "no answer of livekit-agents"


@dataclass(frozen=True, kw_only=True)
class AgentWorkerSample:
    """One look at one worker. ``wall_ns``: Unix time; ``error``: why it told nothing, empty if it did."""

    wall_ns: int
    url: str
    agent_name: str = ""
    sdk_version: str = ""
    load: float = 0.0
    """Of its machine, 0 to 1, as the worker averages it (livekit-agents: CPU, over 2.5 s)."""
    active_jobs: int = 0
    error: str = ""


def sample_of(wall_ns: int, url: str, body: bytes) -> AgentWorkerSample:
    """From the answer's body; a sample with an error where that is none of a worker's."""
    try:
        told = json.loads(body)
        load = float(told.get("worker_load", 0.0))
        if not math.isfinite(load):
            raise ValueError
        return AgentWorkerSample(
            wall_ns=wall_ns,
            url=url,
            agent_name=str(told.get("agent_name", "")),
            # Every version that has the endpoint fills it.
            sdk_version=str(told["sdk_version"]),
            load=round(load, 4),
            active_jobs=int(told.get("active_jobs", 0)),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return AgentWorkerSample(wall_ns=wall_ns, url=url, error=NOT_A_WORKER)


def fold(urls: Sequence[str], samples: Iterable[AgentWorkerSample]) -> list[dict[str, Any]]:
    """What each worker said in a run, for ``summary.json``; figures are None of one that told nothing."""
    by_url: dict[str, list[AgentWorkerSample]] = {url: [] for url in urls}
    for sample in samples:
        by_url.setdefault(sample.url, []).append(sample)
    return [{"url": url, **_figures(found)} for url, found in by_url.items()]


def _figures(samples: Sequence[AgentWorkerSample]) -> dict[str, Any]:
    told = [sample for sample in samples if not sample.error]
    loads = sorted(sample.load for sample in told)
    errors = Counter(sample.error for sample in samples if sample.error)
    return {
        "agent_name": told[-1].agent_name if told else None,
        "sdk_version": told[-1].sdk_version if told else None,
        "samples": len(samples),
        "load": {"p50": percentile(loads, 50), "max": percentile(loads, 100)},
        "active_jobs": {"max": max((sample.active_jobs for sample in told), default=None)},
        "unreachable": errors.total(),
        "error": max(sorted(errors), key=errors.__getitem__, default=""),
    }
