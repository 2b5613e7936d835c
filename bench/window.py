"""CPU of this process over a while in which a known number of things has to happen."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


async def cpu_ms_a_second(
    count: Callable[[], int], expected_a_second: float, seconds: float, *, within: float
) -> float:
    """From now on for ``seconds``. ``count``: how many things have happened so far; ends the bench where they
    are not as many as expected, give or take the share ``within``: then the figure says nothing."""
    before, began_s, cpu_s = count(), time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    took_s, used_s, happened = time.monotonic() - began_s, time.process_time() - cpu_s, count() - before
    expected = expected_a_second * took_s
    if not (1 - within) * expected < happened < (1 + within) * expected:
        sys.exit(f"{happened} datagrams in {took_s:.1f} s; {expected:.0f} were expected")
    return 1000 * used_s / took_s
