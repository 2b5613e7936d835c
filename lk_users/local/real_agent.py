"""A real agent beside the embedded stack: a program on livekit-agents, in an environment of its own.

livekit-agents pins another ``livekit`` than we do, so its environment is made apart, once, and kept in the
cache under a name that its pins and our Python decide.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import time
from typing import TYPE_CHECKING, Final, Self

from lk_users.cachedir import cache_root
from lk_users.clock import SystemClock
from lk_users.errors import StackError
from lk_users.local import process
from lk_users.local.cache import duration, locked, run_logged
from lk_users.wire.agent_http import ask

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lk_users.local.cache import Say
    from lk_users.local.process import Child, Pause

READY_S: Final = 30.0
REST_S: Final = 60.0
REST_LOAD: Final = 0.2
_REST_LOOK_S: Final = 1.0
REQUIREMENTS: Final = "requirements.txt"
# What livekit-agents 1.8 logs of itself, as JSON a line.
_HTTP_LINE: Final = re.compile(r"HTTP server listening on ([\d.]+:\d+)")
_REGISTERED: Final = '"registered worker"'
# What would steer it from outside; livekit-agents goes to its server by a proxy where one is named.
_FOREIGN: Final = ("LIVEKIT_", "GREETER_", "HTTP_PROXY", "HTTPS_PROXY")
# On a first SIGTERM it waits for its jobs, up to an hour.
_INSIST_AFTER_S: Final = 1.0


def environment(folder: Path, say: Say, *, pause: Pause = time.sleep) -> Path:
    """The Python of the environment for ``folder``'s requirements.txt; made when there is none yet.

    Raises StackError, which says what is missing, when it cannot be made.
    """
    requirements = folder / REQUIREMENTS
    try:
        pins = requirements.read_bytes()
    except OSError as error:
        raise StackError(f"cannot read {requirements}: {error.strerror or error}") from error
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = hashlib.sha256(version.encode() + b"\0" + pins).hexdigest()[:16]
    home = cache_root() / f"agents-{name}"
    if _is_whole(home):
        return _python(home)
    try:
        home.mkdir(parents=True, exist_ok=True)
        with locked(home / "build.lock", "making the real agent's environment", say, pause):
            if not _is_whole(home):
                _make(home, requirements, say, pause)
    except OSError as error:
        raise StackError(f"cannot make the real agent's environment in {home}: {error}") from error
    return _python(home)


def _python(home: Path) -> Path:
    return home / "venv" / "bin" / "python"


def _ready(home: Path) -> Path:
    return home / "ready"


def _is_whole(home: Path) -> bool:
    # The second part: the Python that it was made with may be gone since.
    return _ready(home).exists() and os.access(_python(home), os.X_OK)


def _make(home: Path, requirements: Path, say: Say, pause: Pause) -> None:
    """We hold the lock. A folder without its ``ready`` file counts for nothing, however far it got."""
    _ready(home).unlink(missing_ok=True)
    shutil.rmtree(home / "venv", ignore_errors=True)
    say("making the real agent's environment with pip (about a minute, only this once) …")
    pip = [str(_python(home)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps = {
        "python -m venv": [sys.executable, "-m", "venv", str(home / "venv")],
        "pip install": [*pip, "-r", str(requirements.absolute())],
        "import": [str(_python(home)), "-c", "import livekit.agents"],
    }
    took_s = 0.0
    for step, command in steps.items():
        log = home / "make.log"
        code, step_s = run_logged(command, os.environ, log, say, pause)
        took_s += step_s
        if code != 0:
            shutil.rmtree(home / "venv", ignore_errors=True)
            raise StackError(
                f"no environment for the real agent: {step} {process.how_it_ended(code)}; "
                f"{process.tail_in_words(log, 3)}. It needs Python's venv (on Debian: apt install "
                f"python3-venv) and, once, a package index that has what {requirements} names: see that "
                f"`pip download -r {requirements}` works, and start again"
            )
    _ready(home).touch()
    say(f"made the real agent's environment in {duration(took_s)}, kept as {home}")


class RealAgent:
    """One worker of the program, with its job processes. Start it from a thread that lives as long as it.

    ``python``: of its environment. ``env``: what it shall know of the server (LIVEKIT_URL …), its name
    (LIVEKIT_AGENT_NAME) and its threshold (GREETER_LOAD_THRESHOLD).
    """

    def __init__(
        self, python: Path, program: Path, log: Path, env: Mapping[str, str], *, pause: Pause = time.sleep
    ) -> None:
        self.log = log
        self.url = ""
        """Its own HTTP endpoint, once it is started."""
        self._command = [str(python), str(program), "start"]
        self._env = dict(env)
        self._pause = pause
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, which is its process group's too; None when it does not run."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Return when it is registered with the server; raise StackError, with nothing left running, if
        that takes more than 30 s."""
        env = {name: value for name, value in os.environ.items() if not name.upper().startswith(_FOREIGN)}
        # Port 0: it says which one it got.
        env |= {"GREETER_HTTP": "127.0.0.1:0", "PYTHONUNBUFFERED": "1"} | self._env
        child = self._child = process.spawn(self._command, env=env, log=self.log, many_files=True)
        try:
            otherwise = "the real agent was not registered"
            process.wait_until(lambda: self._is_registered(child), READY_S, otherwise, self.log, self._pause)
        except BaseException:
            self.stop()
            raise

    def rest(self) -> None:
        """Return when it has no jobs and next to no load, at the latest after 60 s: the server gives no job
        to a worker that is busy, be it with its own start, whatever its threshold is."""
        for _ in range(round(REST_S / _REST_LOOK_S)):
            told = ask(self.url, SystemClock())
            if not told.error and told.load < REST_LOAD and not told.active_jobs:
                return
            self._pause(_REST_LOOK_S)

    def stop(self) -> None:
        """SIGTERM, again after 1 s, after 5 s SIGKILL, to it and its jobs. Harmless when it does not run."""
        child, self._child = self._child, None
        if child:
            process.stop(child, insist_after_s=_INSIST_AFTER_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _is_registered(self, child: Child) -> bool:
        code = process.ended(child)
        if code is not None:
            raise StackError(
                f"the real agent {process.how_it_ended(code)} before it was registered; "
                f"{process.tail_in_words(self.log)}"
            )
        text = "\n".join(process.tail(self.log, 50))
        if found := _HTTP_LINE.search(text):
            self.url = f"http://{found[1]}"
        return _REGISTERED in text
