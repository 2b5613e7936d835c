"""What the reference agent does wrong, as a job's metadata asks: ``{"lk": {"fault": …, "delay_ms": …}}``.

``back_ms`` beside them: how long a ``cut`` agent stays away.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any, Final


class Fault(enum.StrEnum):
    """The closed list."""

    NONE = "none"
    SLOW_JOIN = "slow_join"
    """Joins ``delay_ms`` after the assignment."""
    SLOW_WELCOME = "slow_welcome"
    """Speaks ``delay_ms`` after its listener is there."""
    SILENT = "silent"
    """Says that it speaks, and sends Opus silence and no transcript."""
    TEXT_ONLY = "text_only"
    """Sends its transcript, and Opus silence in place of its voice."""
    FREEZE = "freeze"
    """Becomes active and listening, then does nothing until its listener leaves."""
    REJECT = "reject"
    """Declines the job for good."""
    IGNORE = "ignore"
    """Never answers the offer."""
    EAGER = "eager"
    """Speaks as soon as it is active, listener or not; its track comes ``delay_ms`` into the speech."""
    BACKGROUND = "background"
    """Audible ambience on a second track; its microphone stays silent and it sends no transcript."""
    DIE_AFTER_JOIN = "die_after_join"
    """Drops its connections ``delay_ms`` after it became active: no leave, no job status."""
    END = "end"
    """Leaves on purpose ``delay_ms`` after it became active; its job succeeded."""
    REJOIN = "rejoin"
    """Leaves ``delay_ms`` after it became active, joins again with the same token, then welcomes."""
    CUT = "cut"
    """Its connections break ``delay_ms`` after it became active, unsaid; it is back ``back_ms`` later with
    the same token, and only listens: its welcome was before."""
    DUPLICATE = "duplicate"
    """A second one of it joins ``delay_ms`` after it became active, and welcomes too."""
    BYSTANDER = "bystander"
    """An agent of another name joins ``delay_ms`` after it became active, and only listens."""


# Longer than most ask for, shorter than a default session; a slow welcome beyond the default timeout.
# An eager agent loses what a network loses while it connects its listener; on loopback that would be nothing.
DEFAULT_DELAY_MS: Final = {
    Fault.SLOW_JOIN: 3_000, Fault.SLOW_WELCOME: 12_000, Fault.EAGER: 800, Fault.CUT: 5_000,
}  # fmt: skip
DEFAULT_BACK_MS: Final = 2_000
MAX_DELAY_MS: Final = 3_600_000


@dataclass(frozen=True)
class Script:
    """What one job shall do. ``note``: what of its metadata was meant for us and not understood."""

    fault: Fault = Fault.NONE
    delay_ms: int = 0
    note: str = ""
    back_ms: int = DEFAULT_BACK_MS

    @property
    def delay_s(self) -> float:
        return self.delay_ms / 1000

    @property
    def back_s(self) -> float:
        return self.back_ms / 1000


def parse(metadata: str) -> Script:
    """Metadata that is not JSON, or not about us, asks for nothing."""
    try:
        found: Any = json.loads(metadata) if metadata else None
    except (ValueError, RecursionError):
        return Script()
    wish = found.get("lk") if isinstance(found, dict) else None
    if not isinstance(wish, dict):
        return Script()
    name, delay_ms = wish.get("fault", Fault.NONE.value), wish.get("delay_ms")
    try:
        fault = Fault(name)
    except ValueError:
        return Script(note=f"unknown fault {name!r}; there are: {', '.join(Fault)}")
    if delay_ms is None:
        delay_ms = DEFAULT_DELAY_MS.get(fault, 0)
    times = {"delay_ms": delay_ms, "back_ms": wish.get("back_ms", DEFAULT_BACK_MS)}
    for told, value in times.items():
        if not isinstance(value, (int, float)) or not 0 <= value <= MAX_DELAY_MS:
            return Script(
                fault, 0, f"{told} {value!r} is not between 0 and {MAX_DELAY_MS}; both are taken as 0", 0
            )
    return Script(fault, int(times["delay_ms"]), back_ms=int(times["back_ms"]))
