"""The generator's own health: what it measured of itself, and when that makes a run void.

Lag is time that a loop was late. It is weighted by time, not by samples: a stall of 450 ms is one sample
but weighs 450 ms, so a percentile says for how much of the window the loop was worse than that.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.errors import RecordError
from lk_users.record import build

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lk_users.settings.run import Settings

LAG_INTERVAL_NS = 10 * NS_PER_MS
# An hour of samples; older ones are of bursts long decided.
MAX_SAMPLES = 3600 * NS_PER_S // LAG_INTERVAL_NS

# Up to here a clock that moved only widens its uncertainty: NTP that slews by up to 500 ppm is worth no VOID.
MAX_CLOCK_MOVED_MS = 10.0


@dataclass(frozen=True)
class Lag:
    """Loop lag over a window, percentiles weighted by time, in ms."""

    p50: float = 0.0
    p95: float = 0.0
    max: float = 0.0


class LagMeter:
    """Lag of one loop: a timer due every ``LAG_INTERVAL_NS`` says how late it came."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=MAX_SAMPLES)
        self._peak_ns = 0

    def add(self, now_ns: int, lag_ns: int) -> None:
        """A tick at ``now_ns`` that was ``lag_ns`` late."""
        self._samples.append((now_ns, max(0, lag_ns)))
        self._peak_ns = max(self._peak_ns, lag_ns)

    def peak_ns(self) -> int:
        """The largest lag since this was asked last."""
        peak_ns, self._peak_ns = self._peak_ns, 0
        return peak_ns

    def _snapshot(self) -> list[tuple[int, int]]:
        """Another thread may read: a list of a deque of tuples is made in one go."""
        return list(self._samples)

    def largest_ns(self, start_ns: int, end_ns: int) -> int:
        """The largest lag of which any part fell into the window."""
        return max(
            (lag for now, lag in self._snapshot() if now >= start_ns and now - lag <= end_ns), default=0
        )

    def running_largest_ns(self, start_ns: int, ends_ns: Sequence[int]) -> list[int]:
        """``largest_ns(start_ns, end)`` for each of many ends, in one pass over the samples."""
        order = sorted(range(len(ends_ns)), key=ends_ns.__getitem__)
        ticks = sorted((now - lag, lag) for now, lag in self._snapshot() if now >= start_ns)
        result = [0] * len(ends_ns)
        largest, index = 0, 0
        for position in order:
            while index < len(ticks) and ticks[index][0] <= ends_ns[position]:
                largest = max(largest, ticks[index][1])
                index += 1
            result[position] = largest
        return result

    def summary(self, start_ns: int, end_ns: int) -> Lag:
        """Over the samples that touch the window."""
        lags = sorted(lag for now, lag in self._snapshot() if now >= start_ns and now - lag <= end_ns)
        if not lags:
            return Lag()
        return Lag(
            round(_weighted(lags, 0.50) / NS_PER_MS, 3),
            round(_weighted(lags, 0.95) / NS_PER_MS, 3),
            round(lags[-1] / NS_PER_MS, 3),
        )


def _weighted(lags: Sequence[int], share: float) -> int:
    """The lag that was not exceeded for ``share`` of the time; ``lags`` in ascending order."""
    total = sum(lag + LAG_INTERVAL_NS for lag in lags)
    passed = 0
    for lag in lags:
        passed += lag + LAG_INTERVAL_NS
        if passed >= share * total:
            return lag
    return lags[-1]


