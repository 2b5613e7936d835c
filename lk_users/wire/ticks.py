"""Sleep for what is not urgent: all of a process that waits this way wakes up on the same ticks.

To be woken up costs an idle process some 0.1 ms of CPU before it has done anything (cold caches, and the way
out of the host's idle state on a virtual machine): several times what a ping or a check of a connection
takes by itself. Hundreds of users who each wake up when it suits them pay it each time
(``bench/ticks.py``).
"""

from __future__ import annotations

import asyncio

# In whole milliseconds, as uvloop's time is, no tick is met twice.
TICK_MS = 100


def next_tick_s(loop: asyncio.AbstractEventLoop, delay_s: float = 0.0) -> float:
    """The first tick after ``delay_s`` from now, by the loop's time."""
    return (round((loop.time() + delay_s) * 1000) // TICK_MS + 1) * TICK_MS / 1000


async def sleep_about(delay_s: float) -> None:
    """For ``delay_s`` and on to the tick after it, so up to ``TICK_MS`` longer."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(next_tick_s(loop, delay_s) - loop.time())
