"""TLS in memory, against the server side of the standard library."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from lk_users.wire.tls import TlsPipe

if TYPE_CHECKING:
    from collections.abc import Callable

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
NAME = "lk.example.com"


class Server:
    """The other end of one connection: what goes in and comes out is bytes."""

    def __init__(self, authority: trustme.CA, version: ssl.TLSVersion, name: str = NAME) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = context.maximum_version = version
        authority.issue_cert(name).configure_cert(context)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def handshake(self, received: bytes) -> bytes:
        return self._do(self.tls.do_handshake, received)

    def write(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self._outgoing.read()

    def read(self, received: bytes) -> bytes:
        self._incoming.write(received)
        return self.tls.read(1 << 16)

    def say_goodbye(self) -> bytes:
        return self._do(self.tls.unwrap)

    def _do(self, step: Callable[[], object], received: bytes = b"") -> bytes:
        self._incoming.write(received)
        try:
            step()
        except ssl.SSLWantReadError:
            pass
        return self._outgoing.read()


def client(authority: trustme.CA | None, name: str = NAME) -> TlsPipe:
    # Without the machine's own authorities, which take 20 ms to read.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority is not None:
        authority.configure_trust(context)
    return TlsPipe(context, name)


def shake(pipe: TlsPipe, server: Server) -> bytes:
    """To the end of the handshake; what the server sent beyond it (session tickets)."""
    to_server = pipe.handshake()
    while to_server:
        to_client = server.handshake(to_server)
        if pipe.ready:
            return to_client
        to_server = pipe.handshake(to_client)
    return b""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def server(request: pytest.FixtureRequest, authority: trustme.CA) -> Server:
    return Server(authority, request.param)


@pytest.fixture
def pipe(authority: trustme.CA, server: Server) -> TlsPipe:
    """Ready to write."""
    made = client(authority)
    made.decrypt(shake(made, server))
    assert made.ready
    return made


def test_it_is_not_ready_before_the_server_has_answered(authority: trustme.CA, server: Server) -> None:
    made = client(authority)
    hello = made.handshake()
    assert NAME.encode() in hello
    assert not made.ready
    answer = server.handshake(hello)
    assert answer
    assert made.handshake(answer[:50]) == b""
    assert not made.ready


def test_the_server_asks_for_nothing_more_once_it_is_ready(authority: trustme.CA, server: Server) -> None:
    made = client(authority)
    left = shake(made, server)
    assert made.ready
    assert made.decrypt(left) == (b"", b"")
    assert server.tls.cipher() is not None


def test_a_handshake_may_come_byte_by_byte(authority: trustme.CA, server: Server) -> None:
    made = client(authority)
    to_server = made.handshake()
    while not made.ready:
        answer = server.handshake(to_server)
        to_server = b"".join(made.handshake(answer[at : at + 1]) for at in range(len(answer)))
    server.handshake(to_server)
    assert server.read(made.encrypt(b"hello")) == b"hello"


def test_what_is_encrypted_early_is_readable_when_it_is_sent(pipe: TlsPipe, server: Server) -> None:
    secret = b"POST /twirp HTTP/1.1\r\nAuthorization: Bearer secret\r\n\r\n"
    loaded = pipe.encrypt(secret)
    assert b"secret" not in loaded
    assert pipe.decrypt() == (b"", b"")
    assert server.read(loaded) == secret


def test_what_came_in_between_does_not_spoil_what_is_loaded(pipe: TlsPipe, server: Server) -> None:
    loaded = pipe.encrypt(b"first")
    assert pipe.decrypt(server.write(b"unasked")) == (b"unasked", b"")
    assert server.read(loaded) == b"first"
    assert server.read(pipe.encrypt(b"second")) == b"second"


def test_what_is_encrypted_first_has_to_be_sent_first(pipe: TlsPipe, server: Server) -> None:
    pipe.encrypt(b"first")
    with pytest.raises(ssl.SSLError):
        server.read(pipe.encrypt(b"second"))


def test_more_than_one_record_is_written_and_read_whole(pipe: TlsPipe, server: Server) -> None:
    large = bytes(range(256)) * 400
    received = b""
    to_server = pipe.encrypt(large)
    while len(received) < len(large):
        received += server.read(to_server)
        to_server = b""
    assert received == large
    assert pipe.decrypt(server.write(large)) == (large, b"")


@pytest.mark.parametrize("size", [1, 5, 7, 1000])
def test_an_answer_may_come_in_pieces(pipe: TlsPipe, server: Server, size: int) -> None:
    sent = server.write(b"HTTP/1.1 200 OK\r\n") + server.write(b"\r\nbody")
    plain = [pipe.decrypt(sent[at : at + size])[0] for at in range(0, len(sent), size)]
    assert b"".join(plain) == b"HTTP/1.1 200 OK\r\n\r\nbody"


def test_half_a_record_says_nothing_yet(pipe: TlsPipe, server: Server) -> None:
    sent = server.write(b"body")
    assert pipe.decrypt(sent[:-1]) == (b"", b"")
    assert pipe.decrypt(sent[-1:]) == (b"body", b"")


def test_a_goodbye_ends_the_answer_without_an_error(pipe: TlsPipe, server: Server) -> None:
    assert pipe.decrypt(server.write(b"the last") + server.say_goodbye()) == (b"the last", b"")
    assert pipe.decrypt() == (b"", b"")


def test_bytes_that_were_tampered_with_are_an_error(pipe: TlsPipe, server: Server) -> None:
    sent = bytearray(server.write(b"body"))
    sent[-1] ^= 1
    with pytest.raises(ssl.SSLError):
        pipe.decrypt(bytes(sent))


def test_an_authority_that_nobody_knows_is_not_trusted(server: Server) -> None:
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        shake(client(None), server)
    assert "unable to get local issuer certificate" in caught.value.verify_message


def test_a_certificate_for_another_name_is_not_trusted(authority: trustme.CA, server: Server) -> None:
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        shake(client(authority, "other.example.com"), server)
    assert "Hostname mismatch" in caught.value.verify_message


def test_an_address_can_be_the_name(authority: trustme.CA) -> None:
    made, server = client(authority, "127.0.0.1"), Server(authority, ssl.TLSVersion.TLSv1_3, "127.0.0.1")
    shake(made, server)
    assert made.ready


def test_a_server_without_tls_is_an_error(authority: trustme.CA) -> None:
    made = client(authority)
    made.handshake()
    with pytest.raises(ssl.SSLError):
        made.handshake(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert not made.ready
