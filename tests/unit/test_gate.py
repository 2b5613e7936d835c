from __future__ import annotations

from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.sinks.gate import Gate

T0_NS = 100 * NS_PER_S


def test_shut_from_the_building_to_a_second_after_the_last_request() -> None:
    gate = Gate()
    assert gate.is_open(T0_NS - 5 * NS_PER_S)
    gate.shut(range(2))
    # T0 is not known yet, and may be anywhere.
    assert not gate.is_open(T0_NS - 5 * NS_PER_S)
    gate.announce(T0_NS)
    gate.fired(0)
    gate.fired(1)
    assert not gate.is_open(T0_NS - NS_PER_MS)
    assert not gate.is_open(T0_NS + NS_PER_S - 1)
    assert gate.is_open(T0_NS + NS_PER_S)


def test_shut_until_each_of_ours_has_written() -> None:
    gate = Gate()
    gate.shut(range(10, 13))
    gate.announce(T0_NS)
    gate.fired(10)
    gate.fired(12)
    gate.fired(12)
    assert not gate.is_open(T0_NS + 9 * NS_PER_S)
    gate.fired(11)
    assert gate.is_open(T0_NS + 9 * NS_PER_S)


def test_a_burst_without_t0_opens_it_too() -> None:
    gate = Gate()
    gate.shut(range(5))
    gate.open()
    assert gate.is_open(0)
    gate.shut(range(5, 10))
    assert not gate.is_open(10**18)


def test_a_point_more_after_it_opened_does_not_shut_it() -> None:
    gate = Gate()
    gate.shut([1])
    gate.announce(T0_NS)
    gate.open()
    gate.fired(1)
    assert gate.is_open(T0_NS)
