"""The lines of a preflight, from what was found. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import settings

from lk_users.capacity import Capacity, Known
from lk_users.machine import ClockState, Machine
from lk_users.settings.target import Target
from lk_users.tools.checks import (
    Check,
    Level,
    api_check,
    clock_check,
    ending,
    failed,
    handles_check,
    lines,
    machine_checks,
    plan_check,
    priority_check,
    reach_check,
)
from lk_users.wire.reach import Reached

TARGET = Target("lk.example.com", 443, tls=True, key="APIkey", secret="s")
REACHED = Reached(
    addresses=("192.0.2.1",), tcp_ms=9.04, tls_ms=24.6, tls_version="TLSv1.3", certificate_days=60, http_ms=8,
    status=200, ahead_s=0.4,
)  # fmt: skip
KEPT, LOOSE, MUTE = ClockState(True), ClockState(False), ClockState(None)
TWO = Machine(cores=2, memory_mb=24_000, handles=20_000)


def calibrated(users: int, by: str = "generator") -> Known:
    return Known(
        Capacity(
            users=users, limited_by=by, measured_at="2026-11-24T12:00:00.000Z", cpu_ms=10.0, lag_p95_ms=20.0,
            stall_ms=60.0, start_error_ms=8.0,
        )
    )  # fmt: skip


def test_the_way_to_a_server() -> None:
    assert reach_check(REACHED, TARGET) == Check(
        "reach",
        Level.OK,
        "lk.example.com is 192.0.2.1: TCP in 9.0 ms, TLSv1.3 in 25 ms, HTTP 200 in 8.0 ms",
    )
    soon = reach_check(replace(REACHED, certificate_days=3.2), TARGET)
    assert (soon.level, "ends in 3 days" in soon.text) == (Level.WARN, True)
    far = reach_check(replace(REACHED, tcp_ms=300), TARGET)
    assert (far.level, "far away" in far.text) == (Level.WARN, True)
    plain = replace(REACHED, addresses=("::1",), tls_version="", certificate_days=None)
    assert reach_check(plain, replace(TARGET, host="::1")).text == "::1: TCP in 9.0 ms, HTTP 200 in 8.0 ms"


@pytest.mark.parametrize(
    ("ahead_s", "state", "stepped_ms", "level", "said"),
    [
        (0.4, KEPT, 0, Level.OK, "within 2 s of the server's (NTP keeps it)"),
        (-2.0, LOOSE, 0, Level.OK, "nothing keeps it"),
        (2.1, MUTE, 0, Level.WARN, "2 s behind the server's"),
        (-57, KEPT, 0, Level.WARN, "57 s ahead of the server's"),
        (58, KEPT, 0, Level.FAIL, "58 s behind the server's"),
        (-3600, KEPT, 0, Level.FAIL, "3600 s ahead of the server's"),
        (0, KEPT, 1500, Level.WARN, "set by +1500 ms"),
        (None, KEPT, 0, Level.OPEN, "tells no time"),
    ],
)
def test_the_clock(
    ahead_s: float | None, state: ClockState, stepped_ms: float, level: Level, said: str
) -> None:
    found = clock_check(ahead_s, state, stepped_ms)
    assert (found.level, said in found.text) == (level, True), found.text
    assert bool(found.remedy) == (level in (Level.WARN, Level.FAIL))


@pytest.mark.parametrize(
    ("users", "options", "cloud", "level", "said"),
    [
        (600, {}, False, Level.OK, "up to 3,600 requests, 600 of them CreateDispatch at T0; an open-source"),
        (600, {"dispatch": "token"}, False, Level.OK, "none of them at T0"),
        (600, {"api_budget": "900"}, False, Level.OK, "reads after the burst take about 4 min"),
        (600, {}, True, Level.OK, "LiveKit Cloud takes 1,000 a minute"),
        (1001, {"dispatch": "room"}, True, Level.WARN, "1,001 of them CreateRoom at T0"),
        (1001, {"dispatch": "token"}, True, Level.OK, "none of them at T0"),
        (600, {"api_budget": "2000"}, True, Level.WARN, "LiveKit Cloud takes 1,000 a minute"),
    ],
)
def test_api_requests(users: int, options: dict[str, Any], cloud: bool, level: Level, said: str) -> None:
    found = api_check(settings(users, **options), 6 * users, cloud=cloud)
    assert (found.level, said in found.text) == (level, True), found.text


def test_the_plan_of_livekit_cloud_is_a_warning() -> None:
    found = plan_check(settings(600))
    assert (found.level, "600 agent sessions at once" in found.text) == (Level.WARN, True)


@pytest.mark.parametrize(
    ("users", "processes", "addresses", "limit", "level"),
    [
        (600, 1, 1, 1864, Level.OK),
        (600, 1, 1, 1863, Level.FAIL),
        (600, 2, 1, 964, Level.OK),
        (600, 1, 4, 3664, Level.OK),
        (600, 1, 4, 3663, Level.FAIL),
    ],
)
def test_handles(users: int, processes: int, addresses: int, limit: int, level: Level) -> None:
    found = handles_check(users, processes, addresses, replace(TWO, handles=limit))
    assert found.level is level
    assert f"the hard limit is {limit:,}" in found.text


@pytest.mark.parametrize(
    ("allowed", "here", "level", "remedy"),
    [
        (True, True, Level.OK, ""),
        (True, False, Level.OK, ""),
        (False, True, Level.WARN, "`ulimit -r 1`"),
        (False, False, Level.OPEN, "`ulimit -r 1`"),
    ],
)
def test_priority(*, allowed: bool, here: bool, level: Level, remedy: str) -> None:
    found = priority_check(allowed=allowed, here=here)
    assert (found.level, remedy in found.remedy, bool(found.remedy)) == (level, True, not allowed)
    assert ("the server is on it" in found.text) is (level is Level.WARN)


@pytest.mark.parametrize(
    ("users", "processes", "known", "machine", "level", "said", "remedy"),
    [
        (300, 1, Known(), TWO, Level.OK, "1 process on 2 cores, each with 300 users (planned for 300)", ""),
        (600, 1, Known(), TWO, Level.WARN, "its loop may lag", "--processes 2"),
        (900, 1, Known(), TWO, Level.WARN, "its loop may lag", "--processes 3 on as many cores"),
        (600, 4, Known(), TWO, Level.WARN, "each needs a core to itself", "fewer processes"),
        (800, 1, calibrated(800), TWO, Level.OK, "(calibrated to 800)", ""),
        (801, 1, calibrated(800), TWO, Level.WARN, "its loop may lag", "--processes 2"),
        (250, 1, calibrated(200), TWO, Level.WARN, "(calibrated to 200)", "--processes 2"),
        (250, 1, calibrated(50, "asked"), TWO, Level.OK, "(calibrated to at least 50)", ""),
        (
            100,
            1,
            Known(ignored="calibration ignored: old"),
            TWO,
            Level.OK,
            "(planned for 300). calibration",
            "",
        ),
    ],
)
def test_cores(
    users: int, processes: int, known: Known, machine: Machine, level: Level, said: str, remedy: str
) -> None:
    check, memory = machine_checks(settings(users), processes, machine, known)
    assert (check.level, said in check.text) == (level, True), check.text
    assert check.remedy.startswith(remedy)
    assert bool(check.remedy) == (level is Level.WARN)
    assert memory.level is Level.OK


def test_memory() -> None:
    _, memory = machine_checks(settings(600), 2, replace(TWO, memory_mb=500), Known())
    assert (memory.level, memory.text) == (Level.WARN, "needs up to 0.9 GB of this machine's 0.5 GB")


def test_how_it_looks() -> None:
    found = [
        Check("reach", Level.OK, "fine"),
        Check("cores", Level.WARN, "word " * 30, "more of them"),
        Check("agent", Level.OPEN, "not asked"),
    ]
    shown = lines(found)
    assert shown[0] == "  ok    reach      fine"
    assert shown[1].startswith("  warn  cores      word")
    assert shown[2].startswith(" " * 19 + "word")
    assert shown[3] == " " * 19 + "what would do: more of them"
    assert max(map(len, shown)) <= 110
    assert not failed(found)
    assert ending(found) == ("1 ok, 1 warn, 0 fail, 1 not known. The run can start; read the warnings first.")
    assert ending(found[:1]) == "1 ok, 0 warn, 0 fail. The run can start."
    bad = [*found, Check("key", Level.FAIL, "no")]
    assert failed(bad)
    assert ending(bad).endswith("1 fail, 1 not known. This run would not do.")
