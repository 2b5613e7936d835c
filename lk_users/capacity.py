"""What this machine was measured to generate (``lk-users calibrate``), kept with whose figure it is.

A figure of another processor, kernel, Python or version of this program says nothing here and is ignored,
with a line that says so.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from lk_users.cachedir import cache_root
from lk_users.errors import RecordError
from lk_users.record import build

if TYPE_CHECKING:
    from pathlib import Path

    from lk_users.machine import Identity

SCHEMA: Final = 1
FILE: Final = "calibration.json"
BY_GENERATOR: Final = "generator"
AGAIN: Final = "`lk-users calibrate` measures anew"


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Users that one process carried at one T0. Times in ms."""

    users: int
    limited_by: str
    """``generator``: more made its loop lag. ``asked``, ``target``, ``time``: it was not asked for more, the
    embedded server gave out before, or it would have taken too long; then it is at least so many."""
    measured_at: str
    """UTC, ISO 8601."""
    cpu_ms: float
    """CPU a session up to the last welcome."""
    lag_p95_ms: float
    stall_ms: float
    start_error_ms: float
    """p99."""

    @property
    def told(self) -> str:
        return f"{self.users:,}" if self.limited_by == BY_GENERATOR else f"at least {self.users:,}"

    def users_a_process(self, planned: int) -> int:
        """What to plan with: where no limit was found, no less than without a calibration."""
        return self.users if self.limited_by == BY_GENERATOR else max(self.users, planned)

    def excess(self, users: int, planned: int) -> str:
        """Why a process with so many users is beyond what is known of this machine; empty if it is not."""
        if users <= self.users_a_process(planned):
            return ""
        return (
            f"{users:,} users in one process, and this machine was calibrated to {self.told} "
            f"({self.measured_at[:10]})"
        )


@dataclass(frozen=True)
class Known:
    """``ignored``: why what is there is not used, one line; empty where nothing is there or it is used."""

    capacity: Capacity | None = None
    ignored: str = ""


def path() -> Path:
    return cache_root() / FILE


def save(capacity: Capacity, identity: Identity, where: Path) -> None:
    """Replaces what was there. Raises OSError."""
    data = {"schema": SCHEMA, "machine": asdict(identity), "capacity": asdict(capacity)}
    where.parent.mkdir(parents=True, exist_ok=True)
    fresh = where.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    fresh.replace(where)


def load(identity: Identity, where: Path) -> Known:
    """The capacity of the machine ``identity``. Never raises: a run does not hang on it."""
    try:
        data: Any = json.loads(where.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Known()
    except (OSError, ValueError):
        return Known(ignored=f"calibration ignored: {where} cannot be read; {AGAIN}")
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        return Known(ignored=f"calibration ignored: {where} is of another version; {AGAIN}")
    machine = data.get("machine")
    there: dict[str, Any] = machine if isinstance(machine, dict) else {}
    for name, here in asdict(identity).items():
        if there.get(name) != here:
            other = f"of {name} {str(there.get(name))[:60]!r}, and this is {here!r}"
            return Known(ignored=f"calibration ignored: it is {other}; {AGAIN}")
    try:
        return Known(build(Capacity, data.get("capacity") or {}))
    except RecordError:
        return Known(ignored=f"calibration ignored: {where} cannot be read; {AGAIN}")
