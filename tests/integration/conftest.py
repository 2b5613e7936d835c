"""A real stack for a whole test session, and Locust runs against it in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil
import pytest
from influxdb_client.client.influxdb_client import InfluxDBClient

from lk_users.local import influxd as influxd_module
from lk_users.local.influxd import Influxd
from lk_users.local.stack import Stack
from lk_users.report.page.write import library
from lk_users.settings.target import Target
from lk_users.wire.api import Api, Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).parent.parent.parent
LOCUSTFILE = ROOT / "locustfiles" / "burst.py"
# What would steer a run of ours from outside.
FOREIGN = ("LIVEKIT_", "LK_", "LOCUST_", "SSL_CERT_", "INFLUX_")


def free_port() -> int:
    """A TCP port on loopback that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_master_port(arguments: Sequence[str]) -> list[str]:
    """Locust's master would take one fixed port, and its workers would go to whichever run has it."""
    if "--processes" not in arguments or "--master-port" in arguments:
        return []
    port = str(free_port())
    return ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]


def children(pid: int, module: str) -> list[psutil.Process]:
    """Processes that run this module of ours, of those that the process started, or they in turn."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        # One that has just ended has no command line, and is none of them.
        with contextlib.suppress(psutil.NoSuchProcess):
            if module in process.cmdline():
                found.append((process, process.ppid()))
    # What one of them starts itself has its command line until it is another program.
    pids = {process.pid for process, _ in found}
    return [process for process, parent in found if parent not in pids]


class HasServer(Protocol):
    """What runs a LiveKit server: a stack, or a cluster."""

    def env(self) -> dict[str, str]: ...


def open_rooms(where: HasServer, names: list[str]) -> tuple[str, ...]:
    """Those of ``names`` that the server still lists."""
    target = Target.from_environment(where.env())

    async def ask() -> tuple[str, ...]:
        api = Api(target.http_url, Keys(target.key, target.secret))
        try:
            return await api.rooms(names)
        finally:
            await api.close()

    return asyncio.run(ask())


def without_library(content: bytes) -> bytes:
    """A page without the library of its charts: that brings a token of its own, of no server's session."""
    return content.replace(library().encode(), b"")


def flux(database: Influxd, query: str) -> list[dict[str, Any]]:
    """The rows that a query gives, as values by column. ``{bucket}`` in it stands for the database's own."""
    with InfluxDBClient(database.url, database.token, org=database.org) as client:
        tables = client.query_api().query(query.replace("{bucket}", database.bucket))
        return [dict(row.values) for table in tables for row in table.records]


@dataclass
class Finished:
    """One run that ended."""

    code: int
    stdout: str
    stderr: str
    run_dirs: list[Path]
    summary: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        """The one run folder that it made."""
        (only,) = self.run_dirs
        return only

    @property
    def outcomes(self) -> dict[str, int]:
        return dict(self.summary["outcomes"])

    def causes(self, finding: str) -> set[str]:
        return {record["findings"][finding] for record in self.records if finding in record["findings"]}


