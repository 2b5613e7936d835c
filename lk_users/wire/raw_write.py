"""A write that keeps the interpreter's lock.

``os.write`` lets the lock go each time, and whoever waits for it takes it: the greenlets' thread, which does
not go before others as ours does in a release. Where the machine is busy, that thread may be put aside with
the lock in its hands, and whatever is still to be written waits for it. A socket that does not block takes a
request within some 10 µs; so long nobody misses the lock.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any, Final


def _libc_write() -> Any:
    """``write(2)`` as a call that holds the lock: what ``PyDLL`` is for."""
    function = ctypes.PyDLL(None, use_errno=True).write
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
    function.restype = ctypes.c_ssize_t
    return function


_WRITE: Final = _libc_write()


def raw_write(fd: int, data: bytes) -> int:
    """As ``os.write``: how many bytes were taken. Raises OSError; BlockingIOError where there is no room."""
    while (sent := _WRITE(fd, data, len(data))) < 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return int(sent)