@dataclass(frozen=True, kw_only=True)
class Trailer:
    """A worker's last word on a burst: what it was given, what it recorded, and how well it was."""

    worker: str
    region: str
    burst: int
    intended: int
    recorded: int
    clock_offset_ms: float = 0.0
    """Master's monotonic clock minus ours, by which T0 was converted, and to within how much."""
    clock_uncertainty_ms: float = 0.0
    clock_steps: int = 0
    """How often an exchange with the master contradicted those before it in this run."""
    clock_moved_ms: float = 0.0
    """By how much at least, added up."""
    wall_step_ms: float = 0.0
    """By how much our wall clock was set in this burst, ahead or (negative) back."""
    lag: dict[str, Lag] = field(default_factory=dict)
    """By loop (``asyncio``, ``gevent``), from T0 - 1 s to the last decision."""
    start_lag: dict[str, Lag] = field(default_factory=dict)
    """By loop, from T0 - 1 s to T0 + 5 s."""
    cpu_s: float = 0.0
    """CPU of the process from the start of building to the last decision."""
    welcome_cpu_s: float = 0.0
    """Of that, up to the last welcome; 0 where there was none."""
    read_cpu_s: float = 0.0
    """CPU of the reads after the burst and of the clean-up."""
    witness_cpu_s: float = 0.0
    """CPU of the SDK's child processes in this burst, beside ``cpu_s``."""
    rss_mb: float = 0.0
    server_clock: dict[str, float] = field(default_factory=dict)
    """The server's wall clock against ours, as :meth:`lk_users.clock.ServerClock.summary` says it."""
    sinks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What became of its points up to here, by sink; see :meth:`lk_users.sinks.outbox.Outbox.counts`."""
    excess: str = ""
    """That its users were more than its machine was calibrated to, in words; empty if they were not."""
    void: tuple[str, ...] = ()
    """Reasons that only the worker knows, one clear line each."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> Trailer:
        """Raises RecordError on anything that is not a trailer."""
        if not isinstance(data, dict):
            raise RecordError(f"not a trailer: {str(data)[:60]!r}")
        known = {f.name for f in fields(cls)}
        try:
            values = {name: value for name, value in data.items() if name in known}
            for name in ("lag", "start_lag"):
                values[name] = {loop: Lag(**lag) for loop, lag in values.get(name, {}).items()}
            values["void"] = tuple(values.get("void", ()))
            return build(cls, values)
        except (TypeError, AttributeError) as exc:
            raise RecordError(f"not a trailer: {exc}") from exc


def worker_void_reasons(trailer: Trailer, settings: Settings) -> list[str]:
    """Why this worker's figures can't be trusted; one clear line each, empty if they can."""
    name = f"worker {trailer.worker} ({trailer.region})"
    reasons = [f"{name}: {reason}" for reason in trailer.void]
    excess = f" ({trailer.excess})" if trailer.excess else ""
    for loop, lag in trailer.lag.items():
        if lag.max > settings.max_stall_ms:
            reasons.append(
                f"{name}: its {loop} loop stalled for {lag.max:.0f} ms "
                f"(--max-stall {settings.max_stall_ms:g}); the generator was the bottleneck, so its figures "
                f"say nothing about the target{excess}"
            )
    if trailer.clock_moved_ms > MAX_CLOCK_MOVED_MS:
        reasons.append(
            f"{name}: its clock moved by {span(trailer.clock_moved_ms)} against the master's during the run; "
            "its T0 and start errors are not to be trusted"
        )
    elif trailer.clock_uncertainty_ms > settings.max_clock_uncertainty_ms:
        reasons.append(
            f"{name}: its clock is known only to ±{trailer.clock_uncertainty_ms:.0f} ms "
            f"(--max-clock-uncertainty {settings.max_clock_uncertainty_ms:g})"
        )
    if trailer.wall_step_ms:
        reasons.append(f"{name}: {wall_step_words(trailer.wall_step_ms)}")
    if trailer.recorded != trailer.intended:
        reasons.append(
            f"{name}: {trailer.recorded} records of {trailer.intended} sessions in burst {trailer.burst}"
        )
    return reasons


def wall_step_words(step_ms: float) -> str:
    """What a wall clock that was set does to a run."""
    sign = "+" if step_ms > 0 else "-"
    return f"its wall clock was set by {sign}{span(abs(step_ms))} during the run; times of day are wrong"


def span(ms: float) -> str:
    """``12 ms`` below a second, ``3.0 s`` from there on."""
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"
