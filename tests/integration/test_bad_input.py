"""Bad input: a line a fault that names option and value, exit code 12, nothing left running."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from conftest import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Finished, Running

    from lk_users.local.stack import Stack

    Burst = Callable[..., Finished]
    Start = Callable[..., Running]

pytestmark = pytest.mark.real

NO_URL = "LIVEKIT_URL is not set"
NO_KEY = "LIVEKIT_API_KEY is not set"
NO_SECRET = "LIVEKIT_API_SECRET is not set"
A_URL = "must be ws://, wss://, http:// or https:// and a host"
CLOUD = "LiveKit Cloud bills agent minutes and connection minutes of every session"
WRONG_SECRET = "w" * 40


def faults(done: Finished) -> list[str]:
    """The lines that a refused start left. Its process is gone, as ``finish`` has seen."""
    assert done.code == 12, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert done.run_dirs == []
    said = [line for line in done.stderr.splitlines() if "lk-users: " in line]
    assert [line for line in said if not line.startswith("lk-users: ")] == []
    return said


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("-u", "0"), "--users 0: a burst needs at least one user"),
        (("-u", "-3"), "--users -3: a burst needs at least one user"),
        (("--batch-size", "99"), "--batch-size 99: larger than the burst of 5"),
        (("--batch-size", "-1"), "--batch-size -1: must be a whole number of at least 0"),
        (("--bursts", "0"), "--bursts 0: must be a whole number of at least 1"),
        (("--dispatch", "carrier-pigeon"), "--dispatch carrier-pigeon: unknown; use one of api, room"),
        (("--order", "backwards"), "--order backwards: unknown; use one of dispatch-first, join-first"),
        (("--release", "never"), "--release never: unknown; use one of barrier, free"),
        (("--welcome", "audio,smell"), "--welcome smell: unknown item; use any of state, track, audio, text"),
        (
            ("--dispatch", "token", "--order", "dispatch-first"),
            "--order dispatch-first: with --dispatch token",
        ),
        (("--dispatch", "none"), "--dispatch none: asks for the unnamed agent, but --agent-name is welcome"),
        (("--agent-name", "", "--dispatch", "api"), "--dispatch api: needs --agent-name"),
        (("--metadata", '{"a": "{room}"}'), '--metadata {"a": "{room}"}: unknown placeholder {room}'),
        (("--metadata", "{nope"), "--metadata {nope: not valid JSON"),
        (("--metadata", "@missing.jsonl"), "--metadata @missing.jsonl: cannot be read (No such file"),
        (("--session-timeout", "-1"), "--session-timeout -1: must be a number of at least 0.1"),
        (("--batch-delay", "-0.5"), "--batch-delay -0.5: must be a number of at least 0"),
        (("--welcome-timeout", "nan"), "--welcome-timeout nan: must be a number"),
        (("--watch", "soon"), "--watch soon: not a number"),
        (("--max-stall", "1s"), "--max-stall 1s: not a number"),
        (("--slo", "p95(happiness) <= 1"), "--slo 'p95(happiness) <= 1': character 5: unknown name"),
        (
            ("--slo", "count(lost) in engine=sdk == 0"),
            "--slo 'count(lost) in engine=sdk == 0': no session of this run has engine sdk; give --witness",
        ),
        (("--region", "a b"), "--region 'a b': use letters"),
        (("--influx-url", "http://127.0.0.1:8086"), "INFLUX_TOKEN is not set: --influx-url needs a token"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_option_that_will_not_do(burst: Burst, options: tuple[str, ...], line: str) -> None:
    (fault,) = faults(burst(5, *options))
    assert fault.startswith(f"lk-users: {line}")


def test_every_fault_is_told_at_once(burst: Burst) -> None:
    found = faults(burst(5, "--batch-size", "99", "--watch", "soon", "--slo", "nonsense", "--region", "a b"))
    assert [line.split()[1] for line in found] == ["--region", "--batch-size", "--watch", "--slo"]


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"LIVEKIT_URL": ""}, [NO_URL]),
        ({"LIVEKIT_API_KEY": ""}, [NO_KEY]),
        ({"LIVEKIT_API_SECRET": ""}, [NO_SECRET]),
        ({"LIVEKIT_URL": "", "LIVEKIT_API_KEY": "", "LIVEKIT_API_SECRET": ""}, [NO_URL, NO_KEY, NO_SECRET]),
        ({"LIVEKIT_URL": "ftp://lk.example.com"}, [f"LIVEKIT_URL ftp://lk.example.com: {A_URL}"]),
        ({"LIVEKIT_URL": "ws://"}, [f"LIVEKIT_URL ws://: {A_URL}"]),
        ({"LIVEKIT_URL": "ws://lk.example.com:http"}, [f"LIVEKIT_URL ws://lk.example.com:http: {A_URL}"]),
        ({"LIVEKIT_URL": "ws://[::1:7880"}, [f"LIVEKIT_URL ws://[::1:7880: {A_URL}"]),
        ({"LIVEKIT_URL": "wss://my-project.livekit.cloud"}, [CLOUD]),
        ({"LIVEKIT_URL": "https://My-Project.LiveKit.Cloud.:443/"}, [CLOUD]),
    ],
    ids=[
        "no url",
        "no key",
        "no secret",
        "nothing",
        "ftp",
        "no host",
        "bad port",
        "bracket",
        "cloud",
        "root",
    ],
)
def test_a_target_that_will_not_do(
    burst: Burst, stack: Stack, changes: dict[str, str], lines: list[str]
) -> None:
    found = faults(burst(5, env={**stack.env(), **changes}))
    assert len(found) == len(lines)
    for fault, line in zip(found, lines, strict=True):
        assert line in fault


def test_a_wrong_secret_is_named_without_being_shown(burst: Burst, stack: Stack) -> None:
    done = burst(5, env={**stack.env(), "LIVEKIT_API_SECRET": WRONG_SECRET})
    (fault,) = faults(done)
    shown = stack.env()["LIVEKIT_API_KEY"][:4] + "…"
    assert f"{stack.server.url} does not take LIVEKIT_API_KEY {shown} with this LIVEKIT_API_SECRET" in fault
    for hidden in (WRONG_SECRET, stack.env()["LIVEKIT_API_KEY"]):
        assert hidden not in done.stdout + done.stderr


def test_nothing_listens_there(burst: Burst, stack: Stack) -> None:
    url = f"ws://127.0.0.1:{free_port()}"
    (fault,) = faults(burst(5, env={**stack.env(), "LIVEKIT_URL": url}))
    expected = f"lk-users: LIVEKIT_URL {url}: connection refused; is a LiveKit server listening there?"
    assert fault == expected


def test_a_run_folder_that_cannot_be_written(burst: Burst, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "runs"
    (fault,) = faults(burst(5, "--run-dir", str(folder)))
    assert fault.startswith(f"lk-users: --run-dir {folder}: cannot be written (Not a directory)")


def test_metadata_that_is_no_file(burst: Burst, tmp_path: Path) -> None:
    (fault,) = faults(burst(5, "--metadata", f"@{tmp_path}"))
    assert fault.startswith(f"lk-users: --metadata @{tmp_path}: cannot be read (Is a directory)")


def test_metadata_that_is_no_text(burst: Burst, tmp_path: Path) -> None:
    (tmp_path / "picture.jsonl").write_bytes(b'{"a": "\xff\xfe"}\n')
    (fault,) = faults(burst(5, "--metadata", f"@{tmp_path / 'picture.jsonl'}"))
    assert fault.startswith(f"lk-users: --metadata @{tmp_path / 'picture.jsonl'}: cannot be read (")


@pytest.mark.parametrize(
    ("options", "changes", "line"),
    [
        (("--watch", "soon"), {}, "--watch soon: not a number"),
        (("--region", "a b"), {}, "--region 'a b': use letters"),
        ((), {"LIVEKIT_API_SECRET": ""}, NO_SECRET),
        ((), {"LIVEKIT_API_SECRET": WRONG_SECRET}, "ws://127.0.0.1:"),
    ],
    ids=["run setting", "process setting", "no secret", "wrong secret"],
)
def test_several_processes_say_it_once_and_end(
    burst: Burst, stack: Stack, options: tuple[str, ...], changes: dict[str, str], line: str
) -> None:
    (fault,) = faults(burst(6, "--processes", "2", *options, env={**stack.env(), **changes}))
    assert fault.startswith(f"lk-users: {line}")


def test_too_few_file_handles(start: Start) -> None:
    running = start("-u", "500", "-r", "500", "--agent-name", "welcome", max_handles=1024)
    (fault,) = faults(running.finish())
    needed = "500 sessions in one process need 1564, the hard limit is 1024"
    assert fault.startswith(f"lk-users: too few file handles: {needed}; raise it (ulimit -Hn 1564)")


def test_file_handles_are_counted_for_each_process(start: Start) -> None:
    options = ("-u", "500", "-r", "500", "--agent-name", "welcome", "--processes", "2")
    (fault,) = faults(start(*options, max_handles=800).finish())
    assert "too few file handles: 250 sessions in one process need 814, the hard limit is 800" in fault


def test_a_masters_port_that_is_taken_is_locusts_own_business(burst: Burst) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        where = ("--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port)
        done = burst(4, "--processes", "2", *where)
    assert done.code == 1
    assert "Address already in use" in done.stderr
    assert done.run_dirs == []


def test_an_unknown_option_is_locusts_own_business(burst: Burst) -> None:
    done = burst(5, "--no-such-option", "1")
    assert done.code == 2
    assert "unrecognized arguments: --no-such-option" in done.stderr
    assert "Traceback" not in done.stderr
