"""``support.md`` and ``support.zip``: whole runs from builders' records."""

from __future__ import annotations

import io
import json
import random
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from builders import RUN_ID, T0_WALL_NS, marks_ns, never_assigned, queued_session, record, welcomed, write_run

from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.outcome import OUTCOMES, Finding
from lk_users.record import Mark, Record
from lk_users.report import support
from lk_users.report.cases import cause_class, failures, slowest
from lk_users.report.folder import append_reason
from lk_users.report.make import ending, make_report

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SERVER = "cloud 1.13.5 node ND_a region us-east"
MADE = ("support.md", "support.zip")


def founding_case() -> list[Record]:
    """Nine never assigned, one rejected, forty served after a queue; time was up after 15 s."""
    rng = random.Random(5)
    seen = {"evidence": {"server": SERVER}, "deadline_ns": 15 * NS_PER_S, "decided_ns": 15 * NS_PER_S}
    rejected = {
        "findings": {"rejected": "job AJ_9 ended as success without an agent"},
        "job_id": "AJ_9",
        "worker_id": "AW_7",
        "dispatch_id": "AD_9",
        "evidence": {},
    }
    lost = [never_assigned(n, room_sid=f"RM_lost{n}", **seen) for n in range(9)]
    served = {
        "evidence": {"server": SERVER, "agent": {"hosted_by_livekit": True}},
        "agent_identity": "agent-AJ_x",
    }
    return [
        *lost,
        never_assigned(9, **{**seen, **rejected}),
        *(queued_session(rng, n, participant_sid=f"PA_user{n}", **served) for n in range(10, 50)),
    ]


def made(run_dir: Path, records: Sequence[Record], **options: Any) -> list[str]:
    """The lines of support.md of a run of one worker."""
    write_run(run_dir, records, workers={"w1": ("eu", 0, len(records))}, **options)
    make_report(run_dir)
    return (run_dir / "support.md").read_text().splitlines()


def members(run_dir: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(run_dir / "support.zip") as archive:
        assert archive.testzip() is None
        return {info.filename: archive.read(info) for info in archive.infolist()}


# Whether there is one


def test_a_clean_pass_has_nothing_for_support(tmp_path: Path) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)})
    make_report(tmp_path)
    assert [name for name in MADE if (tmp_path / name).exists()] == []
    assert "support" not in ending(tmp_path)


def test_a_pass_with_a_failed_session_has(tmp_path: Path) -> None:
    lines = made(tmp_path, [welcomed(0), never_assigned(1)], slo="count(ok) >= 1")
    assert lines[2] == "# 1 of 2 sessions failed"
    assert ending(tmp_path).splitlines()[-1] == (
        f"For LiveKit's support: {tmp_path / 'support.zip'}, and support.md there to paste"
    )


def test_a_missed_slo_alone_has(tmp_path: Path) -> None:
    lines = made(tmp_path, [welcomed(0)], slo="p95(welcomed) <= 1 ms")
    assert lines[2] == "# 1 session, none failed"
    assert "- Expected and missed: `p95(welcomed) <= 1 ms` (was 250 ms)." in lines


def test_a_void_run_says_that_it_is_no_evidence(tmp_path: Path) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)})
    append_reason(tmp_path, "the generator slept")
    make_report(tmp_path)
    lines = (tmp_path / "support.md").read_text().splitlines()
    assert lines[4] == "- **Not to be sent as it is: the run is void.** the generator slept."
    assert "- It may have been: the run is void, see above." in lines
    assert "support" not in ending(tmp_path)


def test_sessions_that_do_nothing_are_no_evidence(tmp_path: Path) -> None:
    write_run(tmp_path, [never_assigned(0)], workers={"w1": ("eu", 0, 1)}, engine="idle")
    make_report(tmp_path)
    assert [name for name in MADE if (tmp_path / name).exists()] == []


def test_the_end_of_a_free_run_is_no_failure(tmp_path: Path) -> None:
    records = [welcomed(0), record(1, findings={"cancelled": "stopped"})]
    write_run(tmp_path, records, workers={"w1": ("eu", 0, 2)}, release="free")
    make_report(tmp_path)
    assert not (tmp_path / "support.md").exists()


# What it says


def test_line_one_says_what_the_users_are(tmp_path: Path) -> None:
    assert made(tmp_path, founding_case())[0] == (
        "The users of this run are WebRTC participants of lk-users 0.1.0: LiveKit's signalling and aiortc, "
        "not the official SDK. None ran on the official SDK beside them; `--witness 10` makes ten of a "
        "burst do so."
    )


