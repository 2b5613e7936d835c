from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest

from lk_users.errors import Refused
from lk_users.preflight import raise_handle_limit

if TYPE_CHECKING:
    from collections.abc import Callable

    Limits = Callable[[int, int], list[tuple[int, int]]]

UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    """``limits(soft, hard)``: what the process has; the list gets what is asked for."""

    def having(soft: int, hard: int) -> list[tuple[int, int]]:
        asked: list[tuple[int, int]] = []
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
        monkeypatch.setattr(resource, "setrlimit", lambda _, both: asked.append(both))
        return asked

    return having


def test_a_worker_takes_what_it_can_get_since_its_share_is_not_known_yet(limits: Limits) -> None:
    asked = limits(1024, 20_000)
    raise_handle_limit(1, 1)
    assert asked == [(20_000, 20_000)]


@pytest.mark.parametrize(("sessions", "soft"), [(1, 10_240), (6000, 18_064)])
def test_where_the_hard_limit_is_none(limits: Limits, sessions: int, soft: int) -> None:
    asked = limits(256, UNLIMITED)
    raise_handle_limit(sessions, 1)
    assert asked == [(soft, UNLIMITED)]


@pytest.mark.parametrize("soft", [20_000, UNLIMITED])
def test_what_is_enough_stays(limits: Limits, soft: int) -> None:
    asked = limits(soft, soft)
    raise_handle_limit(600, 1)
    assert asked == []


def test_a_hard_limit_that_is_too_low_refuses(limits: Limits) -> None:
    asked = limits(1024, 1863)
    with pytest.raises(Refused) as refused:
        raise_handle_limit(600, 1)
    assert refused.value.faults[0].startswith(
        "too few file handles: 600 sessions in one process need 1864, the hard limit is 1863"
    )
    assert asked == []
