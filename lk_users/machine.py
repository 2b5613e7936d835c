"""What the machine that this process runs on has to give."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass


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