def test_the_problem_in_plain_words(tmp_path: Path) -> None:
    lines = made(tmp_path, founding_case())
    assert lines[2:6] == [
        "# 10 of 50 sessions failed",
        "",
        "- 50 sessions at one instant: 40 ok, 9 never_assigned (no agent worker got the job), 1 rejected "
        "(an agent worker declined the job).",
        "- The agent was in the room 3.65 s (p50), 15.0 s (p90), 15.0 s (p99) after the planned start; the "
        "10 without one count at their deadline.",
    ]
    assert lines[6].startswith("- 43 % of the wait was in the server's queue (server_queue: ")
    assert "- Expected and missed: `count(lost) == 0` (was 10)." in lines


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": "1", "batch-size": "1"}, "2 sessions in batches of 1 every 1.0 s: "),
        ({"release": "free"}, "2 sessions, each when its user was started: "),
    ],
)
def test_how_the_sessions_were_started(tmp_path: Path, options: dict[str, str], said: str) -> None:
    lines = made(tmp_path, [welcomed(0), never_assigned(1)], **options)
    assert lines[4].startswith(f"- {said}1 ok, 1 never_assigned")


def test_what_support_asks_for_first(tmp_path: Path) -> None:
    given = {"project-id": "p_4gzq81mx2tk", "order": "join-first", "metadata": "(given, not shown)"}
    lines = made(tmp_path, founding_case(), **given)
    start = lines.index("## Where to find it") + 2
    assert lines[start : start + 15] == [
        "|  |  |",
        "| --- | --- |",
        "| project | p_4gzq81mx2tk |",
        "| URL | `ws://127.0.0.1:7880` |",
        f"| server | {SERVER} (49); not known (1) |",
        "| agent | `front-desk` |",
        "| asked for | by CreateDispatch, join-first |",
        "| agent's SDK | not known: LiveKit's API does not tell it |",
        "| agent hosted by LiveKit Cloud | yes (40) |",
        f"| run, started (UTC) | {RUN_ID}, 2026-03-01T11:59:50Z |",
        "| T0 (UTC) | 2026-03-01T12:00:00.000Z |",
        "| last outcome (UTC) | 2026-03-01T12:00:15.000Z |",
        "| regions of the users | eu |",
        "| versions | lk-users 0.1.0, livekit-server 1.13.5 |",
        "| settings beside defaults | `--agent-name front-desk --order join-first --metadata '(given, not "
        "shown)' --project-id p_4gzq81mx2tk` |",
    ]


def test_what_is_not_known_is_said_so(tmp_path: Path) -> None:
    lines = made(tmp_path, [record(0, findings={"dispatch_failed": "reset"}, intended_wall_ns=0)])
    for row in (
        "| project | not known; `--project-id p_…` puts it here |",
        "| server | not known (1) |",
        "| agent hosted by LiveKit Cloud | not known: none was seen |",
        "| last outcome (UTC) | not known |",
    ):
        assert row in lines
    start = lines.index("- **dispatch_failed**, 1 session: reset") + 1
    assert lines[start : start + 3] == [
        f"  - room `lk-{RUN_ID}-b0-0` (not known), dispatch not known, job not known, agent worker not "
        "known, user not known (engine listen, region eu), agent not known",
        "  - planned start not known; from there in ms: nothing",
        "  - server's clock: dispatch stored not known, job offered not known, agent joined not known",
    ]


def test_the_agents_sdk_is_what_its_workers_tell(tmp_path: Path) -> None:
    made(tmp_path, founding_case())
    summary = json.loads((tmp_path / "summary.json").read_text())
    workers = [{"sdk_version": version} for version in ("1.8.9", None, "1.8.9", "1.9.0")]
    lines = support.text({**summary, "agent_workers": workers}, founding_case()).splitlines()
    assert "| agent's SDK | 1.8.9, 1.9.0 |" in lines


def test_who_runs_the_agents_is_told_of_those_that_were_seen(tmp_path: Path) -> None:
    records = [record(n, findings={"rejected": ""}, agent_sid=f"PA_{n}" if n else "") for n in range(3)]
    assert "| agent hosted by LiveKit Cloud | no (2) |" in made(tmp_path, records)


def test_outcomes_by_cause(tmp_path: Path) -> None:
    lines = made(tmp_path, founding_case())
    start = lines.index("| outcome | cause | sessions | whose doing |") + 2
    assert lines[start : start + 3] == [
        "| ok | - | 40 | - |",
        "| never_assigned | no job reported by the API | 9 | the target's doing |",
        "| rejected | job … ended as success without an agent | 1 | the target's doing |",
    ]