class Running:
    """A Locust process of ours, in a process group of its own."""

    def __init__(
        self,
        arguments: list[str],
        environ: Mapping[str, str],
        run_dir: Path,
        out: Path,
        max_handles: int | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """``max_handles``: hard limit on file handles of the process. ``prefix``: a command to run it by."""
        self.runs = run_dir
        self._out, self._err = out / "stdout", out / "stderr"
        command = [
            *prefix,
            sys.executable,
            "-m",
            "locust",
            "-f",
            str(LOCUSTFILE),
            "--run-dir",
            str(run_dir),
            *own_master_port(arguments),
            *arguments,
        ]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        # Only the burst, but where a test is about what stands beside it, which takes time.
        clean["LK_BASELINE"] = "0"

        def limit() -> None:
            # A shell's background jobs ignore Ctrl-C, and so would what they start.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if max_handles is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (max_handles, max_handles))

        with self._out.open("w") as stdout, self._err.open("w") as stderr:
            self.process = subprocess.Popen(
                command, env={**clean, **environ}, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                start_new_session=True, cwd=out, preexec_fn=limit,
            )  # fmt: skip

    def output(self) -> str:
        """Both streams as they are so far."""
        return self._out.read_text() + self._err.read_text()

    def wait_for(self, seen: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Until ``seen``; fails when the process ends before, or time runs out."""
        deadline_s = time.monotonic() + timeout_s
        while not seen():
            assert self.process.poll() is None, f"ended before: {self.output()}"
            assert time.monotonic() < deadline_s, f"not seen in {timeout_s} s: {self.output()}"
            time.sleep(0.05)

    def wait_for_text(self, text: str, timeout_s: float = 30.0) -> None:
        self.wait_for(lambda: text in self.output(), timeout_s)

    def signal(self, number: int) -> None:
        """To the process alone, as ``kill`` does."""
        self.process.send_signal(number)

    def signal_group(self, number: int) -> None:
        """To the process and what it forked, as a terminal's Ctrl-C does."""
        os.killpg(self.process.pid, number)

    def finish(self, timeout_s: float = 60.0) -> Finished:
        """Wait for its end; what it made. Fails if it leaves a process behind."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.signal_group(signal.SIGKILL)
            self.process.wait()
            pytest.fail(f"did not end within {timeout_s} s: {self.output()}")
        assert self.group_is_gone(), "left a process behind"
        runs = sorted(path.parent for path in self.runs.glob("*/run.json"))
        done = Finished(code, self._out.read_text(), self._err.read_text(), runs)
        if runs and (runs[-1] / "summary.json").exists():
            done.summary = json.loads((runs[-1] / "summary.json").read_text())
            lines = (runs[-1] / "records.jsonl").read_text().splitlines()
            done.records = [json.loads(line) for line in lines]
        return done

    def group_is_gone(self, patience_s: float = 5.0) -> bool:
        deadline_s = time.monotonic() + patience_s
        while time.monotonic() < deadline_s:
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.05)
        return False

    def kill(self) -> None:
        """Whatever is left of it. Idempotent."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Server and reference agent ``welcome``, warm: the first dispatch of a new worker takes 5 s more."""
    with Stack(say=lambda line: None) as up:
        yield up


@pytest.fixture(scope="session")
def influxd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influxd]:
    """A real InfluxDB for all; a run's points are told apart by its id."""
    binary = influxd_module.find_or_build(lambda line: print(line, file=sys.stderr))
    with Influxd(binary, tmp_path_factory.mktemp("influxd") / "influxd.log") as up:
        yield up


@pytest.fixture
def start(stack: Stack, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """``start(*options, env=…, max_handles=…, prefix=…)``: a headless run in the background."""
    started: list[Running] = []

    def begin(
        *options: str,
        env: Mapping[str, str] | None = None,
        headless: bool = True,
        max_handles: int | None = None,
        prefix: Sequence[str] = (),
        env_extra: Mapping[str, str] | None = None,
    ) -> Running:
        out = tmp_path / f"run{len(started)}"
        out.mkdir()
        fixed = ["--headless", "--only-summary"] if headless else []
        environ = {**(stack.env() if env is None else env), **(env_extra or {})}
        running = Running([*fixed, *options], environ, out / "runs", out, max_handles, prefix)
        started.append(running)
        return running

    yield begin
    for running in started:
        running.kill()


@pytest.fixture
def burst(start: Callable[..., Running]) -> Callable[..., Finished]:
    """``burst(users, *options, env=…, prefix=…)``: a headless burst, start to end."""

    def run(
        users: int,
        *options: str,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        timeout_s: float = 90.0,
    ) -> Finished:
        sized = ("-u", str(users), "-r", str(max(users, 1)), "--agent-name", "welcome", *options)
        return start(*sized, env=env, prefix=prefix).finish(timeout_s)

    return run
