"""Media by TURN: where it is asked for, and where no other way leads to the server."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from lk_users.local.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Finished

pytestmark = pytest.mark.real

TURN_NAME = "turn.lk-users.test"


def ways(done: Finished) -> set[tuple[str, str]]:
    """(local, remote) candidate types of all sessions."""
    return {(ice["local"], ice["remote"]) for ice in (r["evidence"]["ice"] for r in done.records)}


@pytest.fixture(scope="module")
def turn_stack() -> Iterator[Stack]:
    """A stack whose server relays on loopback, too."""
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    turn = {
        "enabled": True,
        "udp_port": port,
        "relay_range_start": 40_000,
        "relay_range_end": 41_000,
        "bind_addresses": ["127.0.0.1"],
        "allow_restricted_peer_cidrs": ["127.0.0.0/8"],
    }
    with Stack(say=lambda line: None, server_extra={"turn": turn}) as up:
        yield up


@pytest.mark.parametrize("mic", ["silence", "none"])
def test_relay_where_it_is_asked_for(burst: Callable[..., Finished], turn_stack: Stack, mic: str) -> None:
    done = burst(20, "--ice", "relay", "--mic", mic, env=turn_stack.env())
    assert (done.code, done.outcomes) == (0, {"ok": 20}), done.stdout + done.stderr
    assert ways(done) == {("relay", "host")}
    assert "media goes by turn-udp (host: not allowed)" in done.stderr
    for record in done.records:
        # The relay asks twice (for a nonce, then with credentials): never for free.
        assert record["evidence"]["ice"]["gather_ms"] > 0
        assert record["evidence"]["ice"]["rtt_ms"] > 0
        assert record["evidence"]["mic"] == mic


def test_relay_from_a_server_that_names_none(burst: Callable[..., Finished]) -> None:
    done = burst(3, "--ice", "relay")
    # Without a relay host candidates are better than nothing, and the run says so.
    assert (done.code, done.outcomes) == (0, {"ok": 3}), done.stdout + done.stderr
    assert ways(done) == {("host", "host")}
    assert "no way for media from here to the server: host: not allowed" in done.stderr


@dataclass
class Street:
    """A network namespace and the two addresses of this machine that concern it: it reaches ``near``, and
    ``far`` is beyond any route."""

    name: str
    near: str = "10.99.1.1"
    far: str = "10.99.2.1"
    inside: str = "10.99.1.2"

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)


@pytest.fixture(scope="module")
def street() -> Iterator[Street]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        lacking = "needs root and `ip` (Debian: iproute2), to make a network namespace"
        if os.environ.get("CI"):
            pytest.fail(lacking)
        pytest.skip(lacking)
    street = Street(f"lk{secrets.token_hex(3)}")
    outer, inner = f"{street.name}a", f"{street.name}b"
    hosts = Path("/etc/netns") / street.name
    try:
        for command in (
            f"netns add {street.name}",
            f"link add {outer} type veth peer name {inner}",
            f"link set {inner} netns {street.name}",
            f"addr add {street.near}/30 dev {outer}",
            f"addr add {street.far}/32 dev {outer}",
            f"link set {outer} up",
            f"-n {street.name} addr add {street.inside}/30 dev {inner}",
            f"-n {street.name} link set {inner} up",
            f"-n {street.name} link set lo up",
        ):
            subprocess.run(["ip", *command.split()], check=True, capture_output=True)
        hosts.mkdir(parents=True)
        (hosts / "hosts").write_text(f"127.0.0.1 localhost\n{street.near} {TURN_NAME}\n")
        yield street
    finally:
        for command in (f"link del {outer}", f"netns del {street.name}"):
            subprocess.run(["ip", *command.split()], check=False, capture_output=True)
        shutil.rmtree(hosts, ignore_errors=True)
        with contextlib.suppress(OSError):
            hosts.parent.rmdir()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def far_stack(
    street: Street, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Signalling and TURN over TLS are near; media is far."""
    folder = tmp_path_factory.mktemp("turn")
    issued = authority.issue_cert(TURN_NAME)
    issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    device = f"{street.name}a"
    extra: dict[str, Any] = {
        "bind_addresses": [street.near, "127.0.0.1"],
        "rtc": {
            "interfaces": {"includes": [device]},
            "ips": {"includes": [f"{street.far}/32"]},
            "node_ip": street.far,
        },
        "turn": {
            "enabled": True,
            "domain": TURN_NAME,
            "tls_port": 443,
            "cert_file": str(folder / "cert.pem"),
            "key_file": str(folder / "key.pem"),
            "relay_range_start": 40_000,
            "relay_range_end": 41_000,
            "bind_addresses": [street.near],
            "allow_restricted_peer_cidrs": ["10.99.0.0/16"],
        },
    }
    with Stack(say=lambda line: None, server_extra=extra) as up:
        yield up


@pytest.fixture
def environment(street: Street, far_stack: Stack, authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """By which the far stack is found from inside."""
    pem = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(pem))
    url = f"ws://{street.near}:{far_stack.server.port}"
    return {**far_stack.env(), "LIVEKIT_URL": url, "SSL_CERT_FILE": str(pem)}


def test_relay_where_no_other_way_leads(
    burst: Callable[..., Finished], street: Street, environment: dict[str, str]
) -> None:
    done = burst(10, env=environment, prefix=street.prefix)
    assert (done.code, done.outcomes) == (0, {"ok": 10}), done.stdout + done.stderr
    assert {local for local, _ in ways(done)} == {"relay"}
    assert "media goes by turn-tls (host: not up within 5 s)" in done.stderr


def test_no_way_for_media_is_not_blamed_on_the_server(
    burst: Callable[..., Finished], street: Street, environment: dict[str, str]
) -> None:
    """The server drops who has no media after 15 s, and says ``connection_timeout``."""
    done = burst(3, "--ice", "host", env=environment, prefix=street.prefix)
    assert (done.code, done.outcomes) == (10, {"media_failed": 3}), done.stdout + done.stderr
    assert done.causes("media_failed") == {
        "the peer connection never came up; the server then sent the user away: connection_timeout"
    }
