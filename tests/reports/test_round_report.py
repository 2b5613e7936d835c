"""The burst beside its baseline and its control, in files and in words."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from builders import (
    OPTIONS,
    RUN_ID,
    T0_WALL_NS,
    marks_ns,
    never_assigned,
    record,
    settings,
    trailer,
    welcomed,
)

from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.course import BurstCourse, Role, Round
from lk_users.outcome import Finding, Verdict
from lk_users.plan import apportion, shares, unrecorded
from lk_users.plan import sessions as sessions_of
from lk_users.record import Mark, Record
from lk_users.report import console, markdown, round_words
from lk_users.report.folder import BurstInfo, RunInfo, WorkerShare, append_reason, merge
from lk_users.report.make import draft, make_report
from lk_users.returns import Returns
from lk_users.sinks.jsonl import Journal
from lk_users.verdict import void_reasons

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

USERS = 20
BESIDE = {"baseline": "1", "control": "spread=5s"}
ALONE_MS, SPREAD_MS, BURST_MS = 900.0, 1300.0, 24_000.0


def sessions(number: int, role: Role, ms: Sequence[float | None], **changes: Any) -> list[Record]:
    """One for each of ``ms``, when it was welcomed; None: never assigned."""
    made = []
    for ordinal, at_ms in enumerate(ms):
        identity = {
            "burst": number, "role": role.value, "session_id": f"{RUN_ID}-b{number}-{ordinal}",
            "intended_wall_ns": T0_WALL_NS + number * 100 * NS_PER_S, **changes,
        }  # fmt: skip
        if at_ms is None:
            made.append(never_assigned(ordinal, **identity))
        else:
            marks = {Mark.FIRED: 1.0, Mark.AGENT_JOINED: at_ms - 50, Mark.WELCOMED: at_ms}
            made.append(welcomed(ordinal, at_ms, marks_ns=marks_ns(marks), **identity))
    return made


def write(
    run_dir: Path,
    rounds: Mapping[Role, Sequence[Record]],
    options: Mapping[str, str] = BESIDE,
    *,
    users: int = USERS,
) -> None:
    """A run folder as a live run of one worker leaves it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    info = RunInfo(
        run_id=RUN_ID, started="2026-03-01T11:59:50Z", settings={**OPTIONS, **options}, users=users,
        target={"url": "ws://127.0.0.1:7880", "key": "devk…"}, versions={"lk-users": "0.1.0"},
    )  # fmt: skip
    info.write(run_dir)
    journal = Journal(run_dir, "w1", "eu")
    course = BurstCourse(info.run_settings()).rounds
    for number, of in enumerate(course, int(course[0].role is Role.BURST)):
        mine = rounds[of.role]
        part = WorkerShare(worker="w1", region="eu", first=0, count=of.users)
        t0_ns = T0_WALL_NS + number * 100 * NS_PER_S
        BurstInfo(
            burst=number, round=of, t0_wall_ns=t0_ns, intended=of.users, workers=(part,)
        ).append(run_dir)  # fmt: skip
        for one in mine:
            journal.record(one)
        journal.trailer(trailer(burst=number, intended=len(mine), recorded=len(mine)))
    journal.close()


def three(
    baseline: float | None = ALONE_MS,
    burst: Sequence[float | None] = (BURST_MS,) * USERS,
    control: Sequence[float | None] = (SPREAD_MS,) * USERS,
) -> dict[Role, list[Record]]:
    return {
        Role.BASELINE: sessions(0, Role.BASELINE, [baseline]),
        Role.BURST: sessions(1, Role.BURST, burst),
        Role.CONTROL: sessions(2, Role.CONTROL, control),
    }


def summary_of(tmp_path: Path, rounds: Mapping[Role, Sequence[Record]], **options: str) -> dict[str, Any]:
    write(tmp_path, rounds, {**BESIDE, **options})
    return dict(draft(tmp_path).summary)


