"""The embedded stack with a real LiveKit server; the reference agent has a stand-in here."""

from __future__ import annotations

import contextlib
import http.client
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lk_users.errors import StackError
from lk_users.local import process
from lk_users.local import server as server_module
from lk_users.local.server import Server, find_or_build
from lk_users.local.stack import Stack, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 20.0

AGENT = """
import os, signal, sys, time
assert os.environ["LIVEKIT_URL"].startswith("ws://127.0.0.1:") and os.environ["LIVEKIT_API_SECRET"]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("ready 4 workers")
while True:
    time.sleep(60)
"""
AGENT_COMMAND = [sys.executable, "-c", AGENT]

# A program of its own around the stack, so that signals can be sent to it: prints the parts' pids.
RUNNER = """
import sys
from lk_users.local import stack
agent = sys.argv[1]
ready = stack.Stack.start
def start(self):
    ready(self)
    print("pids", *self.pids().values(), flush=True)
stack.Stack.start = start
sys.exit(stack.run(sys.argv[2:], agent_command=[sys.executable, "-c", agent]))
"""


def wait_for[T](look: Callable[[], T], what: str) -> T:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.02)
    return found
