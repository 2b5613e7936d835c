"""What holds for every test."""

from __future__ import annotations

import gc
import os
import signal

import pytest


def pytest_configure() -> None:
    """Started in the background by a shell, we ignore SIGINT, and so would all that the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: the garbage collector need not look through them time and again."""
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test proves nothing: in CI it fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = len(reporter.stats.get("skipped", ())) if reporter is not None else 0
    if reporter is not None and os.environ.get("CI") and skipped and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{skipped} skipped: in CI nothing may be", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
