"""Bursts against a real livekit-agents agent: it is heard, and jobs that it refuses are called by name."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from conftest import ROOT, free_port

from lk_users.errors import StackError
from lk_users.local import real_agent
from lk_users.report.make import make_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Finished

    from lk_users.local.real_agent import RealAgent
    from lk_users.local.stack import Stack

FOLDER = ROOT / "docker" / "agents"
NAME = "greeter"
NS_PER_S = 1_000_000_000


@pytest.fixture(scope="session")
def agents_python() -> Path:
    """The Python of the agents' own environment; the first time, pip makes it."""
    try:
        return real_agent.environment(FOLDER, print)
    except StackError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def greeter(agents_python: Path, stack: Stack, tmp_path: Path) -> Callable[..., Any]:
    """``with greeter(load_threshold=…)``: one worker, registered; nothing of it is left afterwards."""

    @contextmanager
    def up(load_threshold: str) -> Iterator[RealAgent]:
        env = {**stack.env(), "LIVEKIT_AGENT_NAME": NAME, "GREETER_LOAD_THRESHOLD": load_threshold}
        agent = real_agent.RealAgent(agents_python, FOLDER / "greeter.py", tmp_path / "agent.log", env)
        with agent:
            agent.rest()
            yield agent
            assert agent.pid is not None
            members = [psutil.Process(agent.pid), *psutil.Process(agent.pid).children(recursive=True)]
        assert len(members) > 2, "it keeps processes ready for jobs"
        _, alive = psutil.wait_procs(members, timeout=5)
        assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []

    return up


def samples(done: Finished, url: str) -> list[dict[str, Any]]:
    lines = (done.run_dir / "agent_workers.jsonl").read_text().splitlines()
    return [sample for sample in map(json.loads, lines) if sample["url"] == url]


def test_a_real_agent_is_heard_and_read(greeter: Callable[..., Any], burst: Callable[..., Finished]) -> None:
    with greeter(load_threshold="inf") as agent:
        done = burst(
            4, "--agent-name", NAME, "--welcome", "state,track,audio,text", "--watch", "2",
            "--session-timeout", "60", "--agent-worker-url", agent.url,
        )  # fmt: skip
    assert (done.code, done.outcomes) == (0, {"ok": 4}), done.stdout
    for record in done.records:
        marks = record["marks_ns"]
        assert marks["agent_joined"] < marks["agent_ready"] <= marks["agent_speaking"]
        assert marks["agent_joined"] < marks["agent_track"] < marks["first_audio"]
        # Its transcript keeps pace with what is said, so the first of it comes with the first words.
        assert abs(marks["first_text"] - marks["first_audio"]) < 1.5 * NS_PER_S
        welcome = ("agent_speaking", "agent_track", "first_audio", "first_text")
        assert marks["welcomed"] == max(marks[mark] for mark in welcome)
        assert record["agent_identity"] == f"agent-{record['job_id']}"
        # It tells its name, and so is the agent that was asked for and no bystander.
        assert set(record["findings"]) <= {"ok", "ghost_dispatch", "lag_in_window"}
    assert len({record["worker_id"] for record in done.records}) == 1

    [worker] = done.summary["agent_workers"]
    asked = samples(done, agent.url)
    assert (worker["url"], worker["agent_name"], worker["sdk_version"]) == (agent.url, NAME, "1.8.9")
    assert (worker["samples"], worker["unreachable"]) == (len(asked), 0)
    assert len(asked) >= 3
    assert worker["active_jobs"]["max"] == 4
    assert 0 < worker["load"]["p50"] <= worker["load"]["max"] <= 1
    t0_ns = json.loads((done.run_dir / "bursts.jsonl").read_text().splitlines()[-1])["t0_wall_ns"]
    assert [s for s in asked if abs(s["wall_ns"] - t0_ns) < 0.95 * NS_PER_S] == []
    assert "agent worker" not in done.stdout, "nothing is said where every job was taken"


def test_jobs_that_it_refuses_are_never_assigned(
    greeter: Callable[..., Any], burst: Callable[..., Finished], stack: Stack
) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    other = stack.env()["LIVEKIT_URL"].replace("ws://", "http://")
    with greeter(load_threshold="0") as agent:
        urls = ",".join((agent.url, closed, other))
        done = burst(
            3, "--agent-name", NAME, "--session-timeout", "9", "--agent-worker-url", urls
        )  # fmt: skip
    assert (done.code, done.outcomes) == (10, {"never_assigned": 3}), done.stdout
    assert done.causes("never_assigned") == {"the API lists no job for the dispatch"}
    assert all("dispatched" in record["marks_ns"] for record in done.records)

    told = {worker["url"]: worker for worker in done.summary["agent_workers"]}
    assert list(told) == [agent.url, closed, other]
    assert told[agent.url]["active_jobs"] == {"max": 0}
    assert 0 <= told[agent.url]["load"]["max"] <= 1
    assert told[agent.url]["unreachable"] == 0
    for url, error in ((closed, "connection refused"), (other, "HTTP 404")):
        assert told[url]["unreachable"] == told[url]["samples"] == len(samples(done, url)) >= 5
        assert told[url]["error"] == error
        assert f"--agent-worker-url {url}: {error}; its load will be missing" in done.stderr
    text = " ".join(done.stdout.split())
    assert (
        "3 of 3 jobs were taken by no agent worker (never_assigned), although CreateDispatch answered" in text
    )
    assert f"The worker at {agent.url} reported a load of up to " in text

    before = {name: (done.run_dir / name).read_bytes() for name in ("summary.json", "summary.md")}
    make_report(done.run_dir)
    assert {name: (done.run_dir / name).read_bytes() for name in before} == before
