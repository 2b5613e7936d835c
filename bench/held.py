"""What users hold and what goes over their wires: the constants of ``lk_users/sizing.py``. Needs root.

    python bench/held.py [USERS …]     default: 100 300; each with a silent microphone and with none

A run by ``room`` against the embedded stack with ``--watch 20``. The generator's process is looked at from
outside: handles and memory in ``/proc``, packets by a raw socket on loopback, by the process's own ports.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from lk_users.local.stack import AGENT_NAME, Stack

LOCUSTFILE = Path(__file__).parent.parent / "locustfiles" / "burst.py"
WATCH_S = 20
# Seconds of the hold that no welcome and no end of a burst fall into.
STILL_S = 8
IP_HEADERS = {6: "tcp", 17: "udp"}


class Wire(threading.Thread):
    """Packets and bytes (IP and up) of all of loopback by second, protocol, port and direction."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: dict[str, Counter[tuple[int, str, int, str]]] = {"packets": Counter(), "bytes": Counter()}
        self.over = threading.Event()
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self.socket.bind(("lo", 0))
        self.socket.settimeout(0.5)
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE

    def run(self) -> None:
        while not self.over.is_set():
            try:
                frame, (_, _, kind, *_) = self.socket.recvfrom(64)
            except TimeoutError:
                continue
            protocol = IP_HEADERS.get(frame[23])
            if kind != socket.PACKET_HOST or protocol is None:
                continue
            length = struct.unpack_from("!H", frame, 16)[0]
            ports = struct.unpack_from("!HH", frame, 14 + 4 * (frame[14] & 15))
            second = int(time.monotonic())
            for port, way in zip(ports, ("out", "in"), strict=True):
                self.seen["packets"][second, protocol, port, way] += 1
                self.seen["bytes"][second, protocol, port, way] += length


def ports_of(pid: int) -> set[tuple[str, int]]:
    inodes = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.update(re.findall(r"socket:\[(\d+)\]", str(handle.readlink())))
    found = set()
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                found.add((name.removesuffix("6"), int(fields[1].rsplit(":", 1)[1], 16)))
    return found


def entries(pid: int, name: str) -> int:
    return len(list(Path(f"/proc/{pid}/{name}").iterdir()))


def rss_mb(pid: int) -> float:
    (kb,) = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(kb) / 1024


def measure(stack: Stack, users: int, mic: str) -> None:
    wire = Wire()
    wire.start()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary",
            "--baseline", "0",
            "-u", str(users), "-r", str(users), "--agent-name", AGENT_NAME, "--dispatch", "room",
            "--mic", mic, "--watch", str(WATCH_S), "--run-dir", folder,
        ]  # fmt: skip
        log = Path(folder) / "log"
        with log.open("w") as out:
            child = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | stack.env())
        idle = None
        samples: list[tuple[float, int, float, int]] = []
        ports: set[tuple[str, int]] = set()
        moments: dict[str, float] = {}
        while child.poll() is None:
            time.sleep(0.1)
            with contextlib.suppress(OSError, ValueError):
                now = time.monotonic()
                text = log.read_text()
                for name, said in (("spawned", "All users spawned"), ("built", "users are ready: T0")):
                    if said in text:
                        moments.setdefault(name, now)
                here = (now, entries(child.pid, "fd"), rss_mb(child.pid))
                threads = entries(child.pid, "task")
                if "spawned" not in moments:
                    idle = (*here, threads)
                samples.append((*here, threads))
                ports |= ports_of(child.pid)
    wire.over.set()
    wire.join()
    assert idle is not None
    assert "built" in moments
    handles, memory = max(s[1] for s in samples), max(s[2] for s in samples)
    print(
        f"{users} users, mic {mic}, exit {child.returncode}: handles {idle[1]} + "
        f"{(handles - idle[1]) / users:.2f} a user; memory {idle[2]:.0f} MB + "
        f"{(memory - idle[2]) / users:.2f} MB a user; threads {max(s[3] for s in samples)}; "
        f"built in {moments['built'] - moments['spawned']:.1f} s; "
        f"ports {dict(Counter(kind for kind, _ in ports))}"
    )
    dropped = struct.unpack("2I", wire.socket.getsockopt(263, 6, 8))[1]  # SOL_PACKET, PACKET_STATISTICS
    # The hold lies right before the end of the watch.
    end = int(moments["built"]) + 1 + WATCH_S
    still = range(end - STILL_S - 2, end - 2)
    for kind, way in (("udp", "out"), ("udp", "in"), ("tcp", "out"), ("tcp", "in")):
        cells = []
        for what, counts in wire.seen.items():
            by_second: Counter[int] = Counter()
            for (second, protocol, port, direction), number in counts.items():
                if (protocol, direction) == (kind, way) and (protocol, port) in ports:
                    by_second[second] += number
            held = sum(by_second[second] for second in still) / STILL_S / users
            built = range(int(moments["built"]), end + 4)
            busiest = max(by_second[second] for second in built) / users
            cells.append(f"{what} a second and user: held {held:.2f}, busiest {busiest:.1f}")
        print(f"    {kind} {way}: {'; '.join(cells)}; {dropped} dropped here", flush=True)


if __name__ == "__main__":
    sizes = [int(size) for size in sys.argv[1:]] or [100, 300]
    with Stack(say=lambda line: None) as target:
        for size in sizes:
            for choice in ("silence", "none"):
                measure(target, size, choice)
