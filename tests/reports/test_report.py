from __future__ import annotations

import functools
import json
import random
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest
from builders import (
    DEADLINE_NS,
    OPTIONS,
    RUN_ID,
    T0_WALL_NS,
    burst_round,
    marks_ns,
    never_assigned,
    queued_session,
    record,
    settings,
    trailer,
    welcomed,
    write_run,
)

from lk_users.course import BurstCourse
from lk_users.errors import RecordError, Refused
from lk_users.health import Lag
from lk_users.outcome import ExitCode, Finding, Verdict, fault_of
from lk_users.plan import Share
from lk_users.record import Mark, Phase, Record
from lk_users.report import console, markdown, words
from lk_users.report.folder import (
    BurstInfo,
    Merged,
    RunInfo,
    WorkerShare,
    append_reason,
    merge,
    read_bursts,
    write_atomically,
)
from lk_users.report.make import ending, make_report
from lk_users.report.summary import summarize
from lk_users.sinks.jsonl import Journal, journal_path
from lk_users.slo import SloResult
from lk_users.verdict import Judgement

if TYPE_CHECKING:
    from pathlib import Path

    from lk_users.health import Trailer

PASSED = Judgement(Verdict.PASS, ExitCode.PASS, (), (SloResult("count(lost) == 0", 0, ok=True),))
INFO = RunInfo(run_id=RUN_ID, started="2026-03-01T11:59:50Z", settings=OPTIONS, users=2)
OUTPUTS = ("records.jsonl", "summary.json", "summary.md")


def summary_of(
    records: list[Record],
    trailers: tuple[Trailer, ...] = (),
    judgement: Judgement = PASSED,
    **options: str,
) -> dict[str, Any]:
    chosen = settings(max(1, len(records)), **options)
    (of,) = BurstCourse(chosen).rounds
    bursts = tuple(
        BurstInfo(burst=number, round=of, t0_wall_ns=0, intended=len(records))
        for number in sorted({one.burst for one in records})
    )
    merged = Merged(tuple(records), trailers, (), len(records), (), bursts, ())
    return summarize(INFO, chosen, merged, judgement)


def merged_of(run_dir: Path) -> Merged:
    info = RunInfo.read(run_dir)
    return merge(run_dir, info, info.run_settings())


@functools.cache
def burst_of_600() -> tuple[Record, ...]:
    """Twelve never got an agent; two workers, two regions."""
    rng = random.Random(7)
    places = [("w1", "eu") if n < 300 else ("w2", "us") for n in range(600)]
    return tuple(
        never_assigned(n, worker=worker, region=region)
        if n < 12
        else queued_session(rng, n, worker=worker, region=region)
        for n, (worker, region) in enumerate(places)
    )


TWO_WORKERS = {"w1": ("eu", 0, 300), "w2": ("us", 300, 300)}


# The folder


def test_journal_lines_are_on_disk_before_it_is_closed(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "host:1/a", "eu")
    journal.share(Share(RUN_ID, 0, 0, 2, burst_round(2)))
    journal.decided(record(0))
    journal.record(welcomed(0))
    journal.trailer(trailer("host:1/a", intended=2, recorded=1))
    path = journal_path(tmp_path, "host:1/a")
    assert path == journal.path == tmp_path / "workers" / "host_1_a.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["share", "decided", "record", "trailer"]
    assert lines[0] == {
        "kind": "share",
        "worker": "host:1/a",
        "region": "eu",
        "share": {"run_id": RUN_ID, "burst": 0, "first": 0, "count": 2, "round": burst_round(2).to_dict()},
    }
    assert Record.from_dict(lines[2]["record"]) == welcomed(0)
    journal.close()
    journal.close()


def test_a_journal_that_is_opened_again_goes_on(tmp_path: Path) -> None:
    for ordinal in (0, 1):
        journal = Journal(tmp_path, "w", "eu")
        journal.record(record(ordinal))
        journal.close()
    assert len(journal.path.read_text().splitlines()) == 2


