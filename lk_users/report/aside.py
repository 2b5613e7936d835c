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
_MODULE: Final = "lk_users.report.page.write"


def page_aside(run_dir: Path) -> str:
    """Why the page of a run, whose other reports are written, could not be made; empty if it was.

    Never raises: a run's verdict does not hang on its charts. Under gevent other greenlets go on meanwhile.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith(NOT_ITS_BUSINESS)}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", _MODULE, str(run_dir)],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=PATIENCE_S,
            check=False,
            # A terminal's Ctrl-C goes to a whole group.
            start_new_session=True,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        return str(exc)
    if done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"its process ended with {done.returncode}"
