"""Connections that are open, and requests that are bytes, before T0: at T0 only ``write`` happens.

What comes back is parsed by sans-IO parsers (httptools, websockets). A connection that the server closed
while it waited is made again; one that turns out dead on the write is made again once and marked. Nothing
else is ever retried: a retry that nobody sees would be time and dispatches that nobody can account for.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import socket
import ssl
from typing import TYPE_CHECKING, Protocol, cast

from httptools import HttpParserError
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Protocol as Frames
from websockets.protocol import Side, State

from lk_users.clock import SystemClock
from lk_users.errors import ConnectionCut, HttpError, UpgradeRefused, WireError
from lk_users.wire.endpoint import connection_cause
from lk_users.wire.exchange import Answer, request_bytes
from lk_users.wire.tls import TlsPipe

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from lk_users.clock import Clock
    from lk_users.wire.endpoint import Endpoint

TLS_TIMEOUT_S = 10.0
KNOCK_S = 10.0
# How long a connection that was hung up waits for the server to close it.
LINGER_S = 2.0
# RFC 6455, 1.3: what proves that a server speaks WebSocket is made of the key and this.
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Armed(asyncio.Protocol):
    """One open connection with bytes to write. Subclasses parse the answer."""

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._fd = -1
        self._plain = b""
        self._loaded = b""
        self._tls: TlsPipe | None = None
        self._shaken: asyncio.Future[None] | None = None
        self._rearming: asyncio.Task[None] | None = None
        self._heard = False
        self.fired_ns: int | None = None
        self.rearmed = False
        self.closed = False

    async def arm(self) -> None:
        """Open the connection, with its TLS, and make the loaded bytes ready for it. Raises ConnectionCut."""
        await self._endpoint.connect(self)
        if self._endpoint.tls is not None:
            await self._shake(self._endpoint.tls)
        self._make_ready()

    def load(self, data: bytes) -> None:
        """What ``fire`` will write; once, before ``arm`` or after it."""
        self._plain = data
        # Who is being armed makes them ready by itself.
        ready = self._endpoint.tls is None or (self._tls is not None and self._tls.ready)
        if self._transport is not None and self._rearming is None and ready:
            self._make_ready()

    def _make_ready(self) -> None:
        """Encrypted is what is written next, and nothing else after it but before it."""
        if self._plain:
            self._loaded = self._tls.encrypt(self._plain) if self._tls is not None else self._plain

    def fire(self) -> int:
        """Write what was loaded; the moment of it on the monotonic clock, in ns. The hot path."""
        if self._transport is None:
            if self._rearming is None:
                self._rearm()
        elif self._rearming is None:
            # Else it is written once the connection is there again, with its TLS.
            self._write_now(self._transport)
        self.fired_ns = self._clock.monotonic_ns()
        return self.fired_ns

    def _write_now(self, transport: asyncio.Transport) -> None:
        """Past the transport: uvloop keeps what it is given to the end of the loop's turn, so all of a burst
        would leave after the last session's moment was taken."""
        try:
            sent = os.write(self._fd, self._loaded)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The connection turns out dead; its loss is told in a moment, and then it is made again.
            transport.abort()
            return
        if sent < len(self._loaded):
            transport.write(self._loaded[sent:])

    def close(self) -> None:
        """Drop the connection without another word. Idempotent."""
        self.closed = True
        if self._rearming is not None:
            self._rearming.cancel()
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._fd = sock.fileno()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._shaken is not None and not self._shaken.done():
            self._shaken.set_exception(ConnectionCut(f"TLS failed ({connection_cause(exc)})"))
            return
        if self.closed:
            return
        if self.fired_ns is None or not (self._heard or self.rearmed):
            self._rearm()
        else:
            self.cut(ConnectionCut(connection_cause(exc)))

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        if self._shaken is not None and not self._shaken.done():
            self._shake_on(data)
            return
        self._heard = True
        try:
            if self._tls is not None:
                data, answer = self._tls.decrypt(data)
                self._write_raw(answer)
            if data:
                self.received(data)
        except (ssl.SSLError, HttpParserError, _WrongProof) as exc:
            self._not_understood(exc)

    def _not_understood(self, exc: Exception) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
        self.cut(ConnectionCut(f"not understood: {exc}"))

    def received(self, data: bytes) -> None:
        raise NotImplementedError

    def cut(self, error: WireError) -> None:
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Write soon, if there still is a connection."""
        self._write_raw(self._tls.encrypt(data) if self._tls is not None else data)

    def _write_raw(self, data: bytes) -> None:
        if data and self._transport is not None:
            self._transport.write(data)

    async def _shake(self, context: ssl.SSLContext) -> None:
        """The TLS handshake. Raises ConnectionCut."""
        self._tls = TlsPipe(context, self._endpoint.server_name)
        self._shaken = asyncio.get_running_loop().create_future()
        try:
            self._write_raw(self._tls.handshake())
            async with asyncio.timeout(TLS_TIMEOUT_S):
                await self._shaken
        except TimeoutError as exc:
            self.close()
            raise ConnectionCut("TLS timed out") from exc

    def _shake_on(self, data: bytes) -> None:
        assert self._tls is not None
        assert self._shaken is not None
        try:
            self._write_raw(self._tls.handshake(data))
        except ssl.SSLError as exc:
            self.closed = True
            self._shaken.set_exception(ConnectionCut(connection_cause(exc)))
            return
        if self._tls.ready:
            self._shaken.set_result(None)

    def _rearm(self) -> None:
        self.rearmed = True
        self._rearming = asyncio.get_running_loop().create_task(self._arm_again())

    async def _arm_again(self) -> None:
        try:
            await self.arm()
        except WireError as exc:
            # Before T0 the next try is due at the write itself.
            if self.fired_ns is not None:
                self.closed = True
                self.cut(exc)
        else:
            if self.fired_ns is not None:
                self._write_raw(self._loaded)
        finally:
            self._rearming = None


class _WrongProof(Exception):
    """Who answered did not read our request."""


class _Knock(Armed):
    """A connection that is opened and asked for nothing."""

    def received(self, data: bytes) -> None: ...

    def cut(self, error: WireError) -> None: ...


async def knock(endpoint: Endpoint) -> None:
    """Connect, with TLS where the endpoint has it, and hang up. Raises ConnectionCut."""
    door = _Knock(endpoint, SystemClock())
    try:
        async with asyncio.timeout(KNOCK_S):
            await door.arm()
    except TimeoutError as exc:
        raise ConnectionCut("connection timed out") from exc
    finally:
        door.close()


class ArmedRequest(Armed):
    """One HTTP request. ``answered`` is called with the body, or with what went wrong.

    ``success``: the statuses that are none of that. ``hidden``: what an answer may repeat and no error may.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        clock: Clock,
        answered: Callable[[bytes | WireError], None],
        success: Container[int] = (200,),
        hidden: Sequence[str] = (),
    ) -> None:
        super().__init__(endpoint, clock)
        self._success = success
        self._hidden = hidden
        self._answered: Callable[[bytes | WireError], None] | None = answered
        self._answer = Answer()

    def load_post(self, path: str, token: str, body: bytes) -> None:
        """A protobuf POST as Twirp wants it."""
        headers = (("Authorization", f"Bearer {token}"), ("Content-Type", "application/protobuf"))
        self.load_body(path, headers, body)

    def load_body(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """A POST with ``headers`` beside Host and Content-Length."""
        beside = [("Host", self._endpoint.host_header), *headers, ("Content-Length", str(len(body)))]
        self.load(request_bytes("POST", path, beside, body))

    def received(self, data: bytes) -> None:
        self._answer.receive(data)
        if self._answer.is_too_large:
            self._finish(ConnectionCut("answer too large"))
        elif self._answer.is_whole:
            self._finish(self._result())

    def cut(self, error: WireError) -> None:
        # A status is an answer, even where the connection's end is the end of its body.
        is_answer = self._answer.status and self._answer.status not in self._success
        self._finish(self._result() if is_answer else ConnectionCut(self._without_hidden(error.cause)))

    def _result(self) -> bytes | WireError:
        answer = self._answer
        if answer.status in self._success:
            return bytes(answer.body)
        return HttpError(answer.status, self._without_hidden(answer.detail), answer.retry_after)

    def _without_hidden(self, text: str) -> str:
        for value in self._hidden:
            text = text.replace(value, "…")
        return text

    def _finish(self, result: bytes | WireError) -> None:
        answered, self._answered = self._answered, None
        self.close()
        if answered is not None:
            answered(result)


class SocketListener(Protocol):
    """What an armed WebSocket tells."""

    def opened(self) -> None: ...

    def message(self, data: bytes) -> None: ...

    def lost(self, error: WireError) -> None: ...


class ArmedSocket(Armed):
    """One WebSocket whose upgrade request is written at ``fire``."""

    def __init__(self, endpoint: Endpoint, clock: Clock, listener: SocketListener) -> None:
        super().__init__(endpoint, clock)
        self._listener = listener
        self._key = base64.b64encode(os.urandom(16))
        self._answer = Answer()
        self._frames = Frames(Side.CLIENT)
        """Its state is ahead of what has been told: a close frame may follow in the same read."""
        self._open = False
        self._partial: bytearray | None = None

    def load_upgrade(self, target: str, headers: Sequence[tuple[str, str]]) -> None:
        """The upgrade request; ``target`` is path and query."""
        beside = [
            ("Host", self._endpoint.host_header), ("Upgrade", "websocket"), ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", self._key.decode()), *headers,
        ]  # fmt: skip
        self.load(request_bytes("GET", target, beside))

    def send(self, data: bytes) -> None:
        """One binary message; nothing if the socket is not open (any more)."""
        if self._open and self._frames.state is State.OPEN:
            self._frames.send_binary(data)
            self._flush()

    def hang_up(self) -> None:
        """Close with a close frame, and let the server close the connection.

        Closed at once, a write of the server that is under way fails, and livekit-server then drops the
        connection, and with it a leave that it has not read yet.
        """
        if not self._open or self._transport is None or self._frames.state is not State.OPEN:
            self.close()
            return
        self._open = False
        self._frames.send_close(CloseCode.NORMAL_CLOSURE)
        self._flush()
        transport = self._transport
        asyncio.get_running_loop().call_later(LINGER_S, transport.close)
        self._transport = None
        self.close()

    def received(self, data: bytes) -> None:
        if not self._open:
            data = self._upgraded(data)
        if not data or self.closed:
            return
        self._frames.receive_data(data)
        # Its answer to a ping.
        self._flush()
        for event in self._frames.events_received():
            if isinstance(event, Frame) and not self.closed:
                self._frame(event)
        if self._frames.parser_exc is not None and not self.closed:
            self._not_understood(self._frames.parser_exc)

    def cut(self, error: WireError) -> None:
        self._end(self._refusal() if self._answer.status else error)

    def _upgraded(self, data: bytes) -> bytes:
        """What follows the head of the answer that accepts the upgrade."""
        answer = self._answer
        answer.receive(data)
        if answer.is_switched:
            proof = hashlib.sha1(self._key + WEBSOCKET_GUID, usedforsecurity=False).digest()
            if answer.headers.get(b"sec-websocket-accept") != base64.b64encode(proof):
                raise _WrongProof("the proof of the upgrade is wrong")
            self._open = True
            self._listener.opened()
            return answer.rest
        if answer.is_whole or answer.is_too_large:
            self._end(self._refusal())
        return b""

    def _frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            closed = self._frames.close_rcvd
            assert closed is not None
            self._end(ConnectionCut(f"closed by the server (code {closed.code:d})"))
        elif frame.opcode is Opcode.BINARY:
            if frame.fin:
                self._listener.message(bytes(frame.data))
            else:
                self._partial = bytearray(frame.data)
        # The rest of a text, which nobody sends, is nobody's.
        elif frame.opcode is Opcode.CONT and self._partial is not None:
            self._partial += frame.data
            if frame.fin:
                data, self._partial = bytes(self._partial), None
                self._listener.message(data)

    def _flush(self) -> None:
        for data in self._frames.data_to_send():
            self.write(data)

    def _refusal(self) -> WireError:
        return UpgradeRefused(self._answer.status, self._answer.detail.strip(), self._answer.retry_after)

    def _end(self, error: WireError) -> None:
        self._open = False
        self.close()
        self._listener.lost(error)