def test_merge_takes_finals_before_provisionals_and_fills_what_is_missing(tmp_path: Path) -> None:
    INFO.write(tmp_path)
    journal = Journal(tmp_path, "w1", "eu")
    journal.share(Share(RUN_ID, 0, 0, 4, burst_round(4)))
    journal.record(welcomed(1, 111))
    journal.decided(never_assigned(0))
    journal.decided(never_assigned(1))
    journal.record(welcomed(2, 222))
    journal.record(welcomed(2, 333))
    journal.close()
    merged = merged_of(tmp_path)
    assert [one.outcome.value for one in merged.records] == ["never_assigned", "ok", "ok", "generator_lost"]
    assert [one.marks_ns.get("welcomed") for one in merged.records[1:3]] == [111_000_000, 222_000_000]
    assert merged.intended == len(merged.records) == 4
    assert merged.missing == (record(3).session_id,)
    assert merged.workers == (("w1", "eu"),)
    assert merged.conflicts == ()
    lost = merged.records[3]
    assert lost.cause == "its worker w1 sent no record"
    assert (lost.room, lost.engine, lost.dispatch, lost.agent_name) == (
        record(3).room,
        "listen",
        "api",
        "front-desk",
    )
    assert lost.intended_wall_ns == T0_WALL_NS, "from the other sessions of its burst"
    assert lost.deadline_ns == DEADLINE_NS


def test_a_worker_that_died_before_its_first_line_is_known_from_the_announcement(tmp_path: Path) -> None:
    records = [one for one in burst_of_600() if one.worker == "w1"]
    write_run(tmp_path, records, workers=TWO_WORKERS, batch_size="100")
    journal_path(tmp_path, "w2").unlink()
    merged = merged_of(tmp_path)
    assert merged.intended == len(merged.records) == 600
    assert len(merged.missing) == 300
    assert {one.region for one in merged.records[300:]} == {"us"}


def test_lost_sessions_keep_their_place_in_a_burst_of_batches(tmp_path: Path) -> None:
    INFO.write(tmp_path)
    share = WorkerShare(worker="w", region="eu", first=0, count=2)
    of = burst_round(2, batch_size="1", batch_delay="0.5")
    BurstInfo(burst=0, round=of, t0_wall_ns=T0_WALL_NS, intended=2, workers=(share,)).append(tmp_path)
    starts = [one.intended_wall_ns - T0_WALL_NS for one in merged_of(tmp_path).records]
    assert starts == [0, 500_000_000]


def test_a_session_that_two_workers_ran_voids(tmp_path: Path) -> None:
    records = [welcomed(0), welcomed(1), welcomed(1, worker="w2", region="us")]
    write_run(tmp_path, records, workers={"w1": ("eu", 0, 2)})
    other = Journal(tmp_path, "w2", "us")
    other.record(records[2])
    other.trailer(trailer("w2", "us"))
    other.close()
    judgement = make_report(tmp_path)
    assert judgement.void_reasons == (
        f"1 session was run by two workers at once, for example {records[1].session_id}",
    )


def test_more_records_than_were_intended_are_kept_and_void(tmp_path: Path) -> None:
    write_run(tmp_path, [welcomed(0), welcomed(1)], workers={"w1": ("eu", 0, 1)})
    assert "2 records of 1 intended sessions: these must be equal" in make_report(tmp_path).void_reasons


@pytest.mark.parametrize("cut", [b'{"kind":"rec', b'{"kind":"record","record":{"run_id":"x"', b"\x00\x00"])
def test_a_last_line_that_was_cut_is_left_out(tmp_path: Path, cut: bytes) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)})
    path = journal_path(tmp_path, "w1")
    path.write_bytes(path.read_bytes() + cut)
    assert make_report(tmp_path).verdict is Verdict.PASS


def test_a_last_line_that_lacks_only_its_end_is_taken(tmp_path: Path) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)})
    path = journal_path(tmp_path, "w1")
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert make_report(tmp_path).verdict is Verdict.PASS


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"kind":"recrod"}', '{"kind":"record","record":{}}', '{"kind":"share","share":{"x":1}}'],
)
def test_a_broken_line_in_the_middle_names_file_and_line(tmp_path: Path, line: str) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)})
    path = journal_path(tmp_path, "w1")
    first, rest = path.read_text().split("\n", 1)
    path.write_text(f"{first}\n{line}\n{rest}")
    with pytest.raises(RecordError, match=r"^w1\.jsonl line 2: "):
        make_report(tmp_path)


