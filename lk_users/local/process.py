"""Child processes of the embedded stack: they die with us, stop within a deadline, and leave a log's tail.

Each child leads a session of its own, so a terminal's Ctrl-C reaches it only through us, and its
process group holds exactly what it started. ``pause`` is how a wait spends its time between two looks;
a caller that minds signals passes one that raises.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from lk_users.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    Child = subprocess.Popen[bytes]
    Pause = Callable[[float], None]

POLL_S: Final = 0.05
STOP_S: Final = 5.0
_TAIL_BYTES: Final = 16_384
_LINE_CHARS: Final = 400
_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(*, many_files: bool = False) -> Callable[[], None]:
    """What a child runs between fork and exec: SIGKILL when the *thread* that started it ends (Linux only).

    ``many_files`` raises its soft limit of open files to the hard one.
    """
    parent = os.getpid()
    # Loaded here: after a fork it is too late to take the loader's locks.
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def prepare() -> None:
        if many_files:
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            # macOS calls its hard limit infinite and then refuses it.
            with_limit = hard if hard != resource.RLIM_INFINITY else 10_240
            resource.setrlimit(resource.RLIMIT_NOFILE, (with_limit, hard))
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            # The parent may have died before the line above; then no signal comes.
            if os.getppid() != parent:
                os._exit(1)

    return prepare


def spawn(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    log: Path,
    cwd: Path | None = None,
    many_files: bool = False,
) -> Child:
    """Start ``command`` with both outputs in ``log`` (made anew, readable by its owner only), no input.

    Call it from a thread that lives as long as the child shall (see ``die_with_parent``).
    """
    try:
        with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            return subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(many_files=many_files),
            )
    except OSError as error:
        raise StackError(f"cannot start {command[0]}: {error.strerror or error}") from error


def signal_group(child: Child, number: int) -> bool:
    """Send a signal to the child and all that it started. False: none of them is left."""
    try:
        os.killpg(child.pid, number)
    except (ProcessLookupError, PermissionError):
        # macOS says "not permitted" of a group that only zombies are left of.
        return False
    return True


def ended(child: Child) -> int | None:
    """The child's return code, None while it runs. The first to learn it ends what the child left behind."""
    if child.returncode is None and child.poll() is not None:
        # Now or never: once the group is empty, its number can become another program's.
        signal_group(child, signal.SIGKILL)
    return child.returncode


def wait_until(ready: Callable[[], bool], limit_s: float, otherwise: str, log: Path, pause: Pause) -> None:
    """Return once ``ready``. Raises StackError (``otherwise``, and the log's end) when it takes longer."""
    started = time.monotonic()
    while not ready():
        if time.monotonic() - started > limit_s:
            raise StackError(f"{otherwise} within {limit_s:.0f} s; {tail_in_words(log)}")
        pause(POLL_S)


def stop(child: Child, *, deadline_s: float = STOP_S, insist_after_s: float | None = None) -> None:
    """End the child and all that it started: SIGTERM, at the deadline SIGKILL. Harmless when it has ended.

    ``insist_after_s``: send a second SIGTERM then, for programs that take it as "now".
    """
    if ended(child) is not None:
        return
    started = time.monotonic()
    try:
        child.terminate()
        if insist_after_s is not None and not _ended_within(child, insist_after_s):
            child.terminate()
        _ended_within(child, started + deadline_s - time.monotonic())
    finally:
        signal_group(child, signal.SIGKILL)
        child.wait()


def _ended_within(child: Child, timeout_s: float) -> bool:
    try:
        child.wait(max(0.0, timeout_s))
    except subprocess.TimeoutExpired:
        return False
    return True


def how_it_ended(code: int) -> str:
    """A child's return code in words: "ended with code 1", "was killed by SIGKILL"."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def tail(log: Path, lines: int = 5) -> list[str]:
    """The last non-empty lines of a log; empty when there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def tail_in_words(log: Path, lines: int = 5) -> str:
    """The tail as part of a one-line message."""
    found = [line[:_LINE_CHARS] for line in tail(log, lines)]
    return f"the end of its log: {' | '.join(found)}" if found else "its log is empty"