def test_why_it_is_not_the_load_generator(tmp_path: Path) -> None:
    records = founding_case()
    ice = {"ice": {"local": "host", "rtt_ms": 0.4}}
    records[20] = replace(records[20], findings={"ok": "", "lag_in_window": "", "rearmed": ""}, evidence=ice)
    lines = made(tmp_path, records, **{"max-stall": "900"})
    start = lines.index("## Why it is not the load generator") + 2
    assert lines[start : start + 5] == [
        "- 50 requests left within 9.7 ms of T0 (p99), max 9.7 ms. A run is void beyond 50 ms (p99).",
        "- Generator of 1 worker: loop lag p95 12 ms, longest stall 210 ms, CPU 2.10 s (42 ms a session), "
        "clocks known to ±0.4 ms. A run is void beyond a stall of 900 ms or ±250 ms.",
        "- No phase is blamed that is shorter than the generator's own lag while its session ran. A stall of "
        "100 ms or more fell into 1 of 50 sessions.",
        "- 1 of 50 sessions had a connection made again since it was found dead at or before its write; no "
        "other request was repeated.",
        "- Media of the users by candidate type: host 1, round trip p50 0.4 ms, max 0.4 ms.",
    ]


def test_a_failure_with_all_that_finds_it_again(tmp_path: Path) -> None:
    one = record(
        3,
        findings={"welcome_missing": "its audio arrived, but silent; missing: audio", "ghost_dispatch": ""},
        evidence={"server": SERVER, "packets": 51, "local_ports": [50000]},
        marks_ns=marks_ns({Mark.FIRED: 1.25, Mark.DISPATCHED: 5, Mark.AGENT_JOINED: 310.4}),
        decided_ns=10_310 * NS_PER_MS,
        created_at_ns=T0_WALL_NS + 4 * NS_PER_MS,
        started_at_ns=T0_WALL_NS + 205_900_000,
        joined_at_ns=T0_WALL_NS + 310 * NS_PER_MS,
        room_sid="RM_3",
        dispatch_id="AD_3",
        job_id="AJ_3",
        worker_id="AW_3",
        participant_sid="PA_user",
        agent_sid="PA_agent",
        agent_identity="agent-AJ_3",
    )
    lines = made(tmp_path, [one, replace(one, ordinal=4, session_id="s4", room_sid="RM_4")])
    start = (
        lines.index("- **welcome_missing**, 2 sessions: its audio arrived, but silent; missing: audio") + 1
    )
    assert lines[start : start + 5] == [
        f"  - room `lk-{RUN_ID}-b0-3` (RM_3), dispatch AD_3, job AJ_3, agent worker AW_3, user PA_user "
        "(engine listen, region eu), agent agent-AJ_3 (PA_agent)",
        "  - planned start 2026-03-01T12:00:00.000Z; from there in ms: fired 1.2, dispatched 5.0, "
        "agent_joined 310.4, decided 10310.0; also found: ghost_dispatch",
        "  - server's clock: dispatch stored 2026-03-01T12:00:00.004Z, job offered 2026-03-01T12:00:00.205Z, "
        "agent joined 2026-03-01T12:00:00.310Z",
        '  - seen besides: `{"packets": 51}`',
        "  - 1 more of the kind, such as RM_4",
    ]


def test_the_slowest_that_were_welcomed(tmp_path: Path) -> None:
    records = founding_case()
    lines = made(tmp_path, records)
    assert "## The 10 slowest that were welcomed" in lines
    waits_ms = sorted((one.marks_ns["welcomed"] / NS_PER_MS for one in records if one.welcomed), reverse=True)
    assert [line for line in lines if line.startswith("- **welcomed after")] == [
        f"- **welcomed after {wait_ms / 1000:.2f} s**" for wait_ms in waits_ms[:10]
    ]


def test_the_slowest_are_those_that_were_welcomed_however_late() -> None:
    late = welcomed(3, 15_000, findings={"welcome_late": "14.0 s after the agent joined"})
    records = [*(welcomed(n, 100 + n) for n in range(3)), late, never_assigned(4)]
    assert [one.ordinal for one in slowest(records)] == [3, 2, 1, 0]


def test_how_to_check_it(tmp_path: Path) -> None:
    lines = made(tmp_path, founding_case())
    (query,) = [line for line in lines if "jq -r" in line]
    assert "`jq -r 'select(.findings.never_assigned) | [.room, .room_sid, " in query
    (again,) = [line for line in lines if line.startswith("- The same again: ")]
    assert "-u 50 -r 50 --agent-name front-desk`" in again
    assert not any("livekit-server to look for" in line for line in lines), "a cloud's logs are not ours"
    own = made(
        tmp_path / "own", [never_assigned(0, evidence={"server": "open source 1.13.5 node N region -"})]
    )
    assert any("livekit-server to look for" in line for line in own)


