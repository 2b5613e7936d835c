"""What an agent's workers say of themselves: read, folded, and put into words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from builders import T0_WALL_NS, never_assigned, record, settings, welcomed, write_run

from lk_users.agent_worker import AgentWorkerSample, fold, sample_of
from lk_users.outcome import ExitCode, Verdict
from lk_users.report import agent_load, console, markdown
from lk_users.report.folder import Merged, RunInfo, append_sample, read_samples
from lk_users.report.make import make_report
from lk_users.report.summary import summarize
from lk_users.verdict import Judgement

if TYPE_CHECKING:
    from pathlib import Path

    from lk_users.record import Record

URL, OTHER = "http://127.0.0.1:8081", "http://10.0.0.2:8081"
# As livekit-agents 1.8.9 answers, busy and idle.
BUSY = b"""{
  "worker_type": "JT_ROOM", "agent_name": "front-desk", "active_jobs": 6.0, "sdk_version": "1.8.9",
  "worker_load": 0.4538205, "protocol_version": 1
}"""
IDLE = b'{"worker_type": "JT_ROOM", "sdk_version": "1.8.9", "protocol_version": 1}'


def sample(url: str = URL, load: float = 0.0, **changes: Any) -> AgentWorkerSample:
    values = {"agent_name": "front-desk", "sdk_version": "1.8.9", **changes}
    return AgentWorkerSample(wall_ns=T0_WALL_NS, url=url, load=load, **values)


def silent(url: str = URL, error: str = "connection refused") -> AgentWorkerSample:
    return AgentWorkerSample(wall_ns=T0_WALL_NS, url=url, error=error)


def summary_of(records: list[Record], *samples: AgentWorkerSample, **options: str) -> dict[str, Any]:
    chosen = settings(len(records), **{"agent_worker_url": URL if samples else "", **options})
    info = RunInfo(run_id="r", started="s", settings=chosen.options, users=len(records))
    merged = Merged(tuple(records), (), (), len(records), (), (), ())
    passed = Judgement(Verdict.PASS, ExitCode.PASS, (), ())
    return summarize(info, chosen, merged, passed, samples)


def test_an_answer_is_read_with_what_it_leaves_out() -> None:
    assert sample_of(5, URL, BUSY) == AgentWorkerSample(
        wall_ns=5, url=URL, agent_name="front-desk", sdk_version="1.8.9", load=0.4538, active_jobs=6
    )
    assert sample_of(5, URL, IDLE) == AgentWorkerSample(wall_ns=5, url=URL, sdk_version="1.8.9")


@pytest.mark.parametrize(
    "body",
    [
        b"OK",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"sdk_version": "1", "worker_load": "high"}',
        b'{"sdk_version": "1", "worker_load": "NaN"}',
        b'{"sdk_version": "1", "active_jobs": [1]}',
        b'{"sdk_version": "1", "active_jobs": 1e400}',
    ],
)
def test_any_other_answer_is_none_of_a_worker(body: bytes) -> None:
    assert sample_of(5, URL, body) == AgentWorkerSample(
        wall_ns=5, url=URL, error="no answer of livekit-agents"
    )


def test_fold_is_by_worker_in_the_order_given() -> None:
    samples = [sample(load=load, active_jobs=jobs) for load, jobs in ((0.9, 3), (0.2, 8), (0.5, 5), (0.6, 1))]
    assert fold((OTHER, URL), [*samples, silent(), silent(error="HTTP 404"), silent()]) == [
        {
            "url": OTHER,
            "agent_name": None,
            "sdk_version": None,
            "samples": 0,
            "load": {"p50": None, "max": None},
            "active_jobs": {"max": None},
            "unreachable": 0,
            "error": "",
        },
        {
            "url": URL,
            "agent_name": "front-desk",
            "sdk_version": "1.8.9",
            "samples": 7,
            "load": {"p50": 0.5, "max": 0.9},
            "active_jobs": {"max": 8},
            "unreachable": 3,
            "error": "connection refused",
        },
    ]


def test_nothing_is_said_where_every_job_was_taken() -> None:
    assert agent_load.lines(summary_of([welcomed(0)], sample(load=0.9))) == []
    assert agent_load.lines(summary_of([welcomed(0)])) == []
    assert agent_load.rows(summary_of([welcomed(0)])) == []


def test_without_workers_their_load_is_suggested() -> None:
    assert agent_load.lines(summary_of([welcomed(0), never_assigned(1)])) == [
        "1 of 2 jobs was taken by no agent worker (never_assigned), although CreateDispatch answered 200 for "
        "each. `--agent-worker-url` shows the workers' load: livekit-agents refuses jobs when it is high."
    ]


@pytest.mark.parametrize(
    ("dispatch", "answered"),
    [
        ("api", ", although CreateDispatch answered 200 for each."),
        ("room", ", although CreateRoom answered 200 for each."),
        ("token", "."),
    ],
)
def test_jobs_that_no_worker_took(dispatch: str, answered: str) -> None:
    records = [welcomed(0), never_assigned(1), never_assigned(2)]
    summary = summary_of(records, sample(load=0.93, active_jobs=9), dispatch=dispatch)
    assert agent_load.lines(summary) == [
        f"2 of 3 jobs were taken by no agent worker (never_assigned){answered}",
        f"The worker at {URL} reported a load of up to 0.93 and up to 9 jobs: livekit-agents' default limit "
        "of 0.7 was reached, from which on it takes no more.",
    ]


def test_a_load_below_the_limit_is_not_blamed() -> None:
    lines = agent_load.lines(summary_of([never_assigned(0)], sample(load=0.45, active_jobs=1)))
    assert lines[1] == (
        f"The worker at {URL} reported a load of up to 0.45 and up to 1 job: below livekit-agents' default "
        "limit of 0.7, but a worker also counts jobs that it accepted and has not started yet."
    )


def test_a_worker_that_was_not_reached_or_serves_another_agent() -> None:
    summary = summary_of([welcomed(0)], silent(), sample(), sample(OTHER, agent_name=""))
    assert agent_load.lines(summary) == [
        f"The worker at {URL} did not tell its load in 1 of 2 samples (connection refused).",
        f"The worker at {OTHER} serves the unnamed agent, not agent front-desk: its load says nothing about "
        "this run.",
    ]


def test_of_many_workers_three_are_shown() -> None:
    urls = [f"http://10.0.0.{n}:8081" for n in range(5)]
    summary = summary_of([never_assigned(0)], *(sample(url, 0.8) for url in urls))
    lines = agent_load.lines(summary)
    assert [url in line for url, line in zip(urls, lines[1:4], strict=False)] == [True, True, True]
    assert lines[4:] == ["And so for 2 other workers."]


def test_report_and_ending_show_it() -> None:
    summary = summary_of([never_assigned(0)], sample(load=0.93, active_jobs=9), silent())
    row = f"| {URL} | front-desk | 1.8.9 | 2 | 1 | 0.93 | 0.93 | 9 |"
    text = markdown.text(summary)
    assert row in text
    assert "reported a load of up to 0.93" in text
    assert f"  - The worker at {URL} reported a load of up to 0.93 and up to 9 jobs" in console.text(summary)


def test_the_report_from_disk_has_the_same_bytes(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"agent-worker-url": f"{URL},{OTHER}"}
    write_run(tmp_path, [record(0), welcomed(1)], workers={"w1": ("eu", 0, 2)}, **asked)
    for one in (sample(load=0.93, active_jobs=9), silent(OTHER)):
        append_sample(tmp_path, one)
    assert read_samples(tmp_path) == [sample(load=0.93, active_jobs=9), silent(OTHER)]
    make_report(tmp_path)
    first = {name: (tmp_path / name).read_bytes() for name in ("summary.json", "summary.md")}
    told = json.loads(first["summary.json"])["agent_workers"]
    assert [(one["url"], one["load"]["max"], one["unreachable"]) for one in told] == [
        (URL, 0.93, 0),
        (OTHER, None, 1),
    ]
    make_report(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in first} == first
