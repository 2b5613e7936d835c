"""Parts of a run that are lost: every session has its record, and what is void names who was lost, and why.

The losses are some of those of ``bench/losses.py``, one of each kind. Each hits the one worker in ``ap``;
whose regions are well keep their outcomes. Every worker has a run folder of its own, as on another machine.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from links import Links
from losses import GRACE_S, LOSSES, SESSION_TIMEOUT_S, lose

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lk_users.local.stack import Stack

pytestmark = pytest.mark.real

REGIONS = ("us", "eu", "ap")
USERS = 60
LOST = r"worker \S+ \(ap\) was lost: no heartbeat for 10 s"
STALLED = r"worker \S+ \(ap\): its \w+ loop stalled for \d{4} ms .*"
LATE = r"worker \S+ \(ap\): T0 came \d+ ms too late: its link to the master or it itself stood still"
ALONE = r"worker \S+ \(%s\): its master was gone for 10 s; it finished its sessions alone"


@pytest.fixture(scope="module")
def links() -> Iterator[Links]:
    with Links() as up:
        yield up


@pytest.mark.parametrize(
    ("name", "well", "hit", "reasons"),
    [
        # Before T0 there is no burst to save.
        ("killed-parked", "cancelled", "generator_lost", [LOST]),
        ("killed-building", "cancelled", "generator_lost", [LOST]),
        ("killed-at-t0", "ok", "generator_lost", [LOST]),
        ("killed-after-t0", "ok", "generator_lost", [LOST]),
        # What it did alone is on its machine; brought in, the records are whole, and the run is void still.
        ("cut-for-good-merged", "ok", "ok", [LOST, ALONE % "ap"]),
        ("master-killed", "ok", "ok", [ALONE % region for region in REGIONS]),
        ("t0-late", "ok", "ok", [LATE]),
        ("stopped-3s-across-t0", "ok", "ok", [STALLED]),
    ],
)
def test_a_loss_is_void_and_named(
    name: str, well: str, hit: str, reasons: list[str], stack: Stack, links: Links, tmp_path: Path
) -> None:
    ended = lose(LOSSES[name], USERS, REGIONS, stack, tmp_path, links)
    sessions = ended.summary["sessions"]
    assert (sessions["intended"], sessions["recorded"]) == (USERS, USERS), ended.text
    assert len({record["session_id"] for record in ended.records}) == USERS
    assert ended.outcomes == {"ap": {hit: 20}, "eu": {well: 20}, "us": {well: 20}}, ended.text
    assert (ended.code, ended.summary["verdict"]) == (11, "VOID")
    for reason in reasons:
        assert [text for text in ended.reasons if re.fullmatch(reason, text)], ended.reasons
    assert ended.seconds < SESSION_TIMEOUT_S + GRACE_S
    assert "Traceback" not in ended.text


@pytest.mark.parametrize("name", ["cut-2s", "dark-7s", "slow", "stopped-3s-before-t0"])
def test_what_harmed_nothing_voids_nothing(name: str, stack: Stack, links: Links, tmp_path: Path) -> None:
    """T0 was true for all, and every record came: the start errors say so."""
    # A machine that is busy with other things stalls us for a second; that is not what this is about.
    ended = lose(LOSSES[name], USERS, REGIONS, stack, tmp_path, links, "--max-stall", "9000")
    assert (ended.code, ended.reasons) == (0, []), ended.text
    assert ended.outcomes == {region: {"ok": 20} for region in sorted(REGIONS)}
    assert ended.summary["start_error_ms"]["max"] < 50
    assert ended.seconds < SESSION_TIMEOUT_S + GRACE_S
    assert "Traceback" not in ended.text
