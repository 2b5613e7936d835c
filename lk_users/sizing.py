"""What a burst needs of master and each region: processes, memory, handles, network, API requests. Pure.

What decides is the second around T0: requests leave on time, and marks are true, as long as each process has
a core to itself then. So users a process are bounded by what was measured, and halved, since a cloud's vCPU
is often half a core. Each constant has its source: a row of docs/figures.md (``bench/burst.py``), or
``bench/held.py``, which measured 100 users.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from lk_users.barrier.master import REQUESTS_A_SESSION
from lk_users.settings.run import CLOUD_API_BUDGET_PER_MINUTE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lk_users.machine import Machine

# Figures: 600 in one process left within 15 ms, 1,200 over two and 2,000 over four within 18 ms; halved.
USERS_A_PROCESS: Final = 300
# Figures, `ways`: CPU in ms a session up to the last welcome, with a microphone and without.
CPU_MS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "api": (12.4, 7.9),
        "room": (10.2, 6.4),
        "token": (10.4, 5.9),
        "none": (10.4, 5.9),
        # One request and a join, as by ``room``.
        "backend": (10.2, 6.4),
    }
)
# Figures, `sizes`: what a session costs more where cores are full.
CPU_FULL: Final = 1.5
# bench/held.py: 121 MB + 0.34 MB a user; doubled.
PROCESS_MB: Final = 150
USER_MB: Final = 0.7
# The master keeps every record (some 3 kB) until the report is made.
MASTER_USER_MB: Final = 0.1
# bench/held.py: 15 + 3.02 a user: signalling, the dispatch's connection, a UDP socket for each address of the
# machine, of which that one had one. Of a machine that is not at hand: planned for four.
PROCESS_HANDLES: Final = 64
USER_CONNECTIONS: Final = 2
PLANNED_ADDRESSES: Final = 4
# The official SDK: at most so many in a process of their own, 70-140 ms of CPU each (docs/witness.md).
WITNESSES_A_PROCESS: Final = 25
WITNESS_CPU_MS: Final = 140.0
WITNESS_PROCESS_MB: Final = 150
WITNESS_MB: Final = 8.0
# Packets and bytes (IP and up) a second and user, to the user and from it, TCP and UDP together.
# bench/held.py: 3.5 and 4.5 packets, 321 and 314 bytes with a microphone; 1.5 and 1.7, 143 and 134 without.
HELD_IN: Final[Mapping[bool, tuple[float, float]]] = MappingProxyType({True: (4, 330), False: (2, 150)})
HELD_OUT: Final[Mapping[bool, tuple[float, float]]] = MappingProxyType({True: (5, 320), False: (2, 140)})
# bench/held.py, in the busiest second: 28 packets and 8.0 kB in, with up to 17 packets of the reference
# agent's sound; 25 packets and 5.7 kB out. A real agent sends 50 packets a second of 130 bytes (20 ms of Opus
# at 32 kbit/s and 50 bytes of RTP, SRTP, UDP and IP).
HEARING_IN: Final = (60.0, 12_000.0)
JOINING_OUT: Final = (25.0, 6_000.0)
# bench/held.py: 100 users built within 0.1-1.0 s.
BUILD_MS: Final = 10.0
# LiveKit Cloud's limit for a project.
CLOUD_API_LIMIT_PER_MINUTE: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one region's workers need, or the master."""

    name: str
    users: int = 0
    processes: int = 1
    witness_processes: int = 0
    cores: int = 1
    memory_mb: float = 0.0
    handles: int = 0
    """Of one process."""
    udp_sockets: int = 0
    """Of all processes, for each address of the machine."""
    burst_cpu_s: float = 0.0
    build_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Network of so many users; bytes as Mbit/s."""

    packets_in: float
    packets_out: float
    mbit_in: float
    mbit_out: float


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """A burst's needs. ``regions``: one part each, ``workers`` where no region was named."""

    users: int
    dispatch: str
    mic: bool
    witness: int
    master: Part
    regions: tuple[Part, ...]

    @property
    def requests(self) -> int:
        """API requests of the whole run; one fewer a session where the user's token asks for the agent."""
        asked = self.dispatch in ("api", "room")
        return self.users * (REQUESTS_A_SESSION - (0 if asked else 1))

    def at_once(self, users: int) -> Flow:
        """All of them join and hear their agent within one second: the most that can be asked."""
        return _flow(users, HEARING_IN, JOINING_OUT)

    def held(self, users: int) -> Flow:
        return _flow(users, HELD_IN[self.mic], HELD_OUT[self.mic])


