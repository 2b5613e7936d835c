"""Has ``report.html`` made by a process of its own: the library of its charts takes 0.7 s and 50 MB, which a
process that generates load shall not carry on with."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

# 5,000 sessions take 2 s on an idle core.
PATIENCE_S: Final = 120.0
# The page is made from files alone.
NOT_ITS_BUSINESS: Final = ("LIVEKIT_", "INFLUX_", "LK_")
# To its standard input: all that it reads is written.
GO: Final = "make it\n"
_MODULE: Final = "lk_users.report.page.write"


class PageMaker:
    """The process that makes the page of one run. It ends with the process that began it, at the latest."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._process: subprocess.Popen[str] | None = None
        self._fault = ""

    def begin(self) -> None:
        """Have it load its library, while there is other work for this process. Idempotent; never raises."""
        if self._process is not None or self._fault:
            return
        environ = {name: value for name, value in os.environ.items() if not name.startswith(NOT_ITS_BUSINESS)}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, str(self._run_dir)],
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="backslashreplace",
                # A terminal's Ctrl-C goes to a whole group.
                start_new_session=True,
            )
        except OSError as exc:
            self._fault = str(exc)

    def make(self) -> str:
        """Once the other reports are written: why the page could not be made; empty if it was.

        Never raises: a run's verdict does not hang on its charts. Under gevent other greenlets go on
        meanwhile.
        """
        self.begin()
        process = self._process
        if process is None:
            return self._fault
        try:
            _, said = process.communicate(GO, timeout=PATIENCE_S)
        except (OSError, subprocess.SubprocessError) as exc:
            process.kill()
            process.wait()
            return str(exc)
        if process.returncode == 0:
            return ""
        lines = said.strip().splitlines()
        return lines[-1] if lines else f"its process ended with {process.returncode}"
