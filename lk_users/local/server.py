"""The LiveKit server of the embedded stack: find or build ``livekit-server``, start one, stop it.

A server listens on loopback only, with keys of its own, and shares nothing with another one beside it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import random
import re
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from lk_users.errors import StackError
from lk_users.local import golang, process

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lk_users.local.cache import Say
    from lk_users.local.process import Child, Pause

VERSION: Final = "1.13.5"
HOST: Final = "127.0.0.1"
PROGRAM: Final = golang.Program(
    name="livekit-server",
    title="LiveKit server",
    version=VERSION,
    package="github.com/livekit/livekit-server/cmd/server",
    takes="about 2 to 4 minutes",
    named_by="--server-binary/LK_SERVER_BINARY",
)

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
    return golang.find_or_build(PROGRAM, option or os.environ.get("LK_SERVER_BINARY"), say, pause=pause)


def version_of(binary: Path) -> str:
    """What the server says of its version; ``of unknown version`` when it says nothing usable."""
    found = re.search(r"version v?(\d[\w.+-]*)", golang.output_of([str(binary), "--version"], os.environ))
    return found[1] if found else "of unknown version"


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

    def env(self) -> dict[str, str]:
        """The variables by which a program finds it."""
        return {
            "LIVEKIT_URL": self.url,
            "LIVEKIT_API_KEY": self.api_key,
            "LIVEKIT_API_SECRET": self.api_secret,
        }

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

    def knows(self, path: str) -> bool:
        """Is there something at this path?"""
        return _call(self.port, "GET", path)[0] not in (0, 404)

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