def test_run_info_round_trip_and_its_settings(tmp_path: Path) -> None:
    given = {"agent-name": "a", "batch-size": "5", "metadata": "@/no/such/file", "slo": "count(ok) >= 1"}
    info = RunInfo(run_id="r", started="s", settings=given, users=9, cloud=True, process={"pid": 1})
    info.write(tmp_path)
    assert RunInfo.read(tmp_path) == info
    chosen = info.run_settings()
    assert (chosen.users, chosen.batch_size, chosen.slo) == (9, 5, "count(ok) >= 1")
    assert chosen.api_budget_per_minute == 900


def test_no_run_folder_is_refused_and_a_broken_one_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no run folder, run\.json cannot be read"):
        RunInfo.read(tmp_path)
    for text in ("{", "[]", '{"schema": 2}', '{"run_id": "r"}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(RecordError, match=r"^run\.json: "):
            RunInfo.read(tmp_path)


def test_bursts_round_trip(tmp_path: Path) -> None:
    assert read_bursts(tmp_path) == []
    share = WorkerShare(worker="w", region="eu", first=0, count=2)
    bursts = [
        BurstInfo(burst=n, round=burst_round(2), t0_wall_ns=n + 1, intended=2, workers=(share,))
        for n in range(2)
    ]
    for burst in bursts:
        burst.append(tmp_path)
    assert read_bursts(tmp_path) == bursts


def test_an_atomic_write_leaves_the_old_file_where_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_atomically(path, "old\n")
    with pytest.raises(TypeError):
        write_atomically(path, 7)  # type: ignore[arg-type]
    assert path.read_text() == "old\n"
    assert [one.name for one in tmp_path.iterdir()] == ["summary.json"]


def test_a_kept_reason_voids(tmp_path: Path) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)})
    append_reason(tmp_path, "worker w2 never came")
    append_reason(tmp_path, "another")
    assert make_report(tmp_path).void_reasons == ("worker w2 never came", "another")


def test_a_free_run_has_a_share_for_each_session(tmp_path: Path) -> None:
    replace(INFO, settings={**OPTIONS, "release": "free"}).write(tmp_path)
    for worker, ordinals in {"w1": (0, 2), "w2": (1, 5)}.items():
        journal = Journal(tmp_path, worker, "eu")
        for ordinal in ordinals:
            journal.share(Share(RUN_ID, 0, ordinal, 1))
            journal.record(welcomed(ordinal, worker=worker))
        journal.trailer(trailer(worker, intended=2, recorded=2))
        journal.close()
    merged = merged_of(tmp_path)
    assert [one.ordinal for one in merged.records] == [0, 1, 2, 5]
    assert (merged.intended, merged.missing) == (4, ())
    assert make_report(tmp_path).verdict is Verdict.PASS


# The report


def test_a_report_made_again_has_the_same_bytes(tmp_path: Path) -> None:
    write_run(tmp_path, burst_of_600(), workers=TWO_WORKERS)
    first = make_report(tmp_path)
    before = [(tmp_path / name).read_bytes() for name in OUTPUTS]
    assert make_report(tmp_path) == first
    assert [(tmp_path / name).read_bytes() for name in OUTPUTS] == before
    lines = before[0].decode().splitlines()
    assert tuple(map(Record.from_json, lines)) == burst_of_600()


