"""A Locust master and its workers as processes of their own, each as on a machine of its own.

Nothing is shared but the links between them: every worker has a run folder and a way to the master by itself,
so what the master's folder holds came over the wire.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from links import STRAIGHT

from lk_users.local.process import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from links import Link, Links, Way

LOCUSTFILE = Path(__file__).parent.parent / "locustfiles" / "burst.py"
AGENT_NAME = "welcome"
FOREIGN = ("LIVEKIT_", "LK_", "LOCUST_", "SSL_CERT_")
ANNOUNCED = "users are ready: T0 of burst"
POLL_S = 0.005


def free_port() -> int:
    """A TCP port on loopback that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Node:
    """One Locust process, in a process group of its own."""

    def __init__(
        self, folder: Path, environ: Mapping[str, str], options: Sequence[str], prefix: Sequence[str] = ()
    ) -> None:
        folder.mkdir(parents=True)
        self.runs = folder / "runs"
        self._log = folder / "log"
        command = [
            *prefix, sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--run-dir", str(self.runs),
            *options,
        ]  # fmt: skip
        clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command, env={**clean, **environ}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, cwd=folder, preexec_fn=die_with_parent(),
            )  # fmt: skip

    def text(self) -> str:
        """What it printed so far."""
        return self._log.read_text(errors="replace")

    def wait_for(self, seen: Callable[[], object], timeout_s: float = 60.0) -> None:
        """Until ``seen``. Raises RuntimeError where the process ends before, or time runs out."""
        deadline_s = time.monotonic() + timeout_s
        while not seen():
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"not seen in {timeout_s} s, or ended before: {self.text()}")
            time.sleep(POLL_S)

    def signal(self, number: int) -> None:
        """To the process alone, as ``kill`` does."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Whatever is left of it. Idempotent."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


@dataclass(frozen=True)
class Part:
    """A worker, its region and its link to the master."""

    node: Node
    region: str
    link: Link

    @property
    def has_share(self) -> bool:
        """Its journal has its share: it builds."""
        return any(path.stat().st_size for path in self.node.runs.glob("*/workers/*.jsonl"))

    @property
    def run_dirs(self) -> list[Path]:
        return sorted(path.parent.parent for path in self.node.runs.glob("*/workers/*.jsonl"))


@dataclass
class Ended:
    """A run that ended: by the master's folder, unless its report was made anew."""

    code: int
    worker_codes: list[int | None]
    text: str
    run_dir: Path
    seconds: float
    summary: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)

    def read(self) -> Self:
        """The report as it is now."""
        self.summary = json.loads((self.run_dir / "summary.json").read_text())
        lines = (self.run_dir / "records.jsonl").read_text().splitlines()
        self.records = [json.loads(line) for line in lines]
        return self

    @property
    def outcomes(self) -> dict[str, dict[str, int]]:
        """Region → outcome → sessions."""
        counts: dict[str, Counter[str]] = {}
        for record in self.records:
            first = next(iter(record["findings"]), "ok")
            counts.setdefault(record["region"], Counter())[first] += 1
        return {region: dict(counts[region]) for region in sorted(counts)}

    @property
    def reasons(self) -> list[str]:
        return list(self.summary["void_reasons"])


class Fleet:
    """Everything of one run; what is left of it ends with the block."""

    def __init__(self, folder: Path, environ: Mapping[str, str], links: Links) -> None:
        self._folder = folder
        self._environ = environ
        self._links = links
        self._port = free_port()
        self.parts: list[Part] = []
        self.master: Node | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for node in (*(part.node for part in self.parts), self.master):
            if node is not None:
                node.kill()

    def add(
        self, region: str, way: Way = STRAIGHT, *, env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (), host: str = "127.0.0.1",
    ) -> Part:  # fmt: skip
        """A worker. ``host``: where it finds its link; ``prefix``: a command to run it by."""
        number = len(self.parts)
        link = self._links.open(self._port, way, seed=number, host=host)
        options = ("--worker", "--master-host", host, "--master-port", str(link.port), "--region", region)
        node = Node(
            self._folder / f"worker{number}", {**self._environ, **(env or {})}, options, prefix
        )  # fmt: skip
        part = Part(node, region, link)
        self.parts.append(part)
        return part

    def lead(self, users: int, *options: str) -> Node:
        """The master, once all workers were added."""
        self.master = Node(
            self._folder / "master", self._environ,
            (
                "--master", "--headless", "--only-summary", "--master-bind-host", "127.0.0.1",
                "--master-bind-port", str(self._port), "--expect-workers", str(len(self.parts)),
                "-u", str(users), "-r", str(users), "--agent-name", AGENT_NAME, "--baseline", "0", *options,
            ),
        )  # fmt: skip
        return self.master

    def wait_for_t0(self) -> None:
        """Until the master has announced T0, which is a second ahead then."""
        assert self.master is not None
        master = self.master
        master.wait_for(lambda: ANNOUNCED in master.text())

    def finish(self, timeout_s: float = 120.0, worker_timeout_s: float = 60.0) -> Ended:
        """Wait for the end of all. Raises subprocess.TimeoutExpired where it takes too long; of a worker
        that does not end the exit code is None."""
        assert self.master is not None
        started_s = time.monotonic()
        code = self.master.process.wait(timeout_s)
        seconds = time.monotonic() - started_s
        codes: list[int | None] = []
        for part in self.parts:
            try:
                codes.append(part.node.process.wait(worker_timeout_s))
            except subprocess.TimeoutExpired:
                codes.append(None)
        (run_dir,) = (path.parent for path in self.master.runs.glob("*/run.json"))
        return Ended(code, codes, self.master.text(), run_dir, seconds)
