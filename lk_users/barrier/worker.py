"""A worker's side: what a message of the master asks for, and what it no longer does. Pure state machine."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lk_users.barrier.messages import Kind
from lk_users.course import Round
from lk_users.plan import Share

if TYPE_CHECKING:
    from collections.abc import Mapping


class WorkerStep(enum.StrEnum):
    """Where a worker stands in its burst."""

    IDLE = "idle"
    BUILDING = "building"
    ARMED = "armed"
    RUNNING = "running"
    COLLECTING = "collecting"


@dataclass(frozen=True)
class Build:
    """To do: build the share's sessions."""

    share: Share


@dataclass(frozen=True)
class Release:
    """To do: release them at T0, given on the master's monotonic clock and as wall time for display."""

    t0_ns: int
    t0_wall_ns: int


@dataclass(frozen=True)
class Look:
    """To do: ask the API a first time; nobody waits for a welcome any more."""


@dataclass(frozen=True)
class Collect:
    """To do: ask the API, clean up, send records and trailer. ``cause``: first end every open session."""

    cause: str = ""


@dataclass(frozen=True)
class Again:
    """To do: say once more what was said before; the master seems not to have it."""

    kind: Kind


@dataclass(frozen=True)
class Cancel:
    """To do: end every open session."""

    cause: str


@dataclass(frozen=True)
class Finish:
    """To do: nothing more comes in this run."""


Command = Build | Release | Look | Collect | Again | Cancel | Finish


@dataclass
class WorkerBarrier:
    """A worker's side. Late, repeated and foreign messages change nothing."""

    step: WorkerStep = WorkerStep.IDLE
    run_id: str = ""
    burst: int = 0

    def receive(self, kind: str, data: Mapping[str, Any]) -> Command | None:
        """What a message of the master asks for; None where it asks for nothing (any more)."""
        if kind == Kind.SHARE:
            return self._share(data)
        if data.get("run") != self.run_id:
            return None
        if kind == Kind.CANCEL:
            return self._cancel(str(data["cause"]))
        if kind == Kind.FINISH:
            self.step = WorkerStep.IDLE
            return Finish()
        if data.get("burst") != self.burst:
            return None
        if kind == Kind.T0 and self.step is WorkerStep.ARMED:
            self.step = WorkerStep.RUNNING
            return Release(int(data["t0_ns"]), int(data["t0_wall_ns"]))
        if kind == Kind.T0 and self.step is WorkerStep.RUNNING:
            return Again(Kind.DECIDED)
        if kind == Kind.LOOK and self.step is WorkerStep.RUNNING:
            return Look()
        if kind == Kind.COLLECT and self.step in (WorkerStep.BUILDING, WorkerStep.ARMED, WorkerStep.RUNNING):
            self.step = WorkerStep.COLLECTING
            return Collect(str(data.get("cause", "")))
        if kind == Kind.COLLECT and self.step is WorkerStep.COLLECTING:
            return Again(Kind.TRAILER)
        return None

    def built(self) -> None:
        """The share is ready for T0."""
        if self.step is WorkerStep.BUILDING:
            self.step = WorkerStep.ARMED

    def _share(self, data: Mapping[str, Any]) -> Command | None:
        run_id, burst = str(data["run"]), int(data["burst"])
        if (run_id, burst, self.step) == (self.run_id, self.burst, WorkerStep.ARMED):
            return Again(Kind.BUILT)
        repeated = run_id == self.run_id and burst <= self.burst
        foreign = run_id != self.run_id and self.step is not WorkerStep.IDLE
        if repeated or foreign:
            return None
        self.step, self.run_id, self.burst = WorkerStep.BUILDING, run_id, burst
        of = Round.from_dict(data["round"])
        return Build(Share(run_id, burst, int(data["first"]), int(data["count"]), of))

    def _cancel(self, cause: str) -> Command | None:
        if self.step in (WorkerStep.BUILDING, WorkerStep.ARMED, WorkerStep.RUNNING):
            return Cancel(cause)
        return None