def test_a_burst_of_600_from_disk(tmp_path: Path) -> None:
    write_run(tmp_path, burst_of_600(), workers=TWO_WORKERS)
    judgement = make_report(tmp_path)
    assert (judgement.verdict, judgement.exit_code, judgement.void_reasons) == (Verdict.SLO_FAILED, 10, ())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["schema"] == 1
    assert summary["sessions"] == {"intended": 600, "recorded": 600, "unrecorded": 0, "uncounted": 0}
    assert summary["outcomes"] == {"never_assigned": 12, "ok": 588}
    assert summary["causes"] == {"never_assigned": {"no job reported by the API": 12}}
    assert summary["findings"] == {"never_assigned": 12, "ok": 588, "ghost_dispatch": 588}
    assert summary["groups"] == {"lost": 12, "duplicate": 0, "ours": 0, "open": 0, "theirs": 12}
    over = {"samples": 600, "sessions": 600}
    counted = {"unit": "count", "worst": "", "never": False, "missing": "", "unknown": 0, "bound": "", **over}
    assert summary["slo"] == [
        {"text": "count(lost) == 0", "value": 12, "ok": False, **counted},
        {"text": "count(duplicate) == 0", "value": 0, "ok": True, **counted},
    ]
    assert summary["judged_anew"] is False
    assert summary["bottleneck"]["phase"] == "server_queue"
    assert summary["marks"]["welcomed"]["n"] == 588
    assert summary["marks"]["welcomed"]["max"] == 120_000
    assert summary["wall"] == {"started": "2026-03-01T11:59:50Z", "ended": "2026-03-01T12:02:00.000Z"}
    assert [(w["id"], w["region"], w["sessions"]) for w in summary["workers"]] == [
        ("w1", "eu", 300),
        ("w2", "us", 300),
    ]


def test_a_killed_worker_voids_the_run_and_loses_nothing(tmp_path: Path) -> None:
    records = [one for one in burst_of_600() if one.ordinal < 560]
    write_run(tmp_path, records, workers=TWO_WORKERS, trailers=False)
    judgement = make_report(tmp_path)
    assert judgement.exit_code == 11
    assert judgement.void_reasons == (
        "40 sessions were lost with their worker: it died, or its last records never came",
        "worker w1 (eu): no last word on burst 0; it died or was cut off",
        "worker w2 (us): no last word on burst 0; it died or was cut off",
    )
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 600
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["sessions"]["unrecorded"] == 40
    assert summary["workers"][1]["lag_ms"] is None


def test_an_empty_run_is_void(tmp_path: Path) -> None:
    INFO.write(tmp_path)
    assert make_report(tmp_path).void_reasons == ("no session was recorded: nothing was measured",)
    assert "No request left." in ending(tmp_path)


# The summary's figures


def test_marks_are_nearest_rank_over_all_and_phases_over_those_that_have_them() -> None:
    summary = summary_of(
        [*(welcomed(n, 100 + n) for n in range(9)), record(9, findings={"never_assigned": ""})]
    )
    assert summary["marks"]["welcomed"] == {
        "n": 9,
        "censored": 1,
        "p50": 104,
        "p90": 108,
        "p99": 120_000,
        "max": 120_000,
    }
    phase = summary["phases"]["dispatch_api"]
    assert {key: phase[key] for key in ("n", "p50", "p99", "max")} == {"n": 9, "p50": 3, "p99": 3, "max": 3}
    assert summary["phases"]["speak"]["n"] == 0
    assert summary["phases"]["speak"]["p50"] is None
    assert summary["start_error_ms"] == {"n": 9, "p50": 1, "p99": 1, "max": 1}


def shares_of(*records: Record) -> tuple[float | None, dict[str, Any] | None]:
    summary = summary_of(list(records))
    return summary["phases"]["server_queue"]["share"], summary["bottleneck"]


def waited(ms: int, queue_ms: int, **changes: Any) -> Record:
    created = {"created_at_ns": 1, "started_at_ns": 1 + queue_ms * 1_000_000}
    return welcomed(0, ms, marks_ns=marks_ns({Mark.WELCOMED: ms}), **created, **changes)


def test_share_is_of_the_wait_of_all_sessions_together() -> None:
    assert shares_of(waited(100, 50), waited(300, 250)) == (0.75, {"phase": "server_queue", "share": 0.75})


def test_who_was_not_welcomed_waited_until_it_was_decided() -> None:
    lost = record(1, decided_ns=300_000_000, findings={"dispatch_failed": ""})
    assert shares_of(waited(100, 100), lost)[0] == 0.25
    undecided = record(1, deadline_ns=300_000_000, findings={"never_assigned": ""})
    assert shares_of(waited(100, 100), undecided)[0] == 0.25


def test_what_broke_on_our_side_waited_for_nobody() -> None:
    assert shares_of(waited(100, 100), record(1, findings={"generator_lost": ""}))[0] == 1
    assert shares_of(record(1, findings={"generator_lost": ""})) == (None, None)


