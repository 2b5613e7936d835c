"""The embedded stack: a real LiveKit server and the reference agent, around a block or around a command.

Whatever ends it, the end of a block, a signal, a failed start or our own SIGKILL (Linux), nothing that it
started is left running.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from lk_users.errors import StackError
from lk_users.local import process
from lk_users.local.server import HOST, PROGRAM, VERSION, Server, find_or_build, version_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

    from lk_users.local.cache import Say
    from lk_users.local.process import Child, Pause

AGENT_NAME: Final = "welcome"
AGENT_WORKERS: Final = 4
AGENT_READY_S: Final = 20.0
# Servers of before 1.9 have /rtc alone, which takes two connections of who speaks and listens.
AGENT_JOINS_BY: Final = "/rtc/v1/validate"
_LEFTOVER_S: Final = 2.0
_NOWHERE: Final = Path()
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def say_on_stderr(line: str) -> None:
    """The default voice of the stack."""
    print(f"lk-users: {line}", file=sys.stderr, flush=True)


class Stack:
    """Server and reference agent, up between ``start`` and ``stop``. Start it from a lasting thread.

    ``jobs_per_s``: how many jobs the reference agent starts at most; 0: as they come.
    ``agent_command`` stands in for the reference agent; it keeps the same contract: ``ready N workers`` on
    stdout once all are registered, code 0 on SIGTERM. ``log_dir``: without one, logs go to a temporary
    folder that stays only when something failed.
    """

    def __init__(
        self,
        *,
        agent_name: str = AGENT_NAME,
        workers: int = AGENT_WORKERS,
        jobs_per_s: float = 0.0,
        server_binary: str | None = None,
        udp_port: bool = False,
        server_extra: Mapping[str, Any] | None = None,
        agent_command: Sequence[str] | None = None,
        log_dir: Path | None = None,
        say: Say = say_on_stderr,
        pause: Pause = time.sleep,
    ) -> None:
        self._agent_name = agent_name
        self._workers = workers
        self._jobs_per_s = jobs_per_s
        self._server_binary = server_binary
        self._udp_port = udp_port
        self._server_extra = server_extra
        self._agent_command = agent_command
        self._own_log_dir = log_dir
        self._say = say
        self._pause = pause
        self._logs = _NOWHERE
        self._server: Server | None = None
        self._agent: Child | None = None
        self._told: set[str] = set()

    # --- life ---

    def start(self) -> None:
        """Return when server and agent are ready; raise StackError with nothing left running."""
        binary = find_or_build(self._server_binary, self._say, pause=self._pause)
        self._logs = self._make_log_dir()
        self._told.clear()
        try:
            self._start_server(binary)
            self._start_agent()
        except BaseException as error:
            self.stop(failed=isinstance(error, Exception))
            raise

    def stop(self, *, failed: bool = False) -> None:
        """Stop the agent, then the server. ``failed`` keeps the logs and says where. Harmless twice."""
        agent, self._agent = self._agent, None
        server, self._server = self._server, None
        try:
            if agent:
                process.stop(agent)
        finally:
            if server:
                server.stop()
            self._settle_logs(keep=failed or bool(self._told))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.deaths()
        self.stop(failed=kind is not None)

    # --- what it offers ---

    @property
    def server(self) -> Server:
        """The running server."""
        if self._server is None:
            raise StackError("the stack is not running")
        return self._server

    def env(self) -> dict[str, str]:
        """The variables by which a program finds this server."""
        return self.server.env()

    def pids(self) -> dict[str, int]:
        """Process ids of the parts that were started: ``server``, ``agent``."""
        server = self._server.pid if self._server else None
        agent = self._agent.pid if self._agent else None
        return {name: pid for name, pid in (("server", server), ("agent", agent)) if pid is not None}

    def deaths(self) -> list[str]:
        """One line for each part that ended by itself since the last call; also said."""
        ends = {
            "the LiveKit server": (self._server.death() if self._server else None, self._server_log),
            "the reference agent": (process.ended(self._agent) if self._agent else None, self._agent_log),
        }
        lines = []
        for part, (code, log) in ends.items():
            if code is not None and part not in self._told:
                self._told.add(part)
                lines.append(f"{part} {process.how_it_ended(code)}; {process.tail_in_words(log)}")
        for line in lines:
            self._say(line)
        return lines

    # --- parts ---

    @property
    def _server_log(self) -> Path:
        return self._logs / "server.log"

    @property
    def _agent_log(self) -> Path:
        return self._logs / "agent.log"

    def _start_server(self, binary: Path) -> None:
        started = time.monotonic()
        version = version_of(binary)
        self._server = Server(
            binary, self._server_log, udp_port=self._udp_port, extra=self._server_extra, pause=self._pause
        )
        self._server.start()
        if self._agent_command is None and not self._server.knows(AGENT_JOINS_BY):
            raise StackError(
                f"LiveKit server {version} ({binary}) is too old for the reference agent, which joins by "
                f"/rtc/v1: name a newer one, 1.9.11 say, with {PROGRAM.named_by}, or take it off PATH, and "
                f"{VERSION} is built"
            )
        took_s = time.monotonic() - started
        self._say(f"LiveKit server {version} ({binary}) ready on {HOST}:{self._server.port} ({took_s:.1f} s)")

    def _start_agent(self) -> None:
        started = time.monotonic()
        # Into a file, hence unbuffered: the ready line must not wait in the agent's buffer.
        env = os.environ | self.env() | {"PYTHONUNBUFFERED": "1"}
        agent = self._agent = process.spawn(self._agent_argv(), env=env, log=self._agent_log, many_files=True)
        otherwise = "the reference agent was not ready"
        process.wait_until(
            lambda: self._agent_is_ready(agent), AGENT_READY_S, otherwise, self._agent_log, self._pause
        )
        name = f'reference agent "{self._agent_name}"' if self._agent_name else "unnamed reference agent"
        workers = "1 worker" if self._workers == 1 else f"{self._workers} workers"
        paced = f", {self._jobs_per_s:g} jobs a second" if self._jobs_per_s else ""
        self._say(f"{name}, {workers}{paced}, ready ({time.monotonic() - started:.1f} s)")

    def _agent_argv(self) -> list[str]:
        if self._agent_command is not None:
            return list(self._agent_command)
        argv = [sys.executable, "-m", "lk_users.local.agent", "--url", self.server.url]
        pace = ["--jobs-per-s", f"{self._jobs_per_s:g}"] if self._jobs_per_s else []
        return [*argv, "--agent-name", self._agent_name, "--workers", str(self._workers), *pace]

    def _agent_is_ready(self, agent: Child) -> bool:
        code = process.ended(agent)
        if code is not None:
            raise StackError(
                f"the reference agent {process.how_it_ended(code)} before it was ready; "
                f"{process.tail_in_words(self._agent_log)}"
            )
        text = self._agent_log.read_text(errors="replace")
        found = re.search(r"^ready (\d+) workers?$", text, re.MULTILINE)
        return found is not None and int(found[1]) == self._workers

    def _make_log_dir(self) -> Path:
        if self._own_log_dir is None:
            return Path(tempfile.mkdtemp(prefix="lk-users-stack-"))
        try:
            self._own_log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StackError(f"cannot make the log folder {self._own_log_dir}: {error.strerror}") from error
        return self._own_log_dir.absolute()

    def _settle_logs(self, *, keep: bool) -> None:
        logs, self._logs = self._logs, _NOWHERE
        if logs == _NOWHERE:
            return
        if keep:
            self._say(f"logs of server and agent: {logs}")
        elif self._own_log_dir is None:
            shutil.rmtree(logs, ignore_errors=True)


# --- a command with the stack around it ------------------------------------------------------------


class _Interrupted(BaseException):
    """A signal asked us to end before the command ran."""


class _Signals:
    """The signals that ask us to end, collected while in the block; nothing is interrupted half-way."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            # What the caller ignores (nohup, a background job) stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                # None: a handler that was not set from Python and cannot be set again.
                self._before[number] = signal.signal(number, self._note) or signal.SIG_DFL
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.seen.append(number)

    def pause(self, seconds: float) -> None:
        """Sleep; raise _Interrupted once a signal has come."""
        if not self.seen:
            time.sleep(seconds)
        if self.seen:
            raise _Interrupted


