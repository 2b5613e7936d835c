"""What the machine that this process runs on has to give."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from lk_users.version import VERSION

_STA_UNSYNC = 0x40
_TIME_ERROR = 5


@dataclass(frozen=True)
class Machine:
    """``handles``: the hard limit a process, since Locust raises the soft one to 10,000 itself."""

    cores: int
    memory_mb: float
    handles: int

    @classmethod
    def here(cls) -> Machine:
        """Cores that this process may run on, memory in all; a container's quota is not seen."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        return cls(cores, memory_mb, hard if hard != resource.RLIM_INFINITY else 1 << 30)


@dataclass(frozen=True)
class Identity:
    """What a figure measured on a machine depends on."""

    cpu: str
    cores: int
    kernel: str
    python: str
    version: str
    """Of this program."""

    @classmethod
    def here(cls) -> Identity:
        return cls(_cpu(), Machine.here().cores, platform.release(), platform.python_version(), VERSION)


def _cpu() -> str:
    """As the kernel names it; elsewhere the architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class ClockState:
    """``synchronised``: does the kernel call its clock so? None where it does not tell."""

    synchronised: bool | None

    @classmethod
    def here(cls) -> ClockState:
        """By ``adjtimex(2)``, which NTP's daemons keep informed; only read."""
        if sys.platform != "linux":
            return cls(None)
        state = _Timex()
        try:
            code = ctypes.CDLL(None).adjtimex(ctypes.byref(state))
        except (AttributeError, OSError):
            return cls(None)
        if code < 0:
            return cls(None)
        return cls(code != _TIME_ERROR and not state.status & _STA_UNSYNC)


class _Timex(ctypes.Structure):
    """``struct timex`` of ``<sys/timex.h>``, as far as ``status``, and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 40),
    )