def test_a_phase_within_our_own_lag_is_not_blamed() -> None:
    assert shares_of(waited(100, 50, lag_ms=50.1))[1] is None
    assert shares_of(waited(100, 50, lag_ms=50.0))[1] == {"phase": "server_queue", "share": 0.5}


def test_the_bottleneck_is_the_largest_that_can_be_blamed() -> None:
    one = waited(100, 50, lag_ms=0)
    marks = marks_ns({Mark.CONNECTED: 1, Mark.MEDIA_UP: 71, Mark.WELCOMED: 100})
    assert shares_of(replace(one, marks_ns=marks))[1] == {"phase": "media_setup", "share": 0.7}
    laggy = replace(one, marks_ns=marks, created_at_ns=0, started_at_ns=0, lag_ms=80.0)
    assert shares_of(one, laggy)[1] == {"phase": "server_queue", "share": 0.25}


def test_workers_over_bursts_and_loops() -> None:
    first = trailer(
        lag={"asyncio": Lag(1, 2, 30), "gevent": Lag(2, 1, 10)},
        cpu_s=1.5,
        welcome_cpu_s=1.25,
        read_cpu_s=0.25,
        rss_mb=80,
        clock_offset_ms=1,
        clock_steps=1,
        clock_moved_ms=2,
        wall_step_ms=-200,
    )
    second = trailer(
        burst=1,
        lag={"asyncio": Lag(0, 9, 5)},
        cpu_s=2,
        welcome_cpu_s=0.5,
        rss_mb=70,
        clock_offset_ms=3,
        clock_steps=2,
        clock_moved_ms=5,
    )
    records = [welcomed(0), welcomed(0, burst=1), welcomed(1, worker="w2", region="us")]
    mine, other = summary_of(records, (first, second))["workers"]
    assert mine == {
        "id": "w1",
        "region": "eu",
        "sessions": 2,
        "clock_offset_ms": 3,
        "clock_uncertainty_ms": 0.4,
        "clock_steps": 2,
        "clock_moved_ms": 5,
        "wall_step_ms": -200,
        "lag_ms": {"p50": 2, "p95": 9, "max": 30},
        "start_lag_ms": None,
        "cpu_s": 3.5,
        "welcome_cpu_s": 1.75,
        "read_cpu_s": 0.25,
        "rss_mb": 80,
    }
    assert (other["id"], other["sessions"], other["lag_ms"], other["cpu_s"]) == ("w2", 1, None, None)


def test_bursts() -> None:
    later = T0_WALL_NS + 60_000_000_000
    records = [
        welcomed(0, 100, marks_ns=marks_ns({Mark.FIRST_AUDIO: 90, Mark.WELCOMED: 100})),
        record(0, burst=1, intended_wall_ns=later, findings={"rejected": ""}),
    ]
    first, second = summary_of(records)["bursts"]
    assert (first["burst"], first["t0"], first["outcomes"]) == (0, "2026-03-01T12:00:00.000Z", {"ok": 1})
    assert first["first_audio"] == {"n": 1, "censored": 0, "p50": 90, "p90": 90, "p99": 90, "max": 90}
    assert (second["t0"], second["outcomes"], second["sessions"]) == (
        "2026-03-01T12:01:00.000Z",
        {"rejected": 1},
        1,
    )


def test_slowest_are_the_failed_then_the_longest_waits() -> None:
    records = [welcomed(n, 100 + n) for n in range(20)]
    records[3] = record(3, decided_ns=5_000_000, findings={"rejected": "no room"}, room_sid="RM_3")
    slowest = summary_of(records)["slowest"]
    assert len(slowest) == 10
    assert (slowest[0]["outcome"], slowest[0]["cause"], slowest[0]["waited_ms"]) == ("rejected", "no room", 5)
    assert (slowest[0]["room"], slowest[0]["room_sid"]) == (records[3].room, "RM_3")
    assert [one["welcomed_ms"] for one in slowest[1:4]] == [119, 118, 117]