def test_nothing_beside_the_burst_is_in_its_figures(tmp_path: Path) -> None:
    rounds = three(baseline=None, control=[None] * USERS)
    write(tmp_path, rounds, {**BESIDE, "slo": "count(lost) == 0; p99(welcomed) <= 24 s"})
    found = draft(tmp_path)
    assert len(found.merged.records) == found.merged.intended == 1 + 2 * USERS
    assert found.judgement.verdict is Verdict.PASS
    summary = found.summary
    assert summary["sessions"] == {"intended": USERS, "recorded": USERS, "unrecorded": 0, "uncounted": 0}
    assert summary["outcomes"] == summary["findings"] == {"ok": USERS}
    assert summary["groups"]["lost"] == 0
    assert summary["marks"]["welcomed"]["p50"] == summary["marks"]["welcomed"]["max"] == BURST_MS
    assert (summary["marks"]["welcomed"]["n"], summary["marks"]["welcomed"]["censored"]) == (USERS, 0)
    assert summary["start_error_ms"]["n"] == USERS
    assert [one["burst"] for one in summary["bursts"]] == [1]
    assert {one["burst"] for one in summary["slowest"]} == {1}
    assert summary["causes"] == {}
    assert [region["sessions"] for region in summary["regions"]] == [USERS]
    # The generator's health is that of the whole run.
    assert summary["workers"][0]["sessions"] == 1 + 2 * USERS


def test_each_round_stands_by_itself(tmp_path: Path) -> None:
    baseline, burst, control = summary_of(tmp_path, three(control=[SPREAD_MS] * 19 + [None]))["rounds"]
    assert [(one["round"], one["role"], one["users"]) for one in (baseline, burst, control)] == [
        (0, "baseline", 1), (1, "burst", USERS), (2, "control", USERS),
    ]  # fmt: skip
    assert [one["intended"] for one in (baseline, burst, control)] == [1, USERS, USERS]
    assert [one["recorded"] for one in (baseline, burst, control)] == [1, USERS, USERS]
    assert baseline["marks"]["welcomed"]["p50"] == ALONE_MS
    assert burst["outcomes"] == {"ok": USERS}
    assert control["outcomes"] == {"never_assigned": 1, "ok": 19}
    assert control["causes"] == {"never_assigned": {"no job reported by the API": 1}}
    assert (control["spread_s"], baseline["batch_size"], burst["batch_size"]) == (5.0, 1, 0)
    assert burst["t0"] == "2026-03-01T12:01:40.000Z"


def test_sessions_of_any_round_that_are_missing_void(tmp_path: Path) -> None:
    rounds = three()
    del rounds[Role.CONTROL][7]
    write(tmp_path, rounds)
    judgement = make_report(tmp_path)
    assert judgement.verdict is Verdict.VOID
    assert "1 session was lost with their worker" in judgement.void_reasons[0]
    merged = draft(tmp_path).merged
    (lost,) = [one for one in merged.records if one.outcome is Finding.GENERATOR_LOST]
    # Where it was to start is known from its round.
    (of,) = [burst.round for burst in merged.bursts if burst.round.role is Role.CONTROL]
    assert (lost.role, lost.burst, lost.ordinal) == ("control", 2, 7)
    assert lost.intended_wall_ns == T0_WALL_NS + 200 * NS_PER_S + of.offset_ns(7)
    assert len(merged.records) == merged.intended == 1 + 2 * USERS