WITNESS: dict[str, Any] = {
    "sessions": 10,
    "outcomes": {"listen": {"ok": 31, "never_assigned": 9}, "sdk": {"ok": 10}},
    "unlike": [
        {
            "engine": "listen", "session_id": f"s-{number}", "room": f"room-{number}",
            "outcome": "never_assigned", "why": "no worker took the job" if number else "",
        }
        for number in range(9)
    ],
    "marks": {
        "agent_joined": {
            "listen": {"n": 31, "p50": 3700.0, "p90": 5100.0},
            "sdk": {"n": 10, "p50": 3741.0, "p90": 5000.0},
            "difference_p50_ms": 41.0,
        },
        "first_text": {
            "listen": {"n": 0, "p50": None, "p90": None},
            "sdk": {"n": 0, "p50": None, "p90": None},
            "difference_p50_ms": None,
        },
    },
}  # fmt: skip


def test_witnesses(tmp_path: Path) -> None:
    made(tmp_path, founding_case())
    summary = json.loads((tmp_path / "summary.json").read_text())
    lines = support.text({**summary, "witness": WITNESS}, founding_case()).splitlines()
    assert lines[0].endswith(
        "Beside them 10 sessions of the same bursts ran on the official SDK: see Witnesses."
    )
    start = lines.index("## Witnesses") + 2
    assert lines[start : start + 6] == [
        "Outcomes by engine: `listen`: 31 ok, 9 never_assigned; `sdk`: 10 ok. The difference is 9 sessions: "
        "8 by an agent that never came or by the bound of a rule; 1 by nothing that is known.",
        "",
        "| mark | listen: p50, p90 (sessions) | sdk: p50, p90 (sessions) | difference of p50 |",
        "| --- | --- | --- | --- |",
        "| agent_joined | 3.70 s, 5.10 s (31) | 3.74 s, 5.00 s (10) | 41 ms |",
        "| first_text | - | - | - |",
    ]
    without = support.text({**summary, "witness": None}, founding_case())
    assert "## Witnesses" not in without
    assert "`--witness 10`" in without.splitlines()[0]


# Whatever is in it