def test_the_end_of_a_free_run_is_in_no_figure() -> None:
    records = [welcomed(0), record(1, findings={"cancelled": "stopped"})]
    summary = summary_of(records, release="free")
    assert summary["sessions"]["uncounted"] == 1
    assert summary["outcomes"] == {"cancelled": 1, "ok": 1}
    assert summary["marks"]["welcomed"]["censored"] == 0
    assert "1 session had no outcome yet when the run was stopped" in words.failure_lines(summary)[-1]


# The words


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (None, "-"),
        (0, "0.0 ms"),
        (0.44, "0.4 ms"),
        (9.8, "9.8 ms"),
        (9.96, "10 ms"),
        (210.4, "210 ms"),
        (999.4, "999 ms"),
        (999.6, "1.00 s"),
        (1250, "1.25 s"),
        (9996, "10.0 s"),
        (18_240, "18.2 s"),
        (120_000, "120 s"),
    ],
)
def test_durations(ms: float | None, text: str) -> None:
    assert words.duration(ms) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "-"), (0, "0 %"), (0.0004, "under 1 %"), (0.96, "96 %"), (0.996, "over 99 %"), (1, "100 %")],
)
def test_percents(share: float | None, text: str) -> None:
    assert words.percent(share) == text


def test_every_phase_and_outcome_has_its_words() -> None:
    assert list(words.PHASES) == list(Phase)
    for finding in Finding:
        assert (finding in words.OUTCOMES) == (
            finding is not Finding.OK and fault_of(finding) in words.FAULTS
        )