def test_whatever_the_sizes_and_whatever_is_lost_each_intended_session_has_its_record(tmp_path: Path) -> None:
    rng = random.Random(20261124)
    for number in range(12):
        folder = tmp_path / str(number)
        folder.mkdir()
        parked = {f"w{n}": rng.randrange(9) for n in range(1, rng.randrange(2, 6))} | {"w0": 1}
        regions = {worker: rng.choice(("us", "eu")) for worker in parked}
        users = sum(parked.values())
        RunInfo(run_id=RUN_ID, started="2026-03-01T11:59:50Z", settings=OPTIONS, users=users).write(folder)
        journals = {worker: Journal(folder, worker, region) for worker, region in regions.items()}
        intended = kept = 0
        for burst in range(rng.randrange(1, 5)):
            of = Round(rng.choice(list(Role)), rng.randrange(1, users + 1), spread_s=rng.choice((0.0, 3.0)))
            counts = apportion(of.users, parked, regions)
            given = dict(zip(counts, shares(RUN_ID, burst, [*counts.values()], of), strict=True))
            BurstInfo(
                burst=burst, round=of, t0_wall_ns=T0_WALL_NS, intended=of.users,
                workers=tuple(
                    WorkerShare(worker=name, region=regions[name], first=part.first, count=part.count)
                    for name, part in given.items()
                ),
            ).append(folder)  # fmt: skip
            intended += of.users
            for name, part in given.items():
                for item in sessions_of(part, settings(users), regions[name]):
                    if rng.random() < 0.8:
                        one = unrecorded(item, RUN_ID, settings(users), name, regions[name], T0_WALL_NS)
                        journals[name].record(replace(one, findings={"ok": ""}))
                        kept += 1
        for journal in journals.values():
            journal.close()
        found = draft(folder)
        merged = found.merged
        assert len(merged.records) == merged.intended == intended
        assert len(merged.missing) == intended - kept
        assert sum(one["recorded"] for one in found.summary["rounds"]) == intended
        roles = {burst.burst: burst.round.role for burst in merged.bursts}
        assert all(one.role == roles[one.burst] for one in merged.records)


@pytest.mark.parametrize("role", list(Role))
def test_a_start_error_voids_in_a_burst_only(role: Role) -> None:
    late = [
        replace(one, marks_ns={**one.marks_ns, "fired": 80 * NS_PER_MS})
        for one in sessions(1, role, [100.0] * 3)
    ]
    reasons = void_reasons(late, [trailer(burst=1, intended=3, recorded=3)], 3, settings(3))
    assert bool(reasons) == (role is Role.BURST)


def test_a_stall_in_any_round_voids(tmp_path: Path) -> None:
    rounds = three()
    write(tmp_path, rounds)
    journal = Journal(tmp_path, "w1", "eu")
    journal.trailer(trailer(burst=0, intended=1, recorded=1, void=("it stood still",)))
    journal.close()
    assert make_report(tmp_path).void_reasons == ("worker w1 (eu): it stood still",)


def test_what_workers_returned_is_a_round_s_result() -> None:
    returns = Returns(settings(3))
    burst = BurstCourse(settings(3)).rounds[0]
    mine = sessions(1, Role.BURST, [100.0] * 3)
    returns.records([*reversed(mine), mine[0]])
    returns.records(sessions(0, Role.BASELINE, [90.0]))
    returns.trailer(trailer(burst=1, intended=3, recorded=3))
    result = returns.result(1, burst)
    assert (result.number, result.round, result.records, result.void_reasons) == (1, burst, tuple(mine), ())
    short = returns.result(1, replace(burst, users=4))
    assert short.void_reasons == ("3 records of 4 intended sessions: these must be equal",)
    returns.begin()
    assert returns.result(2, burst).records == ()


# Words.


def said(tmp_path: Path, rounds: Mapping[Role, Sequence[Record]], **options: str) -> str:
    (line,) = round_words.lines(summary_of(tmp_path, rounds, **options))
    return line


def test_it_is_the_burst(tmp_path: Path) -> None:
    assert said(tmp_path, three()) == (
        "Alone, a user is welcomed after 900 ms; 20 users spread over 5 s: p99 1.30 s; 20 users at the same "
        "instant: p99 24.0 s, 18 times as long: it is the burst, not the load."
    )


def test_it_is_the_load(tmp_path: Path) -> None:
    text = said(tmp_path, three(control=[20_000.0] * USERS))
    assert text.endswith("p99 24.0 s: about as long spread out, so it is the load, not the burst.")


def test_it_is_neither(tmp_path: Path) -> None:
    text = said(tmp_path, three(burst=[1000.0] * USERS, control=[950.0] * USERS))
    assert text.endswith("p99 1.00 s: about as long, so the burst does no harm.")


def test_spread_out_may_take_longer(tmp_path: Path) -> None:
    text = said(tmp_path, three(burst=[1000.0] * USERS, control=[9000.0] * USERS))
    assert text.endswith("p99 1.00 s: the burst is not what makes them wait.")


