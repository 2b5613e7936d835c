"""Regions that are far apart and whose wall clocks are wrong: their users start at one moment, as seen from
outside by the kernel's clock. The full size is ``bench/regions.py``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from regions import STAMP_MS, Truth, run
from towns import Lacking

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.real

USERS = 60
# Far below the wall clocks' seconds and the worst link's 200 ms, and what a busy machine may need.
TRUE_MS = 100.0


def test_one_t0_over_far_regions_with_wrong_clocks(tmp_path: Path) -> None:
    try:
        ended, found = run(
            USERS, tmp_path / "run", "--max-start-error", "100", "--max-stall", "9000", workers=1
        )
    except Lacking as exc:
        if os.environ.get("CI"):
            pytest.fail(str(exc))
        pytest.skip(str(exc))
    assert (ended.code, ended.outcomes) == (
        0,
        {"ap": {"ok": 20}, "eu": {"ok": 20}, "us": {"ok": 20}},
    ), ended.text
    assert sorted(truth.region for truth in found) == ["ap", "eu", "us"]
    for truth in found:
        _is_true(truth)
    # A link's length is what limits how well a clock is known: half its round trip.
    known_ms = {truth.region: truth.uncertainty_ms for truth in found}
    assert known_ms["us"] < known_ms["eu"] < known_ms["ap"]
    assert known_ms["ap"] > 80


def _is_true(truth: Truth) -> None:
    assert len(truth.true_ms) == 20
    assert max(map(abs, truth.true_ms)) < TRUE_MS
    assert abs(truth.clock_error_ms) < truth.uncertainty_ms
    assert truth.beyond_ms < STAMP_MS