def test_where_the_time_went_in_a_burst_of_600(tmp_path: Path) -> None:
    write_run(tmp_path, burst_of_600(), workers=TWO_WORKERS)
    make_report(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    queue, slowest, ghost, late = words.time_lines(summary)
    assert queue == (
        "86 % of the wait was in the server's queue (server_queue: from storing the dispatch to offering the "
        "job to the worker that took it), p50 16.9 s, p99 31.4 s."
    )
    assert slowest.startswith("In the slowest tenth (60 sessions) ")
    assert ghost.startswith("588 of 600 rooms also asked for an unnamed agent that no worker serves")
    assert ghost.endswith("`--dispatch room` or `--dispatch token` avoids it.")
    assert "12 users got no agent at all" in late
    assert "HTTP 200 says that the request was stored, not that a worker took it." in late
    assert words.burst_line(summary) == "600 requests left within 9.8 ms of T0 (p99), max 9.9 ms."
    assert words.health_line(summary) == (
        "Generator of 2 workers: loop lag p95 12 ms, longest stall 210 ms, CPU 4.20 s (7.0 ms a session), "
        "clocks known to ±0.4 ms."
    )
    assert words.failure_lines(summary) == [
        "12 never_assigned (the target's doing): no agent worker got the job. "
        "Cause: no job reported by the API (12)."
    ]


def test_each_of_all_rooms_and_no_advice_that_does_not_apply() -> None:
    ghosts = [welcomed(n, findings={"ok": "", "ghost_dispatch": ""}) for n in range(3)]
    (line,) = words._ghost_lines(summary_of(ghosts, dispatch="room"))
    assert line.startswith("Each of 3 rooms also asked")
    assert "--dispatch" not in line


def test_a_fast_session_gets_no_lecture() -> None:
    lines = words.time_lines(summary_of([welcomed(0)]))
    assert not any("HTTP 200" in line or "unnamed" in line for line in lines)


def test_a_crumb_of_a_wait_is_not_called_its_bottleneck() -> None:
    first, *_ = words.time_lines(summary_of([never_assigned(0)]))
    assert first.startswith("No phase that came to its end explains the wait: the largest, media_setup")


def test_a_wait_that_only_the_server_could_explain_is_said_so() -> None:
    marks = marks_ns({Mark.CONNECTED: 10, Mark.MEDIA_UP: 40, Mark.AGENT_SEEN: 20_000, Mark.WELCOMED: 20_000})
    first, *_ = words.time_lines(summary_of([welcomed(0, 20_000, marks_ns=marks)]))
    assert first.endswith("When the server offered the jobs is not known: it was not asked, or did not say.")


def test_late_agents_are_set_against_the_answers_however_slow_those_were() -> None:
    marks = marks_ns({Mark.FIRED: 0, Mark.DISPATCHED: 1550, Mark.AGENT_JOINED: 20_400, Mark.WELCOMED: 23_000})
    lines = words.time_lines(summary_of([welcomed(0, 23_000, marks_ns=marks)]))
    assert lines[-1].startswith(
        "Dispatch requests were answered within 1.55 s (p99), and yet half of the agents took 20.4 s or more"
    )


def test_nothing_came_to_an_end_or_all_was_within_our_lag() -> None:
    assert words.time_lines(summary_of([record(0, findings={"dispatch_failed": ""})]))[0].startswith(
        "No phase of any session came to its end"
    )
    assert words.time_lines(summary_of([welcomed(0, lag_ms=500)]))[0].startswith("No phase is to blame")


def test_planned_starts_are_named_for_what_they_are() -> None:
    two = [welcomed(0), welcomed(1)]
    assert "of T0 (p99)" in words.burst_line(summary_of(two))
    assert "of their planned start (p99)" in words.burst_line(summary_of(two, batch_size="1"))


def test_failures_name_fault_and_first_causes() -> None:
    causes = ["reset", "reset", "refused", "timeout", "TLS"]
    failed = [record(n, findings={"connect_failed": cause}) for n, cause in enumerate(causes)]
    assert words.failure_lines(summary_of([*failed, record(9, findings={"media_failed": ""})])) == [
        "1 media_failed (open whose doing): in the room, and the media connection never came up. "
        "Cause: no cause given (1).",
        "5 connect_failed (the target's doing): the user's first try to join failed; an SDK would have tried "
        "again. Cause: reset (2), TLS (1), refused (1), and 1 other cause.",
    ]


def test_causes_that_differ_by_ids_alone_are_one() -> None:
    causes = ["job AJ_a is running on AW_1", "job AJ_b is running on AW_1", "job AJ_c is failed on AW_2"]
    failed = [record(n, findings={"assigned_not_joined": cause}) for n, cause in enumerate(causes)]
    (line,) = words.failure_lines(summary_of(failed))
    assert line.endswith("Cause: job … is running on … (2), job … is failed on … (1).")


# Console and Markdown


def crowded() -> dict[str, Any]:
    """All that there can be to say, and more than fits."""
    slos = tuple(SloResult(f"count({finding}) == 0", 1, ok=False) for finding in Finding)
    judgement = Judgement(
        Verdict.VOID, ExitCode.VOID, tuple(f"reason {n} " + "x " * 150 for n in range(30)), slos
    )
    records = list(burst_of_600())
    for n, finding in enumerate(Finding):
        records[n] = replace(records[n], findings={finding.value: "a cause that goes on and on " * 9})
    return summary_of(records, (trailer("w1"),), judgement)


def test_console_is_bounded_and_starts_with_the_verdict() -> None:
    text = console.text(crowded())
    lines = text.splitlines()
    assert len(lines) <= console.MAX_LINES
    assert max(map(len, lines)) <= console.WIDTH
    assert lines[0] == "VOID: this run says nothing reliable about the target (exit code 11)"
    assert lines[1].startswith("  - reason 0")
    assert "  - and 27 more, in summary.md" in lines


def test_console_names_slos_without_data_first_then_those_missed() -> None:
    slos = (
        SloResult("rate(ok) >= 98 %", 0.98, ok=True, unit="share"),
        SloResult("p95(welcomed) by region <= 1 s", 4200.0, ok=False, unit="ms", worst="region=ap"),
        SloResult("max(speak) <= 1 s", None, ok=False, unit="ms", missing="no session has speak"),
        SloResult("p99(welcomed) <= 9 s", 5000.0, ok=False, unit="ms", never=True, worst="region=eu"),
    )
    text = console.text(summary_of([welcomed(0)], judgement=replace(PASSED, slo=slos)))
    assert text.splitlines()[1:5] == [
        "  NO DATA  max(speak) <= 1 s   (no session has speak)",
        "  MISSED  p95(welcomed) by region <= 1 s   (was 4.20 s in region=ap)",
        "  MISSED  p99(welcomed) <= 9 s   (was never within 5.00 s in region=eu)",
        "  met     rate(ok) >= 98 %   (was 98 %)",
    ]


@pytest.mark.parametrize(
    ("result", "value"),
    [
        (SloResult("", 599 / 600, ok=True, unit="share"), "99.8333 %"),
        (SloResult("", 12, ok=True, unit="count", worst="batch=3"), "12 in batch=3"),
        (
            SloResult("", 1250.0, ok=True, unit="ms", samples=20, sessions=600, unknown=2, bound="at most"),
            "at most 1.25 s, not known of 2 of 20 sessions",
        ),
        (SloResult("", 0.5, ok=True, unit="share", bound="at least"), "at least 50 %"),
        (
            SloResult("", 1250.0, ok=True, unit="ms", samples=14, sessions=600),
            "1.25 s, over the 14 of 600 sessions that have it",
        ),
    ],
)
def test_an_slo_is_told_in_its_own_unit(result: SloResult, value: str) -> None:
    assert words.slo_value(asdict(result)) == value


def test_console_table_says_how_many_never_got_there() -> None:
    text = console.text(summary_of([welcomed(0), never_assigned(1)]))
    row = next(line for line in text.splitlines() if line.startswith("  welcomed"))
    assert row.split() == ["welcomed", "250", "ms", "120", "s", "120", "s", "120", "s", "1"]
    assert "agent heard" not in text


def test_markdown_has_all_reasons_and_whole_tables() -> None:
    text = markdown.text(crowded())
    assert text.startswith("# VOID: this run says nothing reliable about the target (exit code 11)\n")
    assert text.count("- reason ") == 30
    assert text.endswith("|\n")
    width = 0
    for line in text.splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = line.replace("\\|", "").count("|")
        assert cells == (width or cells), line
        width = cells


def test_markdown_cells_hold_foreign_text() -> None:
    one = record(0, findings={"rejected": "a|b\nc"})
    assert "| rejected | a\\|b c |" in markdown.text(summary_of([one]))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"ok": ""}, "every SLO was met (exit code 0)"),
        (
            {"welcome_late": "12.1 s after the agent joined"},
            "every SLO was met, BUT 2 welcomes came later than --welcome-timeout (exit code 0)",
        ),
        (
            {"welcome_clipped": "x", "welcome_late": "y"},
            "every SLO was met, BUT 2 welcomes came later than --welcome-timeout, 2 welcomes could not be "
            "heard from the beginning (exit code 0)",
        ),
        (
            {"duplicate_agent": "x", "welcome_twice": "y"},
            "every SLO was met, BUT 2 welcomes came twice (exit code 0)",
        ),
    ],
)
def test_a_pass_says_what_its_slos_let_through(found: dict[str, str], said: str) -> None:
    summary = summary_of([welcomed(0, findings=found), welcomed(1, findings=found), welcomed(2)])
    assert words.headline(summary) == f"PASS: {said}"
    assert console.text(summary).startswith(f"PASS: {said}\n")
    assert markdown.text(summary).startswith(f"# PASS: {said}\n")


