"""The account of every point: written, spooled or dropped, whatever database and disk do."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from lk_users.sinks.outbox import CHUNK_POINTS, LIVE_KEPT, QUEUE_BYTES, Chunk, Outbox, Spool, total

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def session(n: int, size: int = 30) -> bytes:
    return f"lk_session f={n}i {'x' * size}\n".encode()


def live(n: int) -> bytes:
    return f"lk_live,run=r f={n}i\n".encode()


class FullDisk(Spool):
    """Takes ``room`` bytes more."""

    room = 0

    def add(self, lines: Sequence[bytes]) -> tuple[int, str]:
        taken = 0
        for line in lines:
            if self.room < len(line):
                break
            self.room -= len(line)
            taken += 1
        done, why = super().add(lines[:taken])
        return done, why or ("No space left on device" if taken < len(lines) else "")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "w1.lp"


@pytest.fixture
def box(path: Path) -> Outbox:
    return Outbox(Spool(path))


def send_all(box: Outbox) -> list[bytes]:
    """All that it has, to a database that takes it."""
    sent: list[bytes] = []
    while (chunk := box.next()) is not None:
        sent += chunk.lines
        box.taken()
    return sent


def balance(box: Outbox) -> int:
    """0: every point is accounted for."""
    counts = box.counts()
    out = counts["written"] + counts["spooled"] + sum(counts["dropped"].values())
    return int(counts["accepted"] - out - box.queued)


def test_a_database_that_takes_all_gets_each_point_once_in_order(box: Outbox, path: Path) -> None:
    lines = [session(n) for n in range(2 * CHUNK_POINTS + 5)]
    for line in lines:
        box.accept(line)
    first = box.next()
    assert first is not None
    assert len(first.lines) == CHUNK_POINTS
    assert first.body == b"".join(lines[:CHUNK_POINTS])
    # Asked again, it is the same chunk: one is under way at a time.
    assert box.next() == first
    assert send_all(box) == lines
    assert box.counts() == {"accepted": 2005, "written": 2005, "spooled": 0, "dropped": {}, "why": ""}
    assert not path.parent.exists()


def test_a_database_that_is_away_gets_all_of_it_later(box: Outbox, path: Path) -> None:
    for n in range(3):
        box.accept(session(n))
    box.next()
    box.accept(session(3))
    box.unavailable("connection refused")
    assert (box.spooled, box.queued) == (4, 0)
    assert path.read_bytes() == b"".join(map(session, range(4)))
    box.accept(session(4))
    # What is new goes first: somebody is looking at it.
    assert send_all(box) == [session(4), *map(session, range(4))]
    assert box.counts() == {
        "accepted": 5, "written": 5, "spooled": 0, "dropped": {}, "why": "connection refused",
    }  # fmt: skip
    assert not path.exists()


def test_a_spool_that_is_half_sent_when_it_goes_away_again(box: Outbox, path: Path) -> None:
    for n in range(CHUNK_POINTS + 10):
        box.accept(session(n))
    box.unavailable("away")
    box.next()
    box.taken()
    box.next()
    box.unavailable("away")
    assert box.spooled == 10
    box.close()
    # The file has what is left, no more.
    assert path.read_bytes() == b"".join(session(n) for n in range(CHUNK_POINTS, CHUNK_POINTS + 10))
    assert balance(box) == 0


def test_one_wrong_point_costs_no_other(box: Outbox) -> None:
    wrong = {123, 777}
    for n in range(1000):
        box.accept(session(n))
    written: list[bytes] = []
    requests = 0
    while (chunk := box.next()) is not None:
        requests += 1
        if any(session(n) in chunk.lines for n in wrong):
            box.refused("HTTP 400: unable to parse")
        else:
            written += chunk.lines
            box.taken()
    assert sorted(written) == sorted(session(n) for n in range(1000) if n not in wrong)
    assert box.counts()["dropped"] == {"HTTP 400: unable to parse": 2}
    assert balance(box) == 0
    # Two paths down a tree of 1,000 leaves, and their other halves.
    assert requests < 2 * 2 * 11


def test_a_wrong_point_in_the_spool_leaves_it_too(box: Outbox, path: Path) -> None:
    for n in range(5):
        box.accept(session(n))
    box.unavailable("away")
    while (chunk := box.next()) is not None:
        if session(3) in chunk.lines:
            box.refused("HTTP 422: field type conflict")
        else:
            box.taken()
    assert box.counts() == {
        "accepted": 5,
        "written": 4,
        "spooled": 0,
        "dropped": {"HTTP 422: field type conflict": 1},
        "why": "HTTP 422: field type conflict",
    }
    assert not path.exists()


def test_what_is_under_way_at_the_end_is_on_disk(box: Outbox, path: Path) -> None:
    box.accept(session(1))
    box.next()
    box.close()
    assert path.read_bytes() == session(1)
    # Later ones, too: nothing is left in memory when it is closed.
    box.accept(session(2))
    assert path.read_bytes() == session(1) + session(2)
    assert (box.queued, box.counts()["spooled"]) == (0, 2)


def test_memory_is_bounded_by_the_disk(box: Outbox, path: Path) -> None:
    line = session(0, size=2000)
    needed = QUEUE_BYTES // len(line)
    for _ in range(needed):
        box.accept(line)
    assert not path.exists()
    box.accept(line)
    assert (box.queued, box.spooled) == (0, needed + 1)


def test_a_queue_that_overflows_leaves_what_is_under_way(path: Path) -> None:
    box = Outbox(Spool(path), queue_bytes=2 * len(session(0)))
    box.accept(session(0))
    box.next()
    for n in range(1, 5):
        box.accept(session(n))
    assert (box.queued, box.spooled) == (2, 3)
    box.taken()
    assert box.written == 1
    assert send_all(box) == [session(4), session(1), session(2), session(3)]
    assert balance(box) == 0


def test_a_full_disk_costs_live_points_first(path: Path) -> None:
    disk = FullDisk(path)
    disk.room = len(session(0))
    box = Outbox(disk)
    for n in range(10):
        box.accept(session(n))
    for n in range(LIVE_KEPT + 7):
        box.accept(live(n))
    box.unavailable("away")
    counts = box.counts()
    assert (counts["spooled"], counts["dropped"]) == (1, {"No space left on device": 7})
    assert box.queued == 9 + LIVE_KEPT
    # It is back: nothing else was lost, and of live points the oldest were.
    assert send_all(box) == [
        *(session(n) for n in range(1, 10)),
        *(live(n) for n in range(7, LIVE_KEPT + 7)),
        session(0),
    ]
    assert balance(box) == 0


def test_where_nothing_takes_it_the_end_drops_it_with_the_cause(path: Path) -> None:
    box = Outbox(FullDisk(path))
    for n in range(4):
        box.accept(session(n))
    box.unavailable("away")
    assert (box.queued, box.counts()["dropped"]) == (4, {})
    box.close()
    assert box.counts() == {
        "accepted": 4,
        "written": 0,
        "spooled": 0,
        "dropped": {"No space left on device": 4},
        "why": "No space left on device",
    }


def test_a_full_disk_is_not_asked_for_every_point(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    disk = FullDisk(path)
    add = disk.add

    def noted(lines: Sequence[bytes]) -> tuple[int, str]:
        asked.append(len(lines))
        return add(lines)

    monkeypatch.setattr(disk, "add", noted)
    box = Outbox(disk, queue_bytes=10 * len(session(0)))
    for _ in range(100):
        box.accept(session(0))
    assert len(asked) < 12
    assert box.queued == 100


def test_a_line_that_the_disk_took_a_part_of_is_no_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(path)
    real = os.write
    room = [len(session(0)) + 5]

    def write(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken = real(fd, data[: room[0]])
        room[0] -= taken
        return taken

    monkeypatch.setattr("lk_users.sinks.outbox.os.write", write)
    assert spool.add([session(0), session(1)]) == (1, "No space left on device")
    assert path.read_bytes() == session(0)
    room[0] = 1000
    assert spool.add([session(2)]) == (1, "")
    assert path.read_bytes() == session(0) + session(2)


def test_the_account_holds_whatever_happens(tmp_path: Path) -> None:
    for seed in range(60):
        rng = random.Random(seed)
        disk = FullDisk(tmp_path / str(seed) / "w.lp")
        disk.room = rng.choice((0, 500, 10**9))
        box = Outbox(disk, queue_bytes=rng.choice((200, QUEUE_BYTES)))
        written: list[bytes] = []
        accepted: list[bytes] = []
        for step in range(200):
            event = rng.random()
            if event < 0.5:
                accepted.append(rng.choice((session, live))(step))
                box.accept(accepted[-1])
            elif (chunk := box.next()) is not None:
                # Meanwhile more comes.
                accepted.append(live(10_000 + step))
                box.accept(accepted[-1])
                if event < 0.7:
                    written += chunk.lines
                    box.taken()
                elif event < 0.8:
                    box.refused("HTTP 400")
                elif event < 0.95:
                    box.unavailable("away")
            assert balance(box) == 0
        box.close()
        assert box.queued == 0
        assert balance(box) == 0
        # Nothing twice, nothing that nobody sent, and the file is what the account says.
        on_disk = disk.path.read_bytes().splitlines(keepends=True) if disk.path.exists() else []
        assert len(on_disk) == box.spooled
        assert sorted([*written, *on_disk]) == sorted(set(written) | set(on_disk))
        assert set(written) | set(on_disk) <= set(accepted)


def test_accounts_of_several_processes_add_up() -> None:
    one = {"accepted": 5, "written": 2, "spooled": 2, "dropped": {"a": 1}, "why": "away"}
    other = {"accepted": 3, "written": 1, "spooled": 0, "dropped": {"a": 1, "b": 1}, "why": ""}
    assert total([one, other]) == {
        "accepted": 8, "written": 3, "spooled": 2, "dropped": {"a": 2, "b": 1}, "why": "away",
    }  # fmt: skip
    assert total([]) == {}


def test_a_chunk_is_its_lines() -> None:
    assert Chunk((b"a\n", b"b\n")).body == b"a\nb\n"