def test_who_is_never_welcomed_has_no_p99(tmp_path: Path) -> None:
    text = said(tmp_path, three(burst=[BURST_MS] * 5 + [None] * 15))
    assert text.endswith("20 users at the same instant: 15 never welcomed: it is the burst, not the load.")
    text = said(tmp_path / "both", three(burst=[None] * USERS, control=[None] * USERS))
    assert "spread over 5 s: 20 never welcomed" in text
    assert text.endswith("so it is the load, not the burst.")


def test_without_a_control_it_is_asked_for_where_that_would_tell(tmp_path: Path) -> None:
    slow = said(tmp_path, three(), control="")
    assert slow == (
        "Alone, a user is welcomed after 900 ms; 20 users at the same instant: p99 24.0 s, 27 times as long. "
        "Is it the burst or the load? `--control spread=60s` shows the same 20 users spread out."
    )
    fine = said(tmp_path / "fine", three(burst=[1000.0] * USERS), control="")
    assert fine == "Alone, a user is welcomed after 900 ms; 20 users at the same instant: p99 1.00 s."


def test_a_control_that_started_unevenly_is_said_so(tmp_path: Path) -> None:
    rounds = three()
    rounds[Role.CONTROL] = [
        replace(one, marks_ns={**one.marks_ns, "fired": 80 * NS_PER_MS}) for one in rounds[Role.CONTROL]
    ]
    summary = summary_of(tmp_path, rounds, **{"max-start-error": "50"})
    assert summary["verdict"] == Verdict.PASS
    assert round_words.lines(summary)[1] == (
        "The control's own requests left 80 ms off their planned start (p99): it was not as even as it was "
        "to be."
    )


def test_of_a_void_run_nothing_follows(tmp_path: Path) -> None:
    rounds = three()
    del rounds[Role.CONTROL][7]
    assert said(tmp_path, rounds).endswith("The run is void, so nothing follows from that.")


def test_several_bursts_are_compared_together(tmp_path: Path) -> None:
    rounds = three(burst=[1000.0] * USERS)
    write(tmp_path, rounds, {**BESIDE, "bursts": "2"})
    # The second burst's sessions, and the control as the third round.
    journal = Journal(tmp_path, "w1", "eu")
    for one in [*sessions(2, Role.BURST, [5000.0] * USERS), *sessions(3, Role.CONTROL, [900.0] * USERS)]:
        journal.record(one)
    journal.close()
    lines = (tmp_path / "workers" / "w1.jsonl").read_text().splitlines()
    kept = [line for line in lines if '"role":"control"' not in line or '"burst":3' in line]
    (tmp_path / "workers" / "w1.jsonl").write_text("\n".join(kept) + "\n")
    summary = draft(tmp_path).summary
    assert [one["role"] for one in summary["rounds"]] == ["baseline", "burst", "burst", "control"]
    assert summary["sessions"]["intended"] == summary["sessions"]["recorded"] == 2 * USERS
    (_, alone, asked, spread) = round_words.rows(summary)
    assert alone[:3] == ("alone", "1", "1")
    assert asked == ("at the same instant", "40", "40", "950 ms", "1.00 s", "5.00 s", "5.00 s")
    assert spread[:3] == ("spread over 5 s", "20", "20")
    assert len(round_words.table_rows(summary)) == 5


def test_already_alone(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, three(baseline=None))
    (line,) = round_words.alone_lines(summary)
    assert line == (
        "Already alone, before the burst, a session failed: never_assigned, no agent worker got the job. "
        "Cause: no job reported by the API. That is no burst's doing: check that --agent-name front-desk is "
        "the agent's own name, and that a worker of it runs."
    )
    assert console.text(summary).splitlines()[1].startswith("  - Already alone, before the burst, a session")
    assert markdown.text(summary).splitlines()[2].startswith("- Already alone")


def test_already_alone_at_one_s_own_backend(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, three(baseline=None))
    summary["resolved"] = {**summary["resolved"], "dispatch": "backend"}
    (line,) = round_words.alone_lines(summary)
    assert line.endswith("check which agent your backend asks for, and that a worker of it runs.")