def handles(users: int, addresses: int = PLANNED_ADDRESSES) -> int:
    """Of one process with so many users, on a machine with so many addresses."""
    return PROCESS_HANDLES + (USER_CONNECTIONS + addresses) * users


def size(
    users: int,
    *,
    dispatch: str,
    mic: bool,
    witness: int = 0,
    region_users: Mapping[str, int] | None = None,
    users_a_process: int = USERS_A_PROCESS,
) -> Sizing:
    """Needs of a burst of ``users``; ``region_users`` add up to them, or are empty."""
    shares = region_users or {"workers": users}
    # As placement does: witnesses are spread evenly over the burst.
    parts = [
        _part(name, count, -(-witness * count // users), dispatch, mic, users_a_process)
        for name, count in shares.items()
    ]
    master = Part(
        name="master",
        memory_mb=PROCESS_MB + MASTER_USER_MB * users,
        handles=PROCESS_HANDLES + sum(part.processes for part in parts),
    )
    return Sizing(
        users=users, dispatch=dispatch, mic=mic, witness=witness, master=master, regions=tuple(parts)
    )


def _part(name: str, users: int, witness: int, dispatch: str, mic: bool, users_a_process: int) -> Part:
    processes = math.ceil(users / users_a_process)
    each = math.ceil(users / processes)
    children = math.ceil(witness / WITNESSES_A_PROCESS)
    cpu_ms = CPU_MS[dispatch][0 if mic else 1] * CPU_FULL * (users - witness) + WITNESS_CPU_MS * witness
    return Part(
        name=name,
        users=users,
        processes=processes,
        witness_processes=children,
        cores=processes + children,
        memory_mb=PROCESS_MB * processes
        + USER_MB * (users - witness)
        + WITNESS_PROCESS_MB * children
        + WITNESS_MB * witness,
        handles=handles(each),
        udp_sockets=users,
        burst_cpu_s=cpu_ms / 1000,
        build_s=1 + BUILD_MS * each / 1000,
    )


def _flow(users: int, each_in: tuple[float, float], each_out: tuple[float, float]) -> Flow:
    return Flow(
        packets_in=users * each_in[0],
        packets_out=users * each_out[0],
        mbit_in=users * each_in[1] * 8 / 1e6,
        mbit_out=users * each_out[1] * 8 / 1e6,
    )


def short_of(parts: Sequence[Part], machine: Machine) -> list[str]:
    """Of what ``machine`` has too little to carry these parts together. A master beside workers needs no core
    of its own: at T0 it has nothing to do."""
    workers = [part for part in parts if part.users]
    cores = sum(part.cores for part in workers) or 1
    memory_mb = sum(part.memory_mb for part in parts)
    handles = max(part.handles for part in parts)
    lacks = []
    if cores > machine.cores:
        lacks.append(f"{cores} cores")
    if memory_mb > machine.memory_mb:
        lacks.append(f"{_gb(memory_mb)} of memory")
    if handles > machine.handles:
        lacks.append(f"{handles:,} file handles a process (`ulimit -Hn`)")
    return lacks


def lines(sizing: Sizing, machine: Machine, calibrated: Sizing | None = None, note: str = "") -> list[str]:
    """What ``lk-users size`` prints. ``calibrated``: the same burst as this machine was calibrated, and
    ``note`` says to what, or why a calibration was ignored."""
    return [
        _about(sizing),
        "",
        *_table(sizing),
        "",
        *_api_lines(sizing),
        f"Building takes up to {max(part.build_s for part in sizing.regions):.0f} s in each process and a "
        "few round trips more; T0 is a second after the last is ready.",
        "Inbound: TCP 5557 and 8089 of the master, by VPN or tunnel only. Outbound of workers: the master's "
        "5557, and LiveKit.",
        *([note] if note else []),
        machine_line(calibrated or sizing, machine),
    ]


def _about(sizing: Sizing) -> str:
    mic = "a silent microphone each" if sizing.mic else "no microphones"
    sdk = f", {sizing.witness} of them on the official SDK" if sizing.witness else ""
    return f"{sizing.users:,} users at one instant, dispatch by {sizing.dispatch}, {mic}{sdk}:"


def _table(sizing: Sizing) -> list[str]:
    head = (
        "users", "processes", "cores", "CPU", "memory", "handles", "UDP ports", "at once, in and out", "held",
    )  # fmt: skip
    width = max(len(part.name) for part in (sizing.master, *sizing.regions))
    rows = [("", *head), ("master", "", "1", "1", "", *_memory(sizing.master), "", "", "")]
    for part in sizing.regions:
        burst, held = sizing.at_once(part.users), sizing.held(part.users)
        children = f"+{part.witness_processes}" if part.witness_processes else ""
        rows.append(
            (
                part.name,
                f"{part.users:,}",
                f"{part.processes}{children}",
                str(part.cores),
                f"{part.burst_cpu_s:.1f} s",
                *_memory(part),
                f"{part.udp_sockets:,}",
                f"{_k(burst.packets_in)}, {_k(burst.packets_out)} pkt/s",
                f"{_k(held.packets_in)}, {_k(held.packets_out)} pkt/s",
            )
        )
        rows.append(
            ("",) * 8
            + (
                f"{burst.mbit_in:.0f}, {burst.mbit_out:.0f} Mbit/s",
                f"{held.mbit_in:.1f}, {held.mbit_out:.1f} Mbit/s",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(1, len(rows[0]))]
    return [
        (
            f"  {row[0]:<{width}}"
            + "".join(f"  {cell:>{w}}" for cell, w in zip(row[1:], widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _memory(part: Part) -> tuple[str, str]:
    return _gb(part.memory_mb), f"{part.handles:,}"


def _api_lines(sizing: Sizing) -> list[str]:
    users, requests = sizing.users, sizing.requests
    minutes = math.ceil(requests / CLOUD_API_BUDGET_PER_MINUTE)
    asked = {"api": "CreateDispatch", "room": "CreateRoom"}.get(sizing.dispatch)
    first = f"{users:,} {asked} at T0, then " if asked else ""
    told = [
        f"API: {first}up to {requests - (users if asked else 0):,} reads and deletions; at LiveKit Cloud "
        f"(--api-budget {CLOUD_API_BUDGET_PER_MINUTE} of its {CLOUD_API_LIMIT_PER_MINUTE:,} a minute) about "
        f"{minutes} min in all."
    ]
    if asked and users > CLOUD_API_LIMIT_PER_MINUTE:
        told.append(
            f"{users:,} {asked} in one minute are over LiveKit Cloud's {CLOUD_API_LIMIT_PER_MINUTE:,}: the "
            "rest would be rate_limited. --dispatch token asks by the join, which is no API request."
        )
    return told


def machine_line(sizing: Sizing, machine: Machine) -> str:
    """Would the machine at hand do?"""
    here = f"This machine (cores: {machine.cores}, {_gb(machine.memory_mb)}, {machine.handles:,} handles)"
    lacks = short_of([sizing.master, *sizing.regions], machine)
    if not lacks:
        processes = sum(part.processes for part in sizing.regions)
        how = f" with --processes {processes}" if processes > 1 else ", in one process"
        return f"{here} would do for all of it{how}."
    fitting = [part.name for part in sizing.regions if not short_of([part], machine)]
    if len(sizing.regions) > 1 and fitting:
        return (
            f"{here} would do for one of {_names(fitting)}, not for all of it: that takes {', '.join(lacks)}."
        )
    return f"{here} would not do: it takes {', '.join(lacks)}."


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)


def _gb(mb: float) -> str:
    return f"{mb / 1000:.1f} GB"


def _k(packets: float) -> str:
    return f"{packets:,.0f}" if packets < 10_000 else f"{packets / 1000:,.0f}k"
