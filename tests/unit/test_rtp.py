"""What receiver reports say of streams that are counted by their headers."""

from __future__ import annotations

import pytest

from lk_users.wire.rtp import Stream

RATE_HZ = 48_000
PACKET_MS = 20


class Counted:
    """A stream of 20 ms packets, and the moments at which they are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now_s = 1_000.0
        monkeypatch.setattr("aiortc.rtcrtpreceiver.time.time", lambda: self._now_s)
        self.stream = Stream(RATE_HZ)

    def take(self, numbers: range, *, timed: bool, every_ms: int = PACKET_MS) -> None:
        for number in numbers:
            # Read at the first tick of ``every_ms`` from its coming on.
            self._now_s = 1_000 - (-(number + 1) * PACKET_MS // every_ms) * every_ms / 1_000
            timestamp = number * PACKET_MS * RATE_HZ // 1_000
            self.stream.count(number & 0xFFFF, timestamp, timed=timed)


@pytest.mark.parametrize("timed", [True, False])
def test_received_and_lost_over_the_wrap(monkeypatch: pytest.MonkeyPatch, timed: bool) -> None:
    counted = Counted(monkeypatch)
    for numbers in (range(65_534, 65_537), range(65_538, 65_540)):
        counted.take(numbers, timed=timed)
    stream = counted.stream
    assert (stream.packets_received, stream.packets_expected, stream.packets_lost) == (5, 6, 1)


def test_packets_that_come_as_they_were_sent_have_no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    counted.take(range(100), timed=True)
    # Nothing but what whole samples make of seconds.
    assert counted.stream.jitter <= 1


def test_reading_by_tick_is_no_jitter_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    counted.take(range(100), timed=True)
    jitter_q4 = counted.stream._jitter_q4
    counted.take(range(100, 1_100), timed=False, every_ms=100)
    assert counted.stream._jitter_q4 == jitter_q4
    assert counted.stream.packets_lost == 0
    # And nothing of that pause is, when it is read at once again.
    counted.take(range(1_100, 1_200), timed=True)
    assert counted.stream.jitter <= 1


def test_taken_for_timed_it_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    counted.take(range(1_000), timed=True, every_ms=100)
    assert counted.stream.jitter > 20 * RATE_HZ / 1_000
