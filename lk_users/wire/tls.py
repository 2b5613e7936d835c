"""TLS without input or output, so that a request can be encrypted before T0 and is only written at it."""

from __future__ import annotations

import ssl


class TlsPipe:
    """One client connection: bytes in, bytes out. Raises ssl.SSLError where the peer breaks the protocol."""

    def __init__(self, context: ssl.SSLContext, server_name: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self.ready = False

    def handshake(self, received: bytes = b"") -> bytes:
        """Feed what came, get what has to go; ``ready`` once done."""
        self._incoming.write(received)
        try:
            self._tls.do_handshake()
            self.ready = True
        except ssl.SSLWantReadError:
            pass
        return self._outgoing.read()

    def encrypt(self, data: bytes) -> bytes:
        """Once ``ready``. What is encrypted first has to be written first."""
        self._tls.write(data)
        return self._outgoing.read()

    def decrypt(self, received: bytes = b"") -> tuple[bytes, bytes]:
        """(plain text, bytes to write) of what came: tickets and key updates may want an answer."""
        self._incoming.write(received)
        plain = bytearray()
        try:
            while chunk := self._tls.read(1 << 16):
                plain += chunk
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return bytes(plain), self._outgoing.read()