def test_a_baseline_that_was_stopped_says_nothing_of_the_agent(tmp_path: Path) -> None:
    rounds = three()
    rounds[Role.BASELINE] = [replace(rounds[Role.BASELINE][0], findings={"cancelled": "stopped"})]
    summary = summary_of(tmp_path, rounds)
    assert (round_words.alone_lines(summary), summary["verdict"]) == ([], Verdict.VOID)


def test_already_alone_without_a_welcome(tmp_path: Path) -> None:
    rounds = three()
    rounds[Role.BASELINE] = [replace(rounds[Role.BASELINE][0], findings={"welcome_missing": "silent"})]
    (line,) = round_words.alone_lines(summary_of(tmp_path, rounds, welcome="audio,text"))
    assert line.endswith("That is no burst's doing: does this agent do what --welcome audio,text waits for?")


def test_console_and_markdown_show_them_side_by_side(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, three())
    lines = console.text(summary).splitlines()
    first = lines.index("Is it the burst?")
    assert [line.split("  ")[1].strip() for line in lines[first + 4 : first + 7]] == [
        "alone", "at the same instant", "spread over 5 s",
    ]  # fmt: skip
    assert len(lines) <= console.MAX_LINES
    assert max(map(len, lines)) <= console.WIDTH
    text = markdown.text(summary)
    assert "## By round" in text
    assert "| 2 | control: spread over 5 s | 2026-03-01T12:03:20.000Z | 20 | 20 | 1.25 s | 1.30 s |" in text


def test_a_burst_alone_is_shown_as_ever(tmp_path: Path) -> None:
    summary = summary_of(
        tmp_path, {Role.BURST: sessions(1, Role.BURST, [100.0] * USERS)}, baseline="0", control=""
    )
    assert round_words.lines(summary) == []
    assert round_words.rows(summary) == []
    assert round_words.table_rows(summary) == []
    assert round_words.alone_lines(summary) == []
    assert "Is it the burst?" not in console.text(summary)
    assert "By round" not in markdown.text(summary)


def test_a_report_made_again_is_the_same(tmp_path: Path) -> None:
    write(tmp_path, three())
    make_report(tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    make_report(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == first
    assert json.loads(first["summary.json"])["rounds"][2]["role"] == "control"


def test_a_record_of_no_round_is_one_of_a_burst() -> None:
    assert record(0).role == Role.BURST
    info_free = settings(3, release="free")
    assert info_free.baseline == 0


def test_witnesses_are_of_the_burst_only(tmp_path: Path) -> None:
    write(tmp_path, three(), {**BESIDE, "witness": "4"})
    (tmp_path / "workers" / "w1.jsonl").unlink()
    info = RunInfo.read(tmp_path)
    lost = merge(tmp_path, info, info.run_settings()).records
    assert {role: sum(one.engine == "sdk" for one in lost if one.role == role) for role in Role} == {
        "baseline": 0, "burst": 4, "control": 0,
    }  # fmt: skip


def test_a_run_that_was_stopped_in_its_baseline_has_a_report(tmp_path: Path) -> None:
    write(tmp_path, three(baseline=None))
    lines = (tmp_path / "bursts.jsonl").read_text().splitlines()
    (tmp_path / "bursts.jsonl").write_text(lines[0] + "\n")
    journal = (tmp_path / "workers" / "w1.jsonl").read_text().splitlines()
    (tmp_path / "workers" / "w1.jsonl").write_text("\n".join(journal[:2]) + "\n")
    append_reason(tmp_path, "the run was stopped")
    judgement = make_report(tmp_path)
    assert (judgement.verdict, judgement.void_reasons[0]) == (Verdict.VOID, "the run was stopped")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["sessions"] == {"intended": 0, "recorded": 0, "unrecorded": 0, "uncounted": 0}
    assert [one["recorded"] for one in summary["rounds"]] == [1]
    assert round_words.lines(summary) == []
    assert "Already alone" in console.text(summary)
    assert "alone" in round_words.rows(summary)[1]
