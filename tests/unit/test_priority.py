from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from lk_users.priority import HURRY, LOCK_KEPT_S, first_in_line


class System:
    """Priorities as the system keeps them. ``allowed``: may a priority be raised?"""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, allowed: bool) -> None:
        self.nice = 3
        self._allowed = allowed
        monkeypatch.setattr(os, "getpriority", lambda which, who: self.nice)
        monkeypatch.setattr(os, "setpriority", self._set)

    def _set(self, which: int, who: int, nice: int) -> None:
        assert (which, who) == (os.PRIO_PROCESS, 0)
        if nice < self.nice and not self._allowed:
            raise PermissionError
        self.nice = nice


def test_first_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(monkeypatch, allowed=True)
    with first_in_line():
        assert system.nice == HURRY
    assert system.nice == 3


def test_as_before_also_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(monkeypatch, allowed=True)
    with pytest.raises(KeyError), first_in_line():
        raise KeyError
    assert system.nice == 3


def test_without_the_right_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(monkeypatch, allowed=False)
    seen: list[Any] = []
    with first_in_line():
        seen.append(system.nice)
    assert (seen, system.nice) == ([3], 3)


@pytest.mark.parametrize("allowed", [True, False])
def test_the_interpreters_lock_is_kept_meanwhile(monkeypatch: pytest.MonkeyPatch, *, allowed: bool) -> None:
    System(monkeypatch, allowed=allowed)
    before_s = sys.getswitchinterval()
    with first_in_line():
        assert sys.getswitchinterval() == pytest.approx(LOCK_KEPT_S)
    assert sys.getswitchinterval() == before_s
    with pytest.raises(KeyError), first_in_line():
        raise KeyError
    assert sys.getswitchinterval() == before_s


def test_the_real_one_leaves_us_as_we_were() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with first_in_line():
        assert os.getpriority(os.PRIO_PROCESS, 0) in (before, HURRY)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