def test_only_a_pass_is_qualified() -> None:
    failed = Judgement(
        Verdict.SLO_FAILED, ExitCode.SLO_FAILED, (), (SloResult("count(x) == 0", 1, ok=False),)
    )
    assert "BUT" not in words.headline(summary_of([welcomed(0, findings={"welcome_late": "x"})], (), failed))


def test_the_sound_of_failed_sessions_is_listed_with_its_worker() -> None:
    missing = {"welcome_missing": "its audio arrived, but silent"}
    records = [
        welcomed(0),
        *(record(n, findings=missing, evidence={"audio": f"audio/s{n}.wav"}) for n in range(1, 8)),
    ]
    summary = summary_of(records)
    assert summary["audio"][0] == {
        "session_id": records[1].session_id,
        "outcome": "welcome_missing",
        "worker": "w1",
        "file": "audio/s1.wav",
    }
    assert len(summary["audio"]) == 7
    (line,) = words.audio_lines(summary)
    assert line.startswith("What 7 failed sessions received is kept as sound")
    assert "`audio/s1.wav` (welcome_missing, worker w1), " in line
    assert line.endswith("`audio/s5.wav` (welcome_missing, worker w1), and 2 more.")
    assert f"- {line}\n" in markdown.text(summary)
    assert words.audio_lines(summary_of(records[:1])) == []
