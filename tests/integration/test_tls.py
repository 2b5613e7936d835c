"""``wss``, with a certificate authority of the test's own and a proxy that ends the TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from typing import TYPE_CHECKING, Self

import pytest
import trustme

from lk_users.settings.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Finished

    from lk_users.local.stack import Stack

pytestmark = pytest.mark.real


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


class TlsProxy:
    """Ends TLS on a port of its own and passes on to ``port``, in a thread."""

    def __init__(self, authority: trustme.CA, port: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(self._context)
        self._to = port
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        serving = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        server = self._loop.run_until_complete(serving)
        self.port = server.sockets[0].getsockname()[1]
        self._loop.call_soon(self._ready.set)
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0.1))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection("127.0.0.1", self._to)
        await asyncio.gather(pump(reader, to_there), pump(there, writer))


def assert_refused(done: Finished, line: str) -> None:
    """Before the start, with one line and nothing else on stderr that is not Locust's log."""
    assert done.code == 12
    (fault,) = [text for text in done.stderr.splitlines() if "lk-users" in text or "rror" in text]
    assert fault.startswith(line)
    assert done.run_dirs == []


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def proxy(stack: Stack, authority: trustme.CA) -> Iterator[TlsProxy]:
    with TlsProxy(authority, Target.from_environment(stack.env()).port) as running:
        yield running


@pytest.mark.parametrize("way", ["api", "token"])
def test_a_burst_over_wss(
    burst: Callable[..., Finished],
    stack: Stack,
    proxy: TlsProxy,
    authority: trustme.CA,
    tmp_path: Path,
    way: str,
) -> None:
    """By ``api`` the first write is an HTTP request, by ``token`` a WebSocket's."""
    pem = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(pem))
    url = f"wss://localhost:{proxy.port}/"
    done = burst(5, "--dispatch", way, env={**stack.env(), "LIVEKIT_URL": url, "SSL_CERT_FILE": str(pem)})
    assert (done.code, done.outcomes) == (0, {"ok": 5}), done.stdout + done.stderr
    assert done.summary["start_error_ms"]["n"] == 5
    assert done.summary["start_error_ms"]["p99"] < 50
    assert not any("rearmed" in record["findings"] for record in done.records)


def test_a_certificate_that_is_not_trusted(
    burst: Callable[..., Finished], stack: Stack, proxy: TlsProxy
) -> None:
    done = burst(5, env={**stack.env(), "LIVEKIT_URL": f"wss://localhost:{proxy.port}"})
    assert_refused(done, f"lk-users: LIVEKIT_URL wss://localhost:{proxy.port}: certificate not trusted (")


def test_a_certificate_for_another_name(
    burst: Callable[..., Finished], stack: Stack, proxy: TlsProxy, authority: trustme.CA, tmp_path: Path
) -> None:
    pem = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(pem))
    url = f"wss://127.0.0.1:{proxy.port}"
    done = burst(5, env={**stack.env(), "LIVEKIT_URL": url, "SSL_CERT_FILE": str(pem)})
    assert_refused(done, f"lk-users: LIVEKIT_URL {url}: certificate not trusted (IP address mismatch")


def test_wss_to_a_server_without_tls(burst: Callable[..., Finished], stack: Stack) -> None:
    url = stack.env()["LIVEKIT_URL"].replace("ws://", "wss://")
    assert_refused(
        burst(5, env={**stack.env(), "LIVEKIT_URL": url}), f"lk-users: LIVEKIT_URL {url}: TLS failed ("
    )
