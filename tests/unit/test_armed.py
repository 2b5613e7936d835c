from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest
from virtual import in_virtual_time
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from lk_users.clock import NS_PER_S
from lk_users.errors import ConnectionCut, EngineCrashed, HttpError, UpgradeRefused, WireError
from lk_users.wire.armed import LINGER_S, Armed, ArmedRequest, ArmedSocket
from lk_users.wire.endpoint import Endpoint
from lk_users.wire.exchange import MAX_BODY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from virtual import VirtualClock

PATH = "/twirp/livekit.AgentDispatchService/CreateDispatch"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/protobuf\r\nContent-Length: 5\r\n\r\nhello"


class Wire(asyncio.Transport):
    """A connection in memory: what was written to it, and how it ended.

    It is its own socket too: what ``fire`` writes past the transport goes through a pipe.
    """

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._queued: list[bytes] = []
        self._past: list[bytes] = []
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self.ended = ""

    def __del__(self) -> None:
        os.close(self._read_end)
        os.close(self._write_end)

    @property
    def written(self) -> list[bytes]:
        with contextlib.suppress(BlockingIOError):
            self._past.append(os.read(self._read_end, 1 << 20))
        return self._past + self._queued

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self if name == "socket" else default

    def fileno(self) -> int:
        return self._write_end

    def setsockopt(self, *option: object) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended, "written to a connection that was closed"
        self._queued.append(bytes(data))

    def close(self) -> None:
        self._end("close")

    def abort(self) -> None:
        self._end("abort")

    def _end(self, how: str) -> None:
        if not self.ended:
            self.ended = how
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)


class Network:
    """Stands for the endpoint: gives connections in memory, or refuses them."""

    host_header = "lk.example.com"
    tls = None

    def __init__(self) -> None:
        self.wires: list[Wire] = []
        self.refusing = False
        self.takes_s = 0.01

    async def connect(self, protocol: asyncio.Protocol) -> None:
        await asyncio.sleep(self.takes_s)
        if self.refusing:
            raise ConnectionCut("connection refused")
        wire = Wire(protocol)
        self.wires.append(wire)
        protocol.connection_made(wire)


