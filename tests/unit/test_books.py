"""What a worker keeps of its sessions, burst after burst."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from builders import record, settings, trailer, welcomed

from lk_users.books import Books
from lk_users.burst import Meters, Worker
from lk_users.clock import SystemClock
from lk_users.course import Role
from lk_users.health import LagMeter
from lk_users.record import Mark
from lk_users.sinks import wav
from lk_users.wire.microphone import SILENCE
from lk_users.wire.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lk_users.record import Record
    from lk_users.session import Session

MISSING = {"welcome_missing": "it never spoke"}


class Stats:
    """In place of Locust's."""

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        self.records: list[Record] = []

    def marked(self, mark: Mark, at_ns: int, marks_ns: dict[str, int]) -> None:
        self.marks.append(mark)

    def recorded(self, record: Record) -> None:
        self.records.append(record)


@pytest.fixture
def stats() -> Stats:
    return Stats()


@pytest.fixture
def books(tmp_path: Path, stats: Stats) -> Iterator[Books]:
    made = Books(
        tmp_path, Worker("w1", "eu"), settings(), None, cast("Any", stats), SystemClock(),
        Meters(LagMeter(), LagMeter()), parked=lambda: 3,
    )  # fmt: skip
    yield made
    made.close()


def session(role: Role = Role.BURST) -> Session:
    return cast("Session", SimpleNamespace(planned=SimpleNamespace(ordinal=0, role=role), marks_ns={}))


def kept(tmp_path: Path) -> list[str]:
    lines = (tmp_path / "workers" / "w1.jsonl").read_text().splitlines()
    return [json.loads(line)["kind"] for line in lines]


def test_counts_of_who_is_decided_welcomed_and_waits_no_more(books: Books, stats: Stats) -> None:
    # Welcomed, and watched on: decided later.
    books.marked(session(), Mark.WELCOMED, 5)
    assert books.counts == {"decided": 0, "welcomed": 0, "answered": 1}
    books.decided(welcomed(0))
    assert books.counts == {"decided": 1, "welcomed": 1, "answered": 1}
    books.decided(record(1, findings=MISSING))
    assert books.counts == {"decided": 2, "welcomed": 1, "answered": 2}
    assert stats.marks == [Mark.WELCOMED]


def test_what_is_not_of_the_burst_is_kept_and_not_in_locusts_statistics(
    books: Books, stats: Stats, tmp_path: Path
) -> None:
    books.marked(session(Role.BASELINE), Mark.WELCOMED, 5)
    alone, one = welcomed(0, role=Role.BASELINE.value), welcomed(1)
    for item in (alone, one):
        books.decided(item)
        books.recorded(item, None)
    assert books.records == [alone, one]
    assert (stats.marks, stats.records) == ([], [one])
    assert kept(tmp_path) == ["decided", "record", "decided", "record"]


def test_nothing_of_the_last_burst_counts_in_the_next(
    books: Books, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wav, "FILES_A_BURST", 1)
    books.begin()
    sound = Recording()
    sound.add("TR_1", SILENCE, 0, 0)
    for burst in range(2):
        for ordinal in range(2):
            item = record(ordinal, burst=burst, findings=MISSING)
            books.decided(item)
            books.recorded(item, sound)
        assert books.counts == {"decided": 2, "welcomed": 0, "answered": 2}
        assert [(item.burst, "audio" in item.evidence) for item in books.records] == [
            (burst, True), (burst, False),
        ]  # fmt: skip
        books.begin()
    assert (books.counts, books.records) == ({"decided": 0, "welcomed": 0, "answered": 0}, [])
    assert len(list((tmp_path / "audio").iterdir())) == 2


def test_a_last_word_without_a_database_is_written_once(books: Books, tmp_path: Path) -> None:
    last = trailer()
    books.trailer(last)
    assert books.closed(last, last=True) is last
    assert kept(tmp_path) == ["trailer"]
    books.close()
