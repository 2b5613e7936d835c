from __future__ import annotations

import json
from typing import TYPE_CHECKING

from builders import RUN_ID, T0_WALL_NS, never_assigned, record, trailer, welcomed, write_run

from lk_users.clock import NS_PER_S
from lk_users.course import Role, Round
from lk_users.report.make import make_report
from lk_users.sinks.points import end_point, run_figures, session_point, t0_point, worker_point

if TYPE_CHECKING:
    from pathlib import Path


def test_sessions_of_one_t0_overwrite_nothing() -> None:
    points = [session_point(welcomed(ordinal)) for ordinal in range(600)]
    assert len({(tuple(point.tags.items()), point.time_ns) for point in points}) == 600
    assert points[7].time_ns == T0_WALL_NS + 7


def test_a_session_that_was_welcomed() -> None:
    point = session_point(welcomed(3, ms=250.0, burst=2, job_id="AJ_1"))
    assert point.tags == {
        "run": "20260301-120000-ab12",
        "region": "eu",
        "agent": "front-desk",
        "engine": "listen",
        "outcome": "ok",
        "burst": "2",
        "role": "burst",
    }
    fields = point.fields
    assert (fields["welcomed_ms"], fields["wait_welcomed_ms"], fields["start_error_ms"]) == (
        250.0,
        250.0,
        1.0,
    )
    assert (fields["dispatch_api_ms"], fields["user_join_ms"]) == (3.0, 3.0)
    assert (fields["welcomed"], fields["lost"], fields["ordinal"], fields["job_id"]) == (
        True,
        False,
        3,
        "AJ_1",
    )
    # What is not known is left out: to the database an empty text would be one more value.
    assert {"agent_joined_ms", "server_queue_ms", "agent_sid"} & fields.keys() == set()


def test_who_never_got_there_waited_to_the_deadline() -> None:
    fields = session_point(never_assigned(0)).fields
    assert (fields["wait_welcomed_ms"], fields["lost"]) == (120_000.0, True)
    assert "welcomed_ms" not in fields


def test_the_unnamed_agent_has_a_name_to_group_by() -> None:
    assert session_point(record(agent_name="")).tags["agent"] == "(unnamed)"


def test_each_worker_and_burst_has_its_point() -> None:
    words = [trailer(name, burst=burst, cpu_s=1.5) for name in ("w1", "w2") for burst in (1, 2)]
    points = [worker_point("run", word, 5 * NS_PER_S) for word in words]
    assert len({(tuple(point.tags.items()), point.time_ns) for point in points}) == 4
    assert (points[0].fields["cpu_s"], points[0].fields["clock_uncertainty_ms"]) == (1.5, 0.4)


def test_runs_are_compared_by_figures_of_their_summary(tmp_path: Path) -> None:
    write_run(tmp_path, [welcomed(0, ms=200.0), never_assigned(1)], workers={"w1": ("eu", 0, 2)})
    make_report(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    point = end_point(summary, T0_WALL_NS)
    assert point.tags == {"run": RUN_ID, "event": "end"}
    assert point.fields == {
        "text": "SLO_FAILED; missed: count(lost) == 0",
        "verdict": "SLO_FAILED",
        "exit_code": 10,
        "version": "0.1.0",
        "dispatch": "api",
        "bottleneck": "media_setup",
        "bottleneck_share": summary["bottleneck"]["share"],
        "intended": 2,
        "recorded": 2,
        "lost": 1,
        "duplicate": 0,
        "ours": 0,
        "welcomed_p50_ms": 200.0,
        "welcomed_p90_ms": 120_000.0,
        "welcomed_p99_ms": 120_000.0,
        "welcomed_max_ms": 120_000.0,
        "start_error_p50_ms": 1.0,
        "start_error_p99_ms": 5.0,
        "start_error_max_ms": 5.0,
    }


def test_what_a_run_did_not_measure_is_no_figure(tmp_path: Path) -> None:
    write_run(tmp_path, [], workers={"w1": ("eu", 0, 2)}, trailers=False)
    make_report(tmp_path)
    figures = run_figures(json.loads((tmp_path / "summary.json").read_text()))
    assert (figures["intended"], figures["ours"]) == (2, 2)
    assert not {"bottleneck", "start_error_p99_ms"} & figures.keys()


def test_only_a_burst_s_t0_is_called_so() -> None:
    """Dashboards count time from the first of these."""
    made = [t0_point("run", 2, Round(role, 1), 1, 5) for role in Role]
    assert [point.tags["event"] for point in made] == ["baseline", "t0", "control"]
    assert [point.fields["text"] for point in made] == [
        "T0 of the baseline: 1 session", "T0 of burst 2: 1 session", "T0 of the control: 1 session",
    ]  # fmt: skip
