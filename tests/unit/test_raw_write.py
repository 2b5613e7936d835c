from __future__ import annotations

import errno
import os
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from lk_users.wire.raw_write import raw_write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Read end and write end, which does not block."""
    ends = os.pipe()
    os.set_blocking(ends[1], False)
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError as exc:
            assert exc.errno == errno.EBADF  # noqa: PT017 - the test closed it


def test_bytes_arrive_as_they_are(pipe: tuple[int, int]) -> None:
    assert raw_write(pipe[1], b"GET \x00\xff\r\n") == 8
    assert os.read(pipe[0], 100) == b"GET \x00\xff\r\n"


def test_what_finds_no_room_is_said(pipe: tuple[int, int]) -> None:
    data = b"x" * (1 << 20)
    taken = raw_write(pipe[1], data)
    assert 0 < taken < len(data)
    with pytest.raises(BlockingIOError):
        raw_write(pipe[1], data)


def test_a_dead_connection_is_an_error_and_no_signal(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    with pytest.raises(BrokenPipeError):
        raw_write(pipe[1], b"x")
    os.close(pipe[1])
    with pytest.raises(OSError, match="Bad file descriptor"):
        raw_write(pipe[1], b"x")


def another_thread_got_in(write: Callable[[int, bytes], int], tries: int) -> bool:
    """While we write, and keep the interpreter's lock as long as we can."""
    start, came = threading.Lock(), threading.Event()
    start.acquire()

    def other() -> None:
        with start:
            came.set()

    thread = threading.Thread(target=other)
    thread.start()
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(60)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        start.release()
        for _ in range(tries):
            write(null, b"x")
            if came.is_set():
                return True
        return False
    finally:
        os.close(null)
        sys.setswitchinterval(before_s)
        thread.join()


def test_the_lock_is_kept() -> None:
    """As it is not by ``os.write``: the other thread only waits for that."""
    assert another_thread_got_in(os.write, 1_000_000)
    assert not another_thread_got_in(raw_write, 20_000)
