"""An HTTP exchange as bytes: a request, and its answer as it comes (httptools). No socket."""

from __future__ import annotations

import http
from typing import TYPE_CHECKING, Final

from httptools import HttpParserUpgrade, HttpResponseParser

if TYPE_CHECKING:
    from collections.abc import Sequence

# An answer's body beyond this is not one of ours; its connection is cut rather than its bytes kept.
MAX_BODY_BYTES: Final = 1 << 20
# Enough of an error to hold a whole token, so that what stands behind it is kept.
MAX_DETAIL_BYTES: Final = 1 << 13


def request_bytes(method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes = b"") -> bytes:
    """A request, whole. Who gives us headers has looked at what is in them."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


class Answer:
    """The answer to one HTTP request, as far as it has come."""

    def __init__(self) -> None:
        self.status = 0
        """Its final one; 0 until its head is there."""
        self.headers: dict[bytes, bytes] = {}
        """By name in lower case."""
        self.body = bytearray()
        self.rest = b""
        """What came behind its head, once ``is_switched``."""
        self.is_whole = False
        self.is_switched = False
        """Does the server speak another protocol from now on?"""
        self._parser = HttpResponseParser(self)

    def receive(self, data: bytes) -> None:
        """Raises HttpParserError where that is no HTTP."""
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as exc:
            self.is_switched = self._parser.get_status_code() == http.HTTPStatus.SWITCHING_PROTOCOLS
            self.rest = data[exc.args[0] :]

    # What the parser calls.

    def on_message_begin(self) -> None:
        # Of what was said before, as an early hint is.
        self.headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= http.HTTPStatus.OK:
            self.status = status

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.is_whole = self.status > 0

    # What is made of it.

    @property
    def is_too_large(self) -> bool:
        return len(self.body) > MAX_BODY_BYTES

    @property
    def detail(self) -> str:
        """The beginning of its body, where that says what is wrong."""
        return self.body[:MAX_DETAIL_BYTES].decode("utf-8", "replace")

    @property
    def retry_after(self) -> str:
        """The Retry-After header; empty if there is none."""
        return self.headers.get(b"retry-after", b"").decode("latin-1")