class Bench:
    """A request or a socket on a network of its own, and what it told."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.network = Network()
        self.told: list[Any] = []
        self.on_message: Callable[[], None] = lambda: None
        self.armed: Armed = ArmedRequest(self.network, clock, self.told.append)  # type: ignore[arg-type]

    async def arm(self) -> Bench:
        """A request, up to the moment before T0."""
        assert isinstance(self.armed, ArmedRequest)
        self.armed.load_post(PATH, "token", b"body")
        await self.armed.arm()
        return self

    async def arm_socket(self) -> Bench:
        self.armed = ArmedSocket(self.network, self.clock, self)  # type: ignore[arg-type]
        self.socket.load_upgrade("/rtc/v1?join_request=x", [("Authorization", "Bearer token")])
        await self.armed.arm()
        return self

    async def fire(self) -> Bench:
        self.armed.fire()
        await asyncio.sleep(0)
        return self

    @property
    def socket(self) -> ArmedSocket:
        assert isinstance(self.armed, ArmedSocket)
        return self.armed

    @property
    def wire(self) -> Wire:
        return self.network.wires[-1]

    def answer(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.armed.data_received(piece)

    async def lose(self, exc: Exception | None = None) -> None:
        """The server ends the connection."""
        self.wire.ended = "by the server"
        self.armed.connection_lost(exc)
        await asyncio.sleep(1)

    # What an armed socket tells.

    def opened(self) -> None:
        self.told.append("opened")

    def message(self, data: bytes) -> None:
        self.told.append(data)
        self.on_message()

    def lost(self, error: WireError) -> None:
        self.told.append(error)


def bench(work: Callable[[Bench], Coroutine[Any, Any, object]]) -> Bench:
    """``work`` on a bench in virtual time; the bench, a second after it ended."""

    async def run(clock: VirtualClock) -> Bench:
        made = Bench(clock)
        await work(made)
        await asyncio.sleep(1)
        return made

    return in_virtual_time(run)


def answered(*pieces: bytes) -> Bench:
    """A request that was answered so."""

    async def work(one: Bench) -> None:
        await (await one.arm()).fire()
        one.answer(*pieces)

    return bench(work)


def cause(result: object) -> str:
    assert isinstance(result, WireError)
    return result.cause


# Writing.


def test_nothing_is_written_before_fire_and_all_of_it_in_one_write() -> None:
    async def work(one: Bench) -> None:
        await one.arm()
        await asyncio.sleep(5)
        assert one.wire.written == []
        before_ns = one.clock.monotonic_ns()
        assert one.armed.fire() == one.armed.fired_ns == before_ns

    (data,) = bench(work).wire.written
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == f"POST {PATH} HTTP/1.1"
    assert sorted(lines[1:]) == [
        "Authorization: Bearer token", "Content-Length: 4", "Content-Type: application/protobuf",
        "Host: lk.example.com",
    ]  # fmt: skip
    assert body == b"body"


def test_a_connection_that_cannot_be_had_is_said_when_it_is_armed() -> None:
    async def work(one: Bench) -> None:
        one.network.refusing = True
        with pytest.raises(ConnectionCut, match="connection refused"):
            await one.arm()

    assert bench(work).told == []


# HTTP answers.


def test_a_whole_answer() -> None:
    one = answered(OK)
    assert one.told == [b"hello"]
    assert one.wire.ended == "close"
    assert not one.armed.rearmed


def test_an_answer_in_single_bytes() -> None:
    assert answered(*(bytes([byte]) for byte in OK)).told == [b"hello"]


def test_a_chunked_answer() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert answered(head + b"3\r\nhel\r\n", b"2\r\nlo\r\n", b"0\r\n\r\n").told == [b"hello"]


def test_an_empty_answer() -> None:
    assert answered(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").told == [b""]


def test_an_informational_answer_comes_before_the_real_one() -> None:
    assert answered(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK).told == [b"hello"]


def test_an_answer_that_offers_another_protocol_is_an_answer() -> None:
    head = b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 5\r\n\r\n"
    assert answered(head + b"hello").told == [b"hello"]


def test_an_error_with_its_body_and_retry_after() -> None:
    body = b'{"code":"resource_exhausted"}'
    head = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n" % len(body)
    (error,) = answered(head + body).told
    assert isinstance(error, HttpError)
    assert (error.status, error.retry_after) == (429, "7")
    assert error.cause == 'HTTP 429: {"code":"resource_exhausted"}'


def test_an_error_without_a_body() -> None:
    (error,) = answered(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").told
    assert (cause(error), error.status, error.retry_after) == ("HTTP 503", 503, "")


def test_a_long_error_is_cut() -> None:
    (error,) = answered(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 900\r\n\r\n" + b"x" * 900).told
    assert cause(error) == "HTTP 502: " + "x" * 200


def test_an_error_whose_body_ends_with_the_connection_keeps_its_status() -> None:
    async def work(one: Bench) -> None:
        await (await one.arm()).fire()
        one.answer(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\nno upstream")
        await one.lose()

    (error,) = bench(work).told
    assert cause(error) == "HTTP 502: no upstream"


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x00\x00", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"HTTP/1.1 OK\r\n\r\n"]
)
def test_garbage_is_cut(garbage: bytes) -> None:
    one = answered(garbage)
    assert len(one.told) == 1
    assert cause(one.told[0]).startswith("not understood: ")
    assert one.wire.ended == "abort"
    assert len(one.network.wires) == 1


def test_an_answer_without_end_is_cut() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES * 2)
    one = answered(head, b"x" * MAX_BODY_BYTES, b"x", b"x" * 1000)
    assert [cause(result) for result in one.told] == ["answer too large"]


def test_what_comes_after_the_answer_is_not_a_second_one() -> None:
    assert answered(OK, OK).told == [b"hello"]


def test_an_answer_that_breaks_off_is_cut_and_not_asked_again() -> None:
    async def work(one: Bench) -> None:
        await (await one.arm()).fire()
        one.answer(OK[:-2])
        await one.lose(ConnectionResetError())

    one = bench(work)
    assert [cause(result) for result in one.told] == ["connection reset"]
    assert len(one.network.wires) == 1
    assert not one.armed.rearmed


# Connections that are lost.


def test_a_connection_lost_while_it_waited_is_made_again() -> None:
    async def work(one: Bench) -> None:
        await one.arm()
        await one.lose()
        assert len(one.network.wires) == 2
        assert one.wire.written == []
        await one.fire()
        one.answer(OK)

    one = bench(work)
    assert one.armed.rearmed
    assert one.told == [b"hello"]
    assert [len(wire.written) for wire in one.network.wires] == [0, 1]


def test_a_connection_lost_again_and_again_while_it_waited() -> None:
    async def work(one: Bench) -> None:
        await one.arm()
        for _ in range(3):
            await one.lose()
        await one.fire()
        one.answer(OK)

    one = bench(work)
    assert one.told == [b"hello"]
    assert len(one.network.wires) == 4


def test_a_fire_while_the_connection_is_being_made_again_writes_as_soon_as_it_is() -> None:
    async def work(one: Bench) -> None:
        await one.arm()
        one.network.takes_s = 0.5
        one.armed.connection_lost(None)
        await asyncio.sleep(0.1)
        assert one.armed.fire() == one.clock.monotonic_ns()
        await asyncio.sleep(1)
        one.answer(OK)

    one = bench(work)
    assert one.told == [b"hello"]
    assert len(one.wire.written) == 1


def test_a_server_that_was_down_before_t0_is_tried_again_at_t0() -> None:
    async def work(one: Bench) -> None:
        await one.arm()
        one.network.refusing = True
        await one.lose()
        assert one.told == []
        one.network.refusing = False
        await one.fire()
        await asyncio.sleep(1)
        one.answer(OK)

    one = bench(work)
    assert one.told == [b"hello"]
    assert [len(wire.written) for wire in one.network.wires] == [0, 1]


def test_a_server_that_is_down_at_t0_is_cut() -> None:
    async def work(one: Bench) -> None:
        await one.arm()
        one.network.refusing = True
        await one.lose()
        await one.fire()

    assert [cause(result) for result in bench(work).told] == ["connection refused"]


def test_a_connection_that_was_dead_at_t0_is_made_again_once() -> None:
    async def work(one: Bench) -> None:
        await (await one.arm()).fire()
        fired_ns = one.armed.fired_ns
        await one.lose(BrokenPipeError())
        assert one.armed.fired_ns == fired_ns
        one.answer(OK)

    one = bench(work)
    assert one.armed.rearmed
    assert one.told == [b"hello"]
    assert [len(wire.written) for wire in one.network.wires] == [1, 1]
    assert one.network.wires[0].written == one.network.wires[1].written


def test_a_second_loss_without_a_byte_is_cut() -> None:
    async def work(one: Bench) -> None:
        await (await one.arm()).fire()
        await one.lose()
        await one.lose(ConnectionResetError())

    one = bench(work)
    assert [cause(result) for result in one.told] == ["connection reset"]
    assert len(one.network.wires) == 2


def test_a_closed_request_says_nothing_more() -> None:
    async def work(one: Bench) -> None:
        await (await one.arm()).fire()
        one.armed.close()
        one.armed.close()

    one = bench(work)
    assert one.told == []
    assert one.wire.ended == "close"
    assert len(one.network.wires) == 1


def test_closing_in_the_middle_of_making_it_again() -> None:
    async def work(one: Bench) -> None:
        await one.arm()
        one.armed.connection_lost(None)
        await asyncio.sleep(0.001)
        one.armed.close()

    one = bench(work)
    assert one.told == []
    assert len(one.network.wires) == 1


# WebSocket.


class Server:
    """The other end of a WebSocket, by the same library."""

    def __init__(self, one: Bench) -> None:
        self._one = one
        self.ws = ServerProtocol()
        self._read = 0

    def accept(self, *, then: bytes = b"") -> None:
        """``then``: a message in the same write."""
        self._receive()
        (request,) = self.ws.events_received()
        self.ws.send_response(self.ws.accept(request))  # type: ignore[arg-type]
        if then:
            self.ws.send_binary(then)
        self.flush()

    def frames(self) -> list[Frame]:
        """What the client has written since."""
        self._receive()
        return [event for event in self.ws.events_received() if isinstance(event, Frame)]

    def written(self) -> bytes:
        """What has been sent with ``ws`` and waits to be written."""
        return b"".join(self.ws.data_to_send())

    def flush(self) -> None:
        self._one.answer(self.written())

    def _receive(self) -> None:
        data = b"".join(self._one.wire.written)
        self.ws.receive_data(data[self._read :])
        self._read = len(data)


async def accepted(one: Bench) -> Server:
    await (await one.arm_socket()).fire()
    server = Server(one)
    server.accept()
    return server


def test_the_upgrade_is_one_write() -> None:
    async def work(one: Bench) -> None:
        await one.arm_socket()
        assert one.wire.written == []
        await one.fire()

    (data,) = bench(work).wire.written
    lines = data.decode().split("\r\n")
    assert lines[0] == "GET /rtc/v1?join_request=x HTTP/1.1"
    assert {"Host: lk.example.com", "Upgrade: websocket", "Authorization: Bearer token"} <= set(lines)


def test_an_accepted_socket_carries_messages_both_ways() -> None:
    async def work(one: Bench) -> None:
        server = await accepted(one)
        server.ws.send_binary(b"join")
        server.flush()
        one.socket.send(b"offer")
        (frame,) = server.frames()
        assert (frame.opcode, bytes(frame.data)) == (Opcode.BINARY, b"offer")

    one = bench(work)
    assert one.told == ["opened", b"join"]
    assert type(one.told[1]) is bytes
    assert one.wire.ended == ""


def test_a_message_right_behind_the_acceptance() -> None:
    async def work(one: Bench) -> None:
        await (await one.arm_socket()).fire()
        Server(one).accept(then=b"join")

    assert bench(work).told == ["opened", b"join"]


def test_nothing_is_sent_before_the_socket_is_open_or_after_it_was_closed() -> None:
    async def work(one: Bench) -> None:
        await (await one.arm_socket()).fire()
        one.socket.send(b"too early")
        one.socket.hang_up()
        one.socket.send(b"too late")

    assert len(bench(work).wire.written) == 1


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_message_that_comes_in_pieces(size: int) -> None:
    async def work(one: Bench) -> None:
        server = await accepted(one)
        server.ws.send_binary(b"x" * 300 + b"y")
        data = server.written()
        one.answer(*(data[at : at + size] for at in range(0, len(data), size)))

    assert bench(work).told == ["opened", b"x" * 300 + b"y"]


def test_a_fragmented_message_is_one_message() -> None:
    async def work(one: Bench) -> None:
        server = await accepted(one)
        server.ws.send_binary(b"one ", fin=False)
        server.ws.send_ping(b"in between")
        server.ws.send_continuation(b"and ", fin=False)
        server.ws.send_continuation(b"two", fin=True)
        server.ws.send_binary(b"next")
        server.flush()

    assert bench(work).told == ["opened", b"one and two", b"next"]


def test_text_is_no_message() -> None:
    async def work(one: Bench) -> None:
        server = await accepted(one)
        server.ws.send_text(b"one ", fin=False)
        server.ws.send_continuation(b"two", fin=True)
        server.ws.send_text(b"three")
        server.ws.send_binary(b"next")
        server.flush()

    assert bench(work).told == ["opened", b"next"]


def test_a_ping_is_answered() -> None:
    async def work(one: Bench) -> None:
        server = await accepted(one)
        server.ws.send_ping(b"are you there")
        server.flush()
        (pong,) = server.frames()
        assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"are you there")

    assert bench(work).told == ["opened"]


def test_a_close_frame_is_a_loss() -> None:
    async def work(one: Bench) -> None:
        server = await accepted(one)
        server.ws.send_binary(b"before")
        server.ws.send_close(1001)
        server.flush()
        one.answer(b"more")

    one = bench(work)
    assert one.told[:2] == ["opened", b"before"]
    assert [cause(error) for error in one.told[2:]] == ["closed by the server (code 1001)"]
    assert one.wire.ended == "close"


@pytest.mark.parametrize("act", ["send", "hang_up"])
def test_to_write_on_a_message_that_a_close_frame_follows_in_the_same_read(act: str) -> None:
    async def work(one: Bench) -> None:
        server = await accepted(one)
        one.on_message = (lambda: one.socket.send(b"an answer")) if act == "send" else one.socket.hang_up
        server.ws.send_binary(b"leave")
        server.ws.send_close(1000)
        server.flush()
        # The answer to its close frame, and nothing else.
        assert [frame.opcode for frame in server.frames()] == [Opcode.CLOSE]

    one = bench(work)
    told = ["closed by the server (code 1000)"] if act == "send" else []
    assert one.told[:2] == ["opened", b"leave"]
    assert [cause(error) for error in one.told[2:]] == told
    assert one.wire.ended == "close"


def test_hanging_up_says_so_and_is_no_loss() -> None:
    async def work(one: Bench) -> None:
        server = await accepted(one)
        one.socket.hang_up()
        (frame,) = server.frames()
        assert frame.opcode is Opcode.CLOSE
        assert server.ws.close_rcvd is not None
        assert server.ws.close_rcvd.code == 1000
        # The server reads what was said last, and closes; only if it does not, we do.
        assert one.wire.ended == ""
        await asyncio.sleep(LINGER_S + 0.1)

    one = bench(work)
    assert one.told == ["opened"]
    assert one.wire.ended == "close"


def test_a_lost_socket_is_said_once() -> None:
    async def work(one: Bench) -> None:
        await accepted(one)
        await one.lose(ConnectionResetError())

    one = bench(work)
    assert [cause(error) for error in one.told[1:]] == ["connection reset"]
    assert len(one.network.wires) == 1


def rejected(head: str, *pieces: bytes, lose: bool = False) -> UpgradeRefused:
    """The refusal of an upgrade: status and headers, and ``pieces`` of a body. ``lose``: the connection then
    ends."""

    async def work(one: Bench) -> None:
        await (await one.arm_socket()).fire()
        one.answer(f"HTTP/1.1 {head}\r\n\r\n".encode(), *pieces)
        if lose:
            await one.lose()

    one = bench(work)
    (error,) = one.told
    assert isinstance(error, UpgradeRefused)
    assert len(one.network.wires) == 1
    return error


def test_a_refused_upgrade_with_a_body() -> None:
    error = rejected("401 Unauthorized\r\nContent-Length: 14", b"invalid ", b"token\n")
    assert (error.status, error.cause) == (401, "HTTP 401: invalid token")


def test_a_refused_upgrade_without_a_body() -> None:
    error = rejected("429 Too Many Requests\r\nContent-Length: 0\r\nRetry-After: 3")
    assert (error.status, error.cause, error.retry_after) == (429, "HTTP 429", "3")


def test_a_refused_upgrade_whose_body_breaks_off_keeps_its_status() -> None:
    error = rejected("503 Service Unavailable\r\nContent-Length: 14", b"too m", lose=True)
    assert error.cause == "HTTP 503: too m"


def test_a_refusal_without_end_is_cut() -> None:
    head = f"502 Bad Gateway\r\nContent-Length: {MAX_BODY_BYTES * 2}"
    assert rejected(head, b"x" * MAX_BODY_BYTES, b"x", b"x").cause == "HTTP 502: " + "x" * 200


def test_garbage_instead_of_an_upgrade_is_cut() -> None:
    async def work(one: Bench) -> None:
        await (await one.arm_socket()).fire()
        one.answer(b"\x16\x03\x01\r\n\r\n")

    one = bench(work)
    assert [cause(error).split(":")[0] for error in one.told] == ["not understood"]
    assert one.wire.ended == "abort"


@pytest.mark.parametrize("proof", ["", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"])
def test_an_upgrade_without_its_proof_is_cut(proof: str) -> None:
    async def work(one: Bench) -> None:
        await (await one.arm_socket()).fire()
        head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        one.answer(f"{head}{proof}\r\n".encode())

    one = bench(work)
    assert [cause(error) for error in one.told] == ["not understood: the proof of the upgrade is wrong"]
    assert one.wire.ended == "abort"


def test_a_connection_lost_after_an_informational_answer_was_no_refusal() -> None:
    async def work(one: Bench) -> None:
        await (await one.arm_socket()).fire()
        one.answer(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await one.lose(ConnectionResetError())

    assert [cause(error) for error in bench(work).told] == ["connection reset"]


def test_garbage_on_an_open_socket_is_cut() -> None:
    async def work(one: Bench) -> None:
        server = await accepted(one)
        server.ws.send_binary(b"before")
        one.answer(server.written() + b"\xff\xff\xff\xff")

    one = bench(work)
    assert one.told[:2] == ["opened", b"before"]
    assert [cause(error).split(":")[0] for error in one.told[2:]] == ["not understood"]
    assert one.wire.ended == "abort"


def test_a_socket_that_was_dead_at_t0_is_made_again_once() -> None:
    async def work(one: Bench) -> None:
        await (await one.arm_socket()).fire()
        await one.lose(BrokenPipeError())
        Server(one).accept()

    one = bench(work)
    assert one.socket.rearmed
    assert one.told == ["opened"]
    assert one.network.wires[0].written == one.network.wires[1].written


def test_the_moment_of_fire_is_on_the_monotonic_clock() -> None:
    async def work(one: Bench) -> None:
        await one.arm_socket()
        await asyncio.sleep(1)
        one.armed.fire()

    one = bench(work)
    assert one.armed.fired_ns is not None
    assert one.armed.fired_ns % NS_PER_S == 10_000_000


@pytest.mark.parametrize(
    ("addresses", "loopback"),
    [
        (("127.0.0.1",), True),
        (("::1", "127.0.0.9"), True),
        (("10.0.0.1",), False),
        (("127.0.0.1", "10.0.0.1"), False),
    ],
)
def test_an_endpoint_on_this_machine(addresses: tuple[str, ...], loopback: bool) -> None:
    assert Endpoint(addresses, 7880, "example:7880").loopback is loopback


def test_a_name_that_is_not_resolved_here_is_not_the_servers_doing() -> None:
    async def work(clock: VirtualClock) -> str:
        request = ArmedRequest(Endpoint((), 7880, "lk.example.com:7880"), clock, lambda result: None)
        with pytest.raises(EngineCrashed) as crashed:
            await request.arm()
        return str(crashed.value)

    assert in_virtual_time(work) == "lk.example.com:7880 cannot be resolved on this machine"
