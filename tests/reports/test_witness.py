"""Who is a witness, and how the report puts witnesses beside the others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from builders import RUN_ID, burst_round, marks_ns, settings, trailer, welcomed, write_run

from lk_users.errors import Refused
from lk_users.outcome import Finding
from lk_users.plan import is_witness, sessions, shares
from lk_users.record import Mark
from lk_users.report import witness_words
from lk_users.report.folder import RunInfo, merge
from lk_users.report.make import make_report
from lk_users.report.witness import section

if TYPE_CHECKING:
    from pathlib import Path

    from lk_users.record import Record


@pytest.mark.parametrize(("total", "count"), [(20, 10), (12, 6), (600, 7), (5, 5), (7, 3), (1, 0), (1, 1)])
def test_so_many_witnesses_and_evenly(total: int, count: int) -> None:
    ordinals = [ordinal for ordinal in range(total) if is_witness(ordinal, count, total)]
    assert len(ordinals) == count
    # Any window of a burst has its part, to within one.
    for width in (1, total // 3 or 1, total):
        for first in range(total - width + 1):
            inside = sum(first <= ordinal < first + width for ordinal in ordinals)
            assert abs(inside - width * count / total) < 1 + 1e-9


def test_every_worker_has_its_part() -> None:
    chosen = settings(24, witness="6", metadata='{"by": "{engine}"}')
    for share in shares(RUN_ID, 1, [8, 8, 8], burst_round(24)):
        mine = list(sessions(share, chosen, "eu"))
        assert [item.engine for item in mine].count("sdk") == 2
        assert all(item.metadata == f'{{"by": "{item.engine}"}}' for item in mine)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"witness": "6"}, "--witness 6: larger than the burst of 5 (--users)"),
        ({"witness": "-1"}, "--witness -1: must be a whole number of at least 0"),
        ({"witness": "half"}, "--witness half: not a whole number"),
        (
            {"witness": "1", "release": "free"},
            "--witness 1: compares sessions of one burst; use --release barrier",
        ),
        (
            {"witness": "1", "engine": "idle"},
            "--witness 1: engine idle does nothing to compare with; use --engine listen",
        ),
    ],
)
def test_a_fault_of_the_option_is_one_line(options: dict[str, str], fault: str) -> None:
    with pytest.raises(Refused) as refused:
        settings(5, **options)
    assert refused.value.faults == (fault,)


def heard(ordinal: int, engine: str, connected: float, joined: float, spoke: float, audio: float) -> Record:
    marks = {
        Mark.FIRED: 0.0, Mark.CONNECTED: connected, Mark.MEDIA_UP: connected, Mark.AGENT_SEEN: joined,
        Mark.AGENT_JOINED: joined, Mark.AGENT_SPEAKING: spoke, Mark.AGENT_TRACK: spoke,
        Mark.FIRST_AUDIO: audio, Mark.WELCOMED: audio,
    }  # fmt: skip
    evidence = {"receive_delay_ms": 20.0 + ordinal, "jitter_buffer_ms": 10.0} if engine == "sdk" else {}
    return welcomed(ordinal, audio, engine=engine, marks_ns=marks_ns(marks), evidence=evidence)


MIXED = (
    heard(0, "listen", 20, 250, 300, 302),
    heard(1, "sdk", 200, 250, 310, 340),
    heard(2, "listen", 30, 270, 320, 330),
    # Came after its agent, which learned of it at the server's next tick.
    heard(3, "sdk", 320, 270, 3010, 3050),
)


def test_figures_side_by_side() -> None:
    found = section(MIXED, [trailer(witness_cpu_s=0.3), trailer(burst=1, witness_cpu_s=0.2)])
    assert found is not None
    assert found["sessions"] == 2
    assert found["outcomes"] == {"listen": {"ok": 2}, "sdk": {"ok": 2}}
    assert found["marks"]["connected"] == {
        "listen": {"n": 2, "p50": 20.0, "p90": 30.0},
        "sdk": {"n": 2, "p50": 200.0, "p90": 320.0},
        "difference_p50_ms": 180.0,
    }
    assert found["marks"]["agent_joined"]["difference_p50_ms"] == 0.0
    assert found["marks"]["first_text"]["difference_p50_ms"] is None
    assert found["marks"]["first_text"]["sdk"] == {"n": 0, "p50": None, "p90": None}
    assert found["hearing"]["difference_p50_ms"] == 28.0
    assert found["join_to_audio"]["sdk"] == {"n": 1, "p50": 90.0, "p90": 90.0}
    assert found["join_to_audio"]["difference_p50_ms"] == 38.0
    assert found["late_users"] == {"listen": 0, "sdk": 1}
    assert found["receive_delay_ms"] == {"n": 2, "p50": 21.0, "p90": 23.0}
    assert found["cpu_s"] == 0.5


def test_without_witnesses_there_is_no_section() -> None:
    assert section(MIXED[:1], []) is None
    assert witness_words.lines(None) == []


def test_in_words() -> None:
    lines = witness_words.lines(section(MIXED, []))
    assert lines[0] == (
        "2 sessions beside 2 of engine listen ran on the official livekit SDK: the same outcomes on both "
        "sides (ok)."
    )
    assert lines[1] == (
        "Once its agent said that it speaks, a user on the SDK heard it 28 ms later than one on listen "
        "(p50). Once the SDK's own receive delay is taken off, 21 ms from a packet's arrival to its sound "
        "(p50 of 2): +7.0 ms."
    )
    assert lines[2].startswith("1 user on the SDK and 0 on listen came into the room after their agent.")


def test_with_the_join_first_everything_moves_with_it() -> None:
    first = [replace(record, order="join-first") for record in MIXED]
    assert "the SDK's longer way into the room" in witness_words.lines(section(first, []))[-1]
    assert not any("longer way" in line for line in witness_words.lines(section(MIXED, [])))


def test_other_outcomes_are_said_so() -> None:
    silent = replace(MIXED[1], findings={Finding.WELCOME_MISSING.value: "silent"})
    (first, second, *_) = witness_words.lines(section((MIXED[0], silent), []))
    assert first.endswith("the outcomes differ (listen 1 ok; sdk 1 welcome_missing).")
    # It came to them, so a cause in words is what one of them says of its hearing: no explanation.
    assert second == (
        f"What makes the difference: sdk {silent.session_id}, welcome_missing: nothing is known that "
        "explains it"
    )


def eager(ordinal: int, *, clipped: bool, lag_ms: float = 0.0, **evidence: float) -> Record:
    record = heard(ordinal, "sdk" if ordinal % 2 else "listen", 20, 250, 300, 1302)
    found = {Finding.WELCOME_CLIPPED.value: "800 ms"} if clipped else {Finding.OK.value: ""}
    return replace(record, findings=found, lag_ms=lag_ms, evidence=evidence)


@pytest.mark.parametrize(
    ("evidence", "why"),
    [
        (
            {"speech_ms_before_us": 812.4, "ms_before": 40.0},
            "its agent had been speaking for 812 ms before its audio could reach the user, but what came "
            "began with 40 ms of silence: nobody can tell whether a sound was lost before that",
        ),
        (
            {"speech_ms_before_us": 190.0, "ms_before": 0.0},
            "its agent had been speaking for 190 ms before its audio could reach the user; from 200 ms on "
            "that is welcome_clipped",
        ),
        # The lag is taken off, as the rule does.
        (
            {"speech_ms_before_us": 300.0, "ms_before": 0.0, "lag_ms": 150.0},
            "its agent had been speaking for 150 ms before its audio could reach the user; from 200 ms on "
            "that is welcome_clipped",
        ),
        ({"speech_ms_before_us": 99.0, "ms_before": 40.0}, ""),
        ({}, ""),
    ],
)
def test_one_on_the_other_side_of_a_rule_is_named(evidence: dict[str, float], why: str) -> None:
    one = eager(2, clipped=False, **evidence)
    sides = [eager(0, clipped=True), eager(1, clipped=True), one, eager(3, clipped=True)]
    found = section(sides, [])
    assert found is not None
    assert found["unlike"] == [
        {
            "engine": "listen", "session_id": one.session_id, "room": one.room, "outcome": "ok", "why": why,
        }
    ]  # fmt: skip
    (first, second, *_) = witness_words.lines(found)
    assert first.endswith("the outcomes differ (listen 1 welcome_clipped, 1 ok; sdk 2 welcome_clipped).")
    assert second.endswith(f"{one.session_id}, ok: {why or 'nothing is known that explains it'}")


def test_an_agent_that_never_came_was_not_misheard() -> None:
    cause = "no worker took the job"
    gone = replace(MIXED[2], marks_ns={}, agent_sid="", findings={Finding.NEVER_ASSIGNED.value: cause})
    found = section((MIXED[0], MIXED[1], gone, MIXED[3]), [])
    assert found is not None
    assert [(one["outcome"], one["why"]) for one in found["unlike"]] == [("never_assigned", cause)]


@pytest.mark.parametrize("outcome", [Finding.CLIENT_BLIND, Finding.ENGINE_CRASHED, Finding.CONNECT_FAILED])
def test_an_agent_that_only_this_side_did_not_see_explains_nothing(outcome: Finding) -> None:
    """That is what a witness is there to find."""
    blind = replace(MIXED[2], marks_ns={}, agent_sid="", findings={outcome.value: "the API lists agent-1"})
    found = section((MIXED[0], MIXED[1], blind, MIXED[3]), [])
    assert found is not None
    assert [(one["outcome"], one["why"]) for one in found["unlike"]] == [(outcome, "")]


def test_of_unequal_sides_only_what_one_has_alone_counts() -> None:
    """Six of 600 cannot have all that the others have."""
    late = replace(MIXED[2], findings={Finding.WELCOME_LATE.value: "9 s"})
    well = (MIXED[0], MIXED[1], heard(4, "listen", 20, 250, 300, 302))
    found = section((*well, late), [])
    assert found is not None
    assert [one["session_id"] for one in found["unlike"]] == [late.session_id]
    found = section(well, [])
    assert found is not None
    assert found["unlike"] == []


def test_many_that_differ_do_not_bury_the_report() -> None:
    missing = {Finding.WELCOME_MISSING.value: "silent"}
    lost = [replace(heard(n, "listen", 20, 250, 300, 302), findings=missing) for n in range(0, 60, 2)]
    lines = witness_words.lines(section((*lost, *(heard(n, "sdk", 20, 250, 300, 302) for n in (1, 3))), []))
    assert sum(line.startswith("What makes the difference") for line in lines) == 2
    lines = witness_words.lines(section((*lost, *(heard(n, "sdk", 9, 9, 9, 9) for n in range(1, 99, 2))), []))
    assert sum(line.startswith("What makes the difference") for line in lines) == witness_words.UNLIKE_SHOWN
    assert "And 22 sessions more." in lines


def test_a_delay_that_was_not_measured_is_not_made_up() -> None:
    blind = [replace(record, evidence={"jitter_buffer_ms": 30.0}) for record in MIXED[:2]]
    lines = witness_words.lines(section([replace(blind[0], evidence={}), blind[1]], []))
    assert lines[1].endswith(
        "The SDK's whole receive delay could not be measured; its jitter buffer alone held each sample for "
        "30 ms (p50)."
    )


def test_the_report_has_it_and_a_lost_witness_is_one(tmp_path: Path) -> None:
    run_dir = tmp_path / RUN_ID
    # Ordinal 3, a witness, was recorded by nobody.
    write_run(run_dir, MIXED[:3], workers={"w1": ("eu", 0, 4)}, witness="2")
    make_report(run_dir)
    text = (run_dir / "summary.md").read_text()
    assert "## The witness" in text
    assert "| user in the room | 2 | 20 ms | 30 ms | 1 | 200 ms | 200 ms | +180 ms |" in text
    info = RunInfo.read(run_dir)
    lost = merge(run_dir, info, info.run_settings()).records[3]
    assert (lost.outcome, lost.engine) == (Finding.GENERATOR_LOST, "sdk")
