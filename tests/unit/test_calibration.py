"""What was measured is kept with its machine, and how bursts grow. No bursts, no stack."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest
import virtual as v
from builders import settings

from lk_users.capacity import FILE, Capacity, load, path, save
from lk_users.carries import Carries
from lk_users.cli import main
from lk_users.health import Lag, Trailer, worker_void_reasons
from lk_users.machine import ClockState, Identity
from lk_users.tools.calibrating import HEAD, Climb, Step, capacity_of, climb, judged, row, words
from lk_users.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HERE = Identity("Some CPU", 2, "6.1.0", "3.11.2", "0.1")
FOUND = Capacity(
    users=400, limited_by="generator", measured_at="2026-11-24T12:00:00.000Z", cpu_ms=10.5, lag_p95_ms=80.0,
    stall_ms=210.0, start_error_ms=9.1,
)  # fmt: skip


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where it is kept, on a machine that has none yet."""
    monkeypatch.setenv("LK_CACHE_DIR", str(tmp_path / "cache"))
    return path()


def test_what_is_kept_comes_back(where: Path) -> None:
    assert load(HERE, where).capacity is None
    assert load(HERE, where).ignored == ""
    save(FOUND, HERE, where)
    assert (load(HERE, where).capacity, load(HERE, where).ignored) == (FOUND, "")
    assert where.name == FILE
    assert [item.name for item in where.parent.iterdir()] == [FILE]


@pytest.mark.parametrize("name", ["cpu", "cores", "kernel", "python", "version"])
def test_the_figure_of_another_machine_is_ignored_with_a_line(where: Path, name: str) -> None:
    other: dict[str, Any] = {name: "other"}
    save(FOUND, replace(HERE, **other), where)
    known = load(HERE, where)
    assert known.capacity is None
    assert known.ignored == (
        f"calibration ignored: it is of {name} 'other', and this is {getattr(HERE, name)!r}; "
        "`lk-users calibrate` measures anew"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"schema": 99}',
        json.dumps({"schema": 1, "machine": asdict(HERE), "capacity": {"users": "many"}}),
        json.dumps({"schema": 1, "machine": asdict(HERE)}),
        json.dumps({"schema": 1, "machine": []}),
    ],
)
def test_what_cannot_be_read_is_ignored_with_a_line(where: Path, text: str) -> None:
    where.parent.mkdir()
    where.write_text(text)
    known = load(HERE, where)
    assert known.capacity is None
    assert known.ignored.startswith("calibration ignored: ")
    assert "\n" not in known.ignored


def test_what_to_plan_with() -> None:
    assert FOUND.users_a_process(300) == 400
    assert replace(FOUND, users=200).users_a_process(300) == 200
    at_least = replace(FOUND, users=50, limited_by="asked")
    assert at_least.users_a_process(300) == 300
    assert (FOUND.told, at_least.told) == ("400", "at least 50")
    assert FOUND.excess(400, 300) == ""
    assert FOUND.excess(401, 300) == (
        "401 users in one process, and this machine was calibrated to 400 (2026-11-24)"
    )
    assert at_least.excess(300, 300) == ""