def run(
    command: Sequence[str],
    *,
    agent_name: str = AGENT_NAME,
    workers: int = AGENT_WORKERS,
    jobs_per_s: float = 0.0,
    server_binary: str | None = None,
    udp_port: bool = False,
    server_extra: Mapping[str, Any] | None = None,
    agent_command: Sequence[str] | None = None,
    log_dir: Path | None = None,
    say: Say = say_on_stderr,
) -> int:
    """Run ``command`` with the stack around it; its exit code, 128 + n when signal n ended it or us.

    Call it from the main thread. A first SIGINT, SIGTERM or SIGHUP is passed on to the command, a second
    one kills it. Raises StackError when the stack cannot be started or the command does not exist.
    """
    if not command or shutil.which(command[0]) is None:
        raise StackError(f"no such command: {command[0]}" if command else "no command to run")
    with _Signals() as signals:
        stack = Stack(
            agent_name=agent_name,
            workers=workers,
            jobs_per_s=jobs_per_s,
            server_binary=server_binary,
            udp_port=udp_port,
            server_extra=server_extra,
            agent_command=agent_command,
            log_dir=log_dir,
            say=say,
            pause=signals.pause,
        )
        try:
            stack.start()
        except _Interrupted:
            return 128 + signals.seen[0]
        failed = True
        try:
            code = _run_command(command, stack, signals)
            # One who ended it by a signal knows why, and needs no logs.
            failed = code != 0 and not signals.seen
        finally:
            stack.stop(failed=failed)
        return code


