"""Whole bursts in which more than one agent comes, or the same one twice: told apart, with the evidence."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Finished

    Burst = Callable[..., Finished]

pytestmark = pytest.mark.real


def wish(fault: str, **times_ms: int) -> str:
    return json.dumps({"lk": {"fault": fault, **times_ms}})


def agents_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """As the record keeps them, by when they were seen."""
    return sorted(record["evidence"]["agents"], key=lambda agent: float(agent["seen_ms"]))


def test_an_agent_that_was_cut_off_and_came_back(burst: Burst) -> None:
    metadata = wish("cut", delay_ms=2000, back_ms=2000)
    done = burst(5, "--dispatch", "room", "--watch", "8", "--metadata", metadata)
    assert done.outcomes == {"agent_rejoined": 5}, done.stdout
    for record in done.records:
        first, second = agents_of(record)
        assert first["identity"] == second["identity"] == f"agent-{record['job_id']}"
        assert first["sid"] != second["sid"]
        assert first["worker_id"] == second["worker_id"] == record["worker_id"]
        assert 3900 < second["joined_ms"] - first["joined_ms"] < 6000
        print(record["findings"], record["evidence"]["agents"])