def test_a_run_that_is_too_large_is_told_before_its_start(
    where: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert Carries().excess(1000) == ""
    save(FOUND, Identity.here(), where)
    carries = Carries()
    assert carries.excess(400) == ""
    assert caplog.records == []
    excess = carries.excess(401)
    assert excess.startswith("401 users in one process")
    assert carries.excess(401) == excess
    (said,) = caplog.records
    assert (said.levelname, said.getMessage().startswith(excess)) == ("WARNING", True)


def test_a_void_run_says_that_it_was_too_large() -> None:
    trailer = Trailer(
        worker="w1", region="eu", burst=1, intended=600, recorded=600, lag={"asyncio": Lag(1, 2, 1500)},
        excess=FOUND.excess(600, 300),
    )  # fmt: skip
    (reason,) = worker_void_reasons(Trailer.from_dict(trailer.to_dict()), settings())
    assert reason.endswith(
        "say nothing about the target (600 users in one process, and this machine was calibrated to 400 "
        "(2026-11-24))"
    )


def test_this_machine() -> None:
    here = Identity.here()
    assert here.cores >= 1
    assert here.version == VERSION
    assert all(asdict(here).values())
    assert ClockState.here().synchronised in (True, False, None)


def bursts(most: int, took_s: float = 10, target_from: int = 10**9) -> Callable[[int], Step]:
    """A generator that carries ``most``, and a target that loses some from ``target_from`` on."""

    def burst(users: int) -> Step:
        return Step(
            users=users, took_s=took_s, generator="lags" if users > most else "",
            target="lost" if users >= target_from else "",
        )  # fmt: skip

    return burst


@pytest.mark.parametrize(
    ("most", "asked", "tried", "best", "ended"),
    [
        (10_000, 1600, [50, 100, 200, 400, 800, 1600], 1600, "asked"),
        (10_000, 50, [50], 50, "asked"),
        (10_000, 20, [20], 20, "asked"),
        (10_000, 120, [50, 100, 120], 120, "asked"),
        (400, 1600, [50, 100, 200, 400, 800, 800, 600, 600, 500, 500], 400, "generator"),
        (790, 1600, [50, 100, 200, 400, 800, 800, 600, 700], 700, "generator"),
        (30, 1600, [50, 50], None, "generator"),
        (0, 20, [20, 20], None, "generator"),
    ],
)
def test_how_bursts_grow(most: int, asked: int, tried: list[int], best: int | None, ended: str) -> None:
    said: list[Step] = []
    found = climb(bursts(most), asked, 10_000, said.append)
    assert [step.users for step in found.steps] == tried
    assert said == list(found.steps)
    assert (found.best.users if found.best else None, found.ended_by) == (best, ended)
    kept = capacity_of(found, v.VirtualClock())
    assert (kept.users if kept else None) == best


def test_a_moments_trouble_decides_nothing() -> None:
    done: list[int] = []

    def burst(users: int) -> Step:
        done.append(users)
        return Step(users=users, took_s=10, generator="late" if done.count(users) == 1 else "")

    found = climb(burst, 200, 10_000, lambda step: None)
    assert ([step.users for step in found.steps], found.ended_by) == ([50, 50, 100, 100, 200, 200], "asked")
    assert found.best is not None
    assert found.best.users == 200


def test_a_target_that_gives_out_ends_it() -> None:
    found = climb(bursts(10_000, target_from=400), 1600, 10_000, lambda step: None)
    assert ([step.users for step in found.steps], found.ended_by) == ([50, 100, 200, 400, 400], "target")
    assert found.best is not None
    assert found.best.users == 200
    assert "at least 200 users" in words(found, 2, 300)[0]


def test_it_ends_in_time() -> None:
    found = climb(bursts(10_000), 1600, 80, lambda step: None)
    # 10 s each, and the next is expected to take 1.2 * 2 * 10 s.
    assert ([step.users for step in found.steps], found.ended_by) == (
        [50, 100, 200, 400, 800, 1600][:6],
        "asked",
    )
    found = climb(bursts(10_000), 1600, 60, lambda step: None)
    assert ([step.users for step in found.steps], found.ended_by) == ([50, 100, 200, 400], "time")
    found = climb(bursts(500), 1600, 60, lambda step: None)
    assert found.ended_by == "time"


def summary(**changes: Any) -> dict[str, Any]:
    worker = {
        "lag_ms": {"p50": 1, "p95": 30, "max": 60}, "start_lag_ms": {"p50": 1, "p95": 40, "max": 60},
        "cpu_s": 1.0,
    }  # fmt: skip
    return {
        "workers": [{**worker, **changes.pop("worker", {})}],
        "start_error_ms": {"p99": 8.0},
        "marks": {"welcomed": {"p90": 2500.0}},
        "causes": {"never_assigned": {"no job": 11}},
        "outcomes": {"ok": 100},
        "groups": {"lost": 0},
        "void_reasons": [],
        **changes,
    }


def test_a_burst_is_judged_by_half_of_what_voids_a_run() -> None:
    fine = judged(100, summary(), 12, 2.0)
    assert fine.carried
    assert (fine.cpu_ms, fine.other_cpu_ms, fine.within_s, fine.lag_p95_ms) == (10, 20, 2.5, 40)
    late = judged(100, summary(start_error_ms={"p99": 25.1}), 12, 2)
    assert late.generator == "its requests left 25 ms late (p99), more than 25"
    stalled = judged(100, summary(worker={"lag_ms": {"p50": 1, "p95": 2, "max": 501}}), 12, 2)
    assert stalled.generator == "its loop stalled for 501 ms, more than 500"
    lagging = judged(100, summary(worker={"start_lag_ms": {"p50": 1, "p95": 101, "max": 200}}), 12, 2)
    assert lagging.generator == "its loop lagged by 101 ms (p95), more than 100"
    void = judged(100, summary(void_reasons=["worker local: it died"]), 12, 2)
    assert void.generator == "worker local: it died"
    few = judged(100, summary(groups={"lost": 10}, outcomes={"never_assigned": 10, "ok": 90}), 12, 2)
    assert (few.carried, few.lost) == (True, 10)
    assert row(few).endswith("10 lost by the server")
    outcomes = {"user_dropped": 2, "never_assigned": 9, "ok": 89}
    lost = judged(100, summary(groups={"lost": 11}, outcomes=outcomes), 12, 2)
    assert (lost.generator, lost.target) == (
        "",
        "11 of 100 users got no welcome, most of them never_assigned (no job)",
    )


def test_what_is_printed() -> None:
    steps = (
        judged(400, summary(worker={"cpu_s": 4.0}), 12, 6.0),
        Step(users=800, generator="its loop stalled"),
    )
    said = words(Climb(steps, "generator"), 2, 300)
    assert said[0] == (
        "One process on this machine carries 400 users at one instant. 800 are too many: its loop stalled."
    )
    assert "took 60 % of the CPU" in said[1]
    assert "most of 400 came within 2.5 s here, and are 4.0 s of work for one core" in said[2]
    assert len(said) == 3
    assert row(steps[0]).split() == [
        "400", "8.0", "ms", "40", "ms", "60", "ms", "10.0", "ms", "15.0", "ms", "2.5", "s",
    ]  # fmt: skip
    assert len(row(steps[0])) == len(HEAD)
    assert "not carried: its loop stalled" in row(steps[1])
    small = words(Climb((judged(50, summary(), 12, 1.0),), "asked"), 1, 300)
    assert "at least 50 users" in small[0]
    assert "below the 300 that are planned for anyway" in small[-1]
    assert words(Climb((Step(users=50, generator="x"),), "generator"), 1, 300) == [
        "Not even 50 users were carried: x. Nothing was kept."
    ]


def test_size_knows_what_this_machine_carries(where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(replace(FOUND, users=150), Identity.here(), where)
    assert main(["size", "-u", "300"]) == 0
    out = capsys.readouterr().out
    assert "This machine was calibrated on 2026-11-24: a process of it carries 150 users" in out
    save(FOUND, replace(Identity.here(), kernel="5.0"), where)
    assert main(["size", "-u", "300"]) == 0
    assert "calibration ignored: it is of kernel '5.0'" in capsys.readouterr().out