def _run_command(command: Sequence[str], stack: Stack, signals: _Signals) -> int:
    with _command(command, os.environ | stack.env()) as child:
        forwarded = 0
        while (code := child.poll()) is None:
            for number in signals.seen[forwarded:]:
                _forward(child, number, again=forwarded > 0)
                forwarded += 1
            # A dead part is said, not acted on: the command has to see it and blame the target itself.
            stack.deaths()
            time.sleep(process.POLL_S)
        stack.deaths()
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _command(command: Sequence[str], env: Mapping[str, str]) -> Iterator[Child]:
    """The running command with our stdin, stdout and stderr.

    It leads a session of its own. In ours, a terminal's Ctrl-C would reach it directly and `kill -INT` on
    us would not, and we could not tell which it was; so every signal comes to us and goes on exactly once.
    Reading the terminal still works, since job control stops only members of the terminal's own session.
    """
    try:
        child = subprocess.Popen(
            command, env=dict(env), start_new_session=True, preexec_fn=process.die_with_parent()
        )
    except OSError as error:
        raise StackError(f"cannot run {command[0]}: {error.strerror or error}") from error
    try:
        yield child
    finally:
        _end_leftovers(child)


def _forward(child: Child, number: int, *, again: bool) -> None:
    """As the sender would have had it: a terminal's Ctrl-C goes to all, a `kill` to the command alone."""
    if again:
        process.signal_group(child, signal.SIGKILL)
    elif number == signal.SIGINT:
        process.signal_group(child, number)
    else:
        child.send_signal(number)


def _end_leftovers(child: Child) -> None:
    """End what the command left running: its server goes away now."""
    deadline = time.monotonic() + _LEFTOVER_S
    number: int = signal.SIGTERM
    while process.signal_group(child, number):
        number = 0 if time.monotonic() < deadline else signal.SIGKILL
        child.poll()
        time.sleep(process.POLL_S)
    process.stop(child)
