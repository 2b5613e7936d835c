from __future__ import annotations

import os
import sys

import pytest

from lk_users.priority import HURRY, Precedence, may_precede

BEFORE = (os.SCHED_BATCH, 0)


class System:
    """Priorities as the system keeps them. ``real_time``, ``nicer``: may a thread have that?"""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, real_time: bool, nicer: bool) -> None:
        self.nice = 3
        self.policy = BEFORE
        self._real_time, self._nicer = real_time, nicer
        monkeypatch.setattr(os, "getpriority", lambda which, who: self.nice)
        monkeypatch.setattr(os, "setpriority", self._set_nice)
        monkeypatch.setattr(os, "sched_getscheduler", lambda who: self.policy[0])
        monkeypatch.setattr(os, "sched_getparam", lambda who: os.sched_param(self.policy[1]))
        monkeypatch.setattr(os, "sched_setscheduler", self._set_policy)

    def _set_nice(self, which: int, who: int, nice: int) -> None:
        assert (which, who) == (os.PRIO_PROCESS, 0)
        if nice < self.nice and not self._nicer:
            raise PermissionError
        self.nice = nice

    def _set_policy(self, who: int, policy: int, param: os.sched_param) -> None:
        assert who == 0
        if policy == os.SCHED_FIFO and not self._real_time:
            raise PermissionError
        self.policy = (policy, param.sched_priority)

    @property
    def given(self) -> tuple[tuple[int, int], int]:
        return self.policy, self.nice


@pytest.mark.parametrize(
    ("real_time", "nicer", "given"),
    [
        pytest.param(True, True, ((os.SCHED_FIFO, 1), 3), id="before all that is not real-time"),
        pytest.param(False, True, (BEFORE, HURRY), id="before what is less urgent"),
        pytest.param(False, False, (BEFORE, 3), id="no right to either"),
    ],
)
def test_for_a_moment_as_far_as_the_system_lets_us(
    monkeypatch: pytest.MonkeyPatch, *, real_time: bool, nicer: bool, given: tuple[tuple[int, int], int]
) -> None:
    system = System(monkeypatch, real_time=real_time, nicer=nicer)
    precedence = Precedence()
    for _ in range(2):
        precedence.take()
        precedence.take()
        assert system.given == given
        precedence.give_back()
        assert system.given == (BEFORE, 3)
    system.nice = 5
    precedence.give_back()
    assert system.given == (BEFORE, 5)


@pytest.mark.parametrize("real_time", [True, False])
def test_who_may(monkeypatch: pytest.MonkeyPatch, *, real_time: bool) -> None:
    system = System(monkeypatch, real_time=real_time, nicer=True)
    assert may_precede() is real_time
    assert system.given == (BEFORE, 3)


def test_where_there_are_no_such_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(monkeypatch, real_time=True, nicer=True)
    monkeypatch.setattr(sys, "platform", "darwin")
    precedence = Precedence()
    precedence.take()
    assert system.given == (BEFORE, HURRY)
    precedence.give_back()
    assert system.given == (BEFORE, 3)


def test_the_real_one_leaves_us_as_we_were() -> None:
    before = scheduling()
    precedence = Precedence()
    precedence.take()
    taken = scheduling()
    precedence.give_back()
    assert taken in {(os.SCHED_FIFO, 1, before[2]), (*before[:2], HURRY), before}
    assert scheduling() == before


def scheduling() -> tuple[int, int, int]:
    """Of our own thread: policy, real-time priority, nice value."""
    return (
        os.sched_getscheduler(0),
        os.sched_getparam(0).sched_priority,
        os.getpriority(os.PRIO_PROCESS, 0),
    )
