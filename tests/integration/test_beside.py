"""Baseline and control beside a burst, against a real server."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from lk_users.clock import NS_PER_S
from lk_users.report.folder import read_bursts

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Finished, Running

pytestmark = pytest.mark.real

USERS = 20
SPREAD_S = 5.0


def test_a_burst_beside_its_baseline_and_its_control(burst: Callable[..., Finished]) -> None:
    done = burst(USERS, "--processes", "2", "--baseline", "1", "--control", "spread=5s")
    assert done.code == 0, done.stdout + done.stderr
    baseline, asked, control = done.summary["rounds"]
    assert [one["role"] for one in (baseline, asked, control)] == ["baseline", "burst", "control"]
    assert [one["users"] for one in (baseline, asked, control)] == [1, USERS, USERS]
    for one in (baseline, asked, control):
        assert one["intended"] == one["recorded"] == one["users"]
        assert one["outcomes"] == {"ok": one["users"]}
        assert one["marks"]["welcomed"]["n"] == one["users"]
        assert 0 < one["marks"]["welcomed"]["p50"] < 20_000
    assert asked["start_error_ms"]["p99"] <= 50
    assert control["start_error_ms"]["n"] == USERS

    # Nothing is mixed in.
    assert done.summary["sessions"] == {
        "intended": USERS, "recorded": USERS, "unrecorded": 0, "uncounted": 0,
    }  # fmt: skip
    assert done.summary["outcomes"] == {"ok": USERS}
    assert done.summary["marks"]["welcomed"] == asked["marks"]["welcomed"]
    assert [one["sessions"] for one in done.summary["bursts"]] == [USERS]
    assert done.summary["start_error_ms"]["n"] == USERS
    assert {slo["text"]: slo["value"] for slo in done.summary["slo"]}["count(lost) == 0"] == 0

    # Nothing is lost: each round has its records, and both processes have their part.
    assert Counter(record["role"] for record in done.records) == {
        "baseline": 1, "burst": USERS, "control": USERS,
    }  # fmt: skip
    assert len({record["session_id"] for record in done.records}) == 1 + 2 * USERS
    for role in ("burst", "control"):
        per_worker = Counter(record["worker"] for record in done.records if record["role"] == role)
        assert sorted(per_worker.values()) == [USERS // 2, USERS // 2]

    # The control was spread evenly, by each process over the whole time.
    third = read_bursts(done.run_dir)[2]
    starts = {
        record["ordinal"]: record["intended_wall_ns"] - third.t0_wall_ns
        for record in done.records
        if record["role"] == "control"
    }
    assert sorted(starts.values()) == [round(n * SPREAD_S * NS_PER_S / USERS) for n in range(USERS)]
    for share in third.workers:
        mine = sorted(starts[share.first + n] for n in range(share.count))
        assert mine[-1] - mine[0] > 0.6 * SPREAD_S * NS_PER_S

    text = (done.run_dir / "summary.md").read_text()
    assert "| 2 | control: spread over 5 s |" in text
    said = " ".join(done.stdout.split())
    assert "Alone, a user is welcomed after " in said
    assert f"{USERS} users spread over 5 s: p99 " in said
    assert f"{USERS} users at the same instant: p99 " in said


def test_without_a_word_a_headless_burst_has_a_session_before_it(start: Callable[..., Running]) -> None:
    """One agent name is wrong: already alone nobody comes, and the first lines say so."""
    done = start(
        "-u", "3", "-r", "3", "--agent-name", "nobody", "--session-timeout", "4",
        env_extra={"LK_BASELINE": ""},
    ).finish()  # fmt: skip
    assert done.code == 10, done.stdout + done.stderr
    assert [(one["role"], one["recorded"]) for one in done.summary["rounds"]] == [
        ("baseline", 1),
        ("burst", 3),
    ]
    assert done.summary["outcomes"] == {"never_assigned": 3}
    ending = done.stdout[done.stdout.index("SLO_FAILED") :].splitlines()
    assert ending[1].startswith("  - Already alone, before the burst, a session failed: never_assigned")
    assert "--agent-name nobody" in "".join(ending[1:5])
    assert "already alone, a session failed: never_assigned" in done.stderr


def test_with_free_users_there_is_nothing_beside(start: Callable[..., Running]) -> None:
    done = start(
        "-u", "2", "-r", "2", "--agent-name", "welcome", "--release", "free", "-t", "4s",
        env_extra={"LK_BASELINE": ""},
    ).finish()  # fmt: skip
    assert done.code == 0, done.stdout + done.stderr
    assert {record["role"] for record in done.records} == {"burst"}
    assert done.summary["rounds"] == []


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (("--baseline", "9"), "--baseline 9: larger than the burst of 5 (--users)"),
        (("--baseline", "one"), "--baseline one: not a whole number"),
        (("--control", "60"), "--control 60: use spread= and a number of seconds above 0, for example"),
        (("--control", "spread=0"), "--control spread=0: use spread= and a number of seconds above 0"),
        (("--course", "golf"), "--course golf: unknown; use one of bursts"),
        (
            ("--release", "free", "--control", "spread=9s"),
            "--control: is compared with a burst; use --release barrier",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(
    burst: Callable[..., Finished], options: tuple[str, ...], fault: str
) -> None:
    done = burst(5, *options)
    assert done.code == 12
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("lk-users: ")]
    assert line.startswith(f"lk-users: {fault}")
    assert "Traceback" not in done.stderr
    assert not done.run_dirs


def test_bursts_jsonl_says_what_each_round_was(burst: Callable[..., Finished]) -> None:
    done = burst(4, "--engine", "idle", "--baseline", "2", "--batch-size", "2", "--batch-delay", "0.5")
    lines = [json.loads(line) for line in (done.run_dir / "bursts.jsonl").read_text().splitlines()]
    assert [(line["burst"], line["round"]["role"], line["intended"]) for line in lines] == [
        (0, "baseline", 2), (0, "baseline", 2), (1, "burst", 4), (1, "burst", 4),
    ]  # fmt: skip
    assert (lines[3]["round"]["batch_size"], lines[3]["round"]["batch_delay_s"]) == (2, 0.5)
    assert [bool(line["t0_wall_ns"]) for line in lines] == [False, True, False, True]
