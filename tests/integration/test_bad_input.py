"""Bad input: a line a fault that names option and value, exit code 12, nothing left running."""

from __future__ import annotations

import resource
import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Finished, Running

    from lk_users.local.stack import Stack

    Burst = Callable[..., Finished]
    Start = Callable[..., Running]

pytestmark = pytest.mark.real


def faults(done: Finished) -> list[str]:
    assert done.code == 12, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("lk-users:")]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("-u", "0"), "--users 0: a burst needs at least one user"),
        (("-u", "-3"), "--users -3: a burst needs at least one user"),
        (("--batch-size", "99"), "--batch-size 99: larger than the burst of 5"),
        (("--dispatch", "carrier-pigeon"), "--dispatch carrier-pigeon: unknown; use one of api, room"),
        (("--order", "backwards"), "--order backwards: unknown"),
        (("--release", "never"), "--release never: unknown"),
        (
            ("--dispatch", "token", "--order", "dispatch-first"),
            "--order dispatch-first: with --dispatch token",
        ),
        (("--welcome", "audio,smell"), "--welcome smell: unknown item"),
        (("--metadata", '{"a": "{room}"}'), "unknown placeholder {room}"),
        (("--metadata", "{nope"), "--metadata {nope: not valid JSON"),
        (("--metadata", "@missing.jsonl"), "--metadata @missing.jsonl: cannot be read"),
        (("--session-timeout", "-1"), "--session-timeout -1: must be a number of at least"),
        (("--watch", "soon"), "--watch soon: not a number"),
        (("--slo", "p95(happiness) <= 1"), "p95(happiness) <= 1"),
        (("--region", "a b"), "--region 'a b': use letters"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_option_that_will_not_do(burst: Burst, options: tuple[str, ...], line: str) -> None:
    (fault,) = faults(burst(5, *options))
    assert line in fault


def test_every_fault_is_told_at_once(burst: Burst) -> None:
    found = faults(burst(5, "--batch-size", "99", "--watch", "soon", "--slo", "nonsense"))
    assert len(found) == 3


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"LIVEKIT_URL": ""}, "LIVEKIT_URL is not set"),
        ({"LIVEKIT_API_KEY": ""}, "LIVEKIT_API_KEY is not set"),
        ({"LIVEKIT_API_SECRET": ""}, "LIVEKIT_API_SECRET is not set"),
        ({"LIVEKIT_URL": "ftp://lk.example.com"}, "LIVEKIT_URL ftp://lk.example.com: must be ws://"),
        ({"LIVEKIT_API_SECRET": "w" * 40}, "does not take LIVEKIT_API_KEY"),
        ({"LIVEKIT_URL": "wss://my-project.livekit.cloud"}, "--allow-cloud yes"),
    ],
    ids=["no url", "no key", "no secret", "ftp", "wrong secret", "cloud"],
)
def test_a_target_that_will_not_do(burst: Burst, stack: Stack, changes: dict[str, str], line: str) -> None:
    (fault,) = faults(burst(5, env={**stack.env(), **changes}))
    assert line in fault
    assert stack.env()["LIVEKIT_API_SECRET"] not in fault


def test_nothing_listens_there(burst: Burst, stack: Stack) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (fault,) = faults(burst(5, env={**stack.env(), "LIVEKIT_URL": f"ws://127.0.0.1:{port}"}))
    assert f"127.0.0.1:{port}: connection refused; is a LiveKit server listening there?" in fault


def test_a_run_folder_that_cannot_be_written(burst: Burst, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (fault,) = faults(burst(5, "--run-dir", str(tmp_path / "file" / "runs")))
    assert "file/runs: cannot be written (Not a directory)" in fault


def test_several_processes_say_it_once(burst: Burst) -> None:
    assert len(faults(burst(6, "--processes", "2", "--watch", "soon"))) == 1


def test_too_few_file_handles(burst: Burst) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(400, before[0]), before[1]))
    try:
        done = burst(5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert done.code == 0  # a low soft limit is raised
    (fault,) = faults(burst(20_000))
    assert "too few file handles: 20000 sessions in one process need 60256" in fault


def test_an_unknown_option_is_locusts_own_business(burst: Burst) -> None:
    done = burst(5, "--no-such-option", "1")
    assert done.code == 2
