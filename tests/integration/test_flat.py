"""Bursts in a row leave nothing behind. The full size is ``bench/flat.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from flat import MEMORY, run
from links import Links

if TYPE_CHECKING:
    from pathlib import Path

    from lk_users.local.stack import Stack

pytestmark = pytest.mark.real


def test_three_bursts_in_a_row_are_flat(stack: Stack, tmp_path: Path) -> None:
    with Links() as links:
        ended, after = run(40, 2, 4, stack, tmp_path / "run", links, "--max-stall", "9000")
    assert (ended.code, ended.summary["outcomes"]) == (0, {"ok": 160}), ended.text
    # Each worker's burst of 20 keeps its sockets for one more burst; from the second on it is level.
    for worker in range(2):
        first, second, third = (held[worker] for held in after)
        assert (second.handles, second.threads) == (third.handles, third.threads)
        assert (second.handles - first.handles, first.threads) == (20, second.threads)
        assert third.rss_mb < MEMORY * second.rss_mb