def crowded(count: int) -> list[Record]:
    """Every outcome, each with more causes than are shown, and all of it long and foreign."""
    rng = random.Random(3)
    foreign = "a|b `c` <!-- \n## d " + "x " * 400
    bad = [finding for finding in OUTCOMES if finding is not Finding.OK]
    records = []
    for n in range(count):
        finding = {"ok": ""} if n % 2 else {bad[n // 2 % len(bad)].value: f"{'abc'[n % 3]} {foreign}"}
        facts = {f"fact{m}": foreign for m in range(9)}
        evidence = {
            **facts,
            "server": f"open source 1 node N{n} region {foreign}",
            "agent": {"attributes": {"lk.x": foreign}},
        }
        marks = marks_ns(dict.fromkeys(Mark, rng.uniform(1, 9000)))
        records.append(
            record(
                n, findings=finding, evidence=evidence, marks_ns=marks, agent_sid="PA", agent_identity=foreign
            )
        )
    return records


def test_it_stays_short_enough_to_paste(tmp_path: Path) -> None:
    records = crowded(1500)
    write_run(
        tmp_path, records[:10], workers={"w1": ("eu", 0, 10)}, slo="; ".join(["count(ok) >= 9000"] * 30)
    )
    make_report(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    mark = {"n": 1500, "censored": 0, "p50": 1, "p90": 1, "p99": 1, "max": 1}
    crowd = {
        **summary,
        "verdict": "VOID",
        "void_reasons": ["a reason " * 90] * 200,
        "marks": dict.fromkeys(summary["marks"], mark),
        "phases": {name: {**mark, "share": 0.5} for name in summary["phases"]},
        "bursts": summary["bursts"] * 100,
        "workers": [{**summary["workers"][0], "region": f"r{n}"} for n in range(300)],
        "witness": {**WITNESS, "marks": dict.fromkeys(summary["marks"], WITNESS["marks"]["agent_joined"])},
    }
    text = support.text(crowd, records)
    assert len(text.splitlines()) <= support.MAX_LINES
    assert len(text) < 64_000


def test_foreign_text_ends_neither_table_nor_list(tmp_path: Path) -> None:
    lines = made(tmp_path, crowded(50))
    width = 0
    for line in lines:
        if not line.startswith("|"):
            width = 0
            continue
        cells = line.replace("\\|", "").count("|")
        assert cells == (width or cells), line
        width = cells
    assert [line for line in lines if line.startswith("## d")] == []
    assert [line for line in lines if line.startswith("  - seen besides: ") and line.count("`") != 2] == []


def test_each_kind_of_failure_once() -> None:
    records = [
        record(0, findings={"assigned_not_joined": "job AJ_a1 is running on AW_x"}),
        record(1, findings={"assigned_not_joined": "job AJ_b2 is running on AW_y"}),
        record(2, findings={"assigned_not_joined": "job AJ_b2 is success on AW_y"}),
        record(3, findings={"dispatch_failed": "HTTP 503: no servers"}),
        record(4, findings={"dispatch_failed": "HTTP 500: no servers"}),
        record(5, findings={"ok": ""}),
        record(6, findings={"generator_lost": "its worker w1 sent no record"}),
    ]
    kinds = [
        (kind.outcome.value, kind.cause, [one.ordinal for one in kind.records]) for kind in failures(records)
    ]
    assert kinds == [
        ("generator_lost", "its worker w1 sent no record", [6]),
        ("dispatch_failed", "HTTP 500: no servers", [4]),
        ("dispatch_failed", "HTTP 503: no servers", [3]),
        ("assigned_not_joined", "job … is running on …", [0, 1]),
        ("assigned_not_joined", "job … is success on …", [2]),
    ]


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        ("11.2 s after the agent joined", "… s after the agent joined"),
        ("no answer within 6 s", "no answer within … s"),
        ("agent-AJ_x9Kd and agent-1f2e3d4c5b6a at once", "… and … at once"),
        ("could not find room lk-20261124T094230-cc41-b1-7", "could not find room …"),
        ("closed by the server (code 1006)", "closed by the server (code 1006)"),
        ("HTTP 503", "HTTP 503"),
        ("its worker eu-west-1 sent no record", "its worker eu-west-1 sent no record"),
        ("", ""),
    ],
)
def test_what_causes_have_in_common(cause: str, kind: str) -> None:
    assert cause_class(cause) == kind


# The bundle


def test_made_again_it_has_the_same_bytes(tmp_path: Path) -> None:
    made(tmp_path, founding_case())
    before = [(tmp_path / name).read_bytes() for name in MADE]
    for name in MADE:
        (tmp_path / name).unlink()
    make_report(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in MADE] == before


def test_what_the_bundle_holds(tmp_path: Path) -> None:
    made(tmp_path, founding_case())
    names = ["support.md", "summary.md", "summary.json", "run.json", "bursts.jsonl", "records.jsonl"]
    found = members(tmp_path)
    assert list(found) == [f"{RUN_ID}/{name}" for name in names]
    assert found == {f"{RUN_ID}/{name}": (tmp_path / name).read_bytes() for name in names}
    with zipfile.ZipFile(tmp_path / "support.zip") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.external_attr >> 16 for info in archive.infolist()} == {0o644}
    append_reason(tmp_path, "it slept")
    make_report(tmp_path)
    assert members(tmp_path)[f"{RUN_ID}/void.jsonl"] == b'{"reason":"it slept"}\n'


def test_of_many_records_the_failed_and_the_slowest_go_along(tmp_path: Path) -> None:
    bulk = {"evidence": {"bulk": "x" * 60_000}}
    records = [never_assigned(n, **bulk) if n < 3 else welcomed(n, 100 + n, **bulk) for n in range(100)]
    made(tmp_path, records)
    lines = members(tmp_path)[f"{RUN_ID}/records.jsonl"].decode().splitlines()
    assert [Record.from_json(line).ordinal for line in lines] == [0, 1, 2, *range(90, 100)]


def test_what_failed_sessions_heard_goes_along_up_to_a_bound(tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    mega = 1 << 20
    for name, size in {"c.wav": 9, "a.wav": 6 * mega, "b.wav": 5 * mega, "note.txt": 3}.items():
        (audio / name).write_bytes(b"R" * size)
    (audio / "d.wav").symlink_to(audio / "c.wav")
    (audio / "e.wav").symlink_to(audio / "gone.wav")
    made(tmp_path, [never_assigned(0)])
    found = members(tmp_path)
    assert {name: len(found[name]) for name in found if "/audio/" in name} == {
        f"{RUN_ID}/audio/a.wav": 6 * mega,
        f"{RUN_ID}/audio/c.wav": 9,
    }
    assert list(found)[-1] == f"{RUN_ID}/audio/c.wav"


def test_the_bundle_is_a_whole_zip_file(tmp_path: Path) -> None:
    made(tmp_path, [never_assigned(0)])
    assert zipfile.is_zipfile(io.BytesIO((tmp_path / "support.zip").read_bytes()))
