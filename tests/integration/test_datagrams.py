"""A user's own UDP socket over loopback, in real time."""

from __future__ import annotations

import asyncio
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from loopback import LOOPBACK, is_bound, until

from lk_users.clock import NS_PER_MS
from lk_users.wire.datagrams import READS_A_TICK, Datagrams, TickReader
from lk_users.wire.ticks import TICK_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

HANDLES = Path("/proc/self/fd")


class Heard(asyncio.DatagramProtocol):
    """What came, from where, and when by the loop's time."""

    def __init__(self) -> None:
        self.came: list[tuple[bytes, Any]] = []
        self.at_s: list[float] = []
        self.errors: list[Exception] = []
        self.on_datagram: Callable[[], None] = lambda: None

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.came.append((data, addr))
        self.at_s.append(asyncio.get_running_loop().time())
        self.on_datagram()

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)


@contextmanager
def opened(reader: TickReader | None = None, address: str = LOOPBACK) -> Iterator[tuple[Datagrams, Heard]]:
    transport, heard = Datagrams(address, reader), Heard()
    transport.set_protocol(heard)
    with closing(transport):
        yield transport, heard


@contextmanager
def other_side(address: str = LOOPBACK) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.bind((address, 0))
        yield sock


def tick_reader() -> TickReader:
    return TickReader(selectors.DefaultSelector())


def on_both_loops(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    uvloop.run(work())
    asyncio.run(work())


@pytest.mark.parametrize("address", [LOOPBACK, "::1"])
def test_both_ways(address: str) -> None:
    async def work() -> None:
        with opened(address=address) as (transport, heard), other_side(address) as other:
            host, port = transport.get_extra_info("sockname")[:2]
            assert host == address
            assert transport.get_extra_info("peername", "none") == "none"
            transport.sendto(b"a check", other.getsockname()[:2])
            assert other.recvfrom(100)[1][:2] == (address, port)
            other.sendto(b"its answer", (address, port))
            await until(lambda: len(heard.came) == 1)
            assert heard.came[0][0] == b"its answer"
            assert heard.came[0][1][:2] == other.getsockname()[:2]

    on_both_loops(work)


def test_what_can_wait_is_read_on_one_tick_and_then_at_once_again() -> None:
    async def work() -> None:
        loop, reader = asyncio.get_running_loop(), tick_reader()
        with opened(reader) as (one, first), opened(reader) as (two, second), other_side() as other:
            for each in (one, two):
                each.pace(by_tick=True)
                each.pace(by_tick=True)
            # Just after a tick, so that all of it comes before the next.
            await asyncio.sleep(TICK_MS / 1000 - loop.time() % (TICK_MS / 1000) + 0.005)
            sent_s = loop.time()
            for number in range(3):
                for each in (one, two):
                    other.sendto(b"%d" % number, each.get_extra_info("sockname"))
                await asyncio.sleep(0.01)
            assert first.came == second.came == []
            await until(lambda: len(first.came) == len(second.came) == 3)
            assert [data for data, _ in first.came] == [data for data, _ in second.came] == [b"0", b"1", b"2"]
            moments = first.at_s + second.at_s
            assert max(moments) - min(moments) < 0.02
            assert min(moments) - sent_s > 0.05
            one.pace(by_tick=False)
            one.pace(by_tick=False)
            other.sendto(b"now", one.get_extra_info("sockname"))
            sent_s = loop.time()
            await until(lambda: len(first.came) == 4)
            assert first.at_s[-1] - sent_s < 0.05

    on_both_loops(work)


@pytest.mark.parametrize("address", [LOOPBACK, "::1"])
def test_how_long_one_had_waited_is_asked_of_the_kernel(address: str) -> None:
    async def work() -> None:
        waited_ns: list[int] = []
        with opened(tick_reader(), address) as (transport, heard), other_side(address) as other:
            name = transport.get_extra_info("sockname")
            heard.on_datagram = lambda: waited_ns.append(transport.waited_ns(time.time_ns()))
            other.sendto(b"at once", name)
            await until(lambda: len(waited_ns) == 1)
            assert waited_ns == [0]
            transport.pace(by_tick=True)
            loop = asyncio.get_running_loop()
            await asyncio.sleep(TICK_MS / 1000 - loop.time() % (TICK_MS / 1000) + 0.01)
            sent_ns: list[int] = []
            for _ in range(2):
                sent_ns.append(time.time_ns())
                other.sendto(b"late", name)
                await asyncio.sleep(0.03)
            await until(lambda: len(waited_ns) == 3)
            read_ns = time.time_ns()
            for ns, sent in zip(waited_ns[1:], sent_ns, strict=True):
                assert read_ns - sent - 20 * NS_PER_MS < ns < read_ns - sent + NS_PER_MS
            # What waits when it is read at once again keeps its moment, too.
            other.sendto(b"late", name)
            await asyncio.sleep(0.02)
            transport.pace(by_tick=False)
            await until(lambda: len(waited_ns) == 4)
            assert 20 * NS_PER_MS - NS_PER_MS < waited_ns[3] < TICK_MS * NS_PER_MS
            other.sendto(b"at once", name)
            await until(lambda: len(waited_ns) == 5)
            assert waited_ns[4] < 20 * NS_PER_MS

    on_both_loops(work)


@pytest.mark.parametrize("system", ["darwin", "no such call"])
def test_where_the_kernel_keeps_no_moments_nothing_waits(
    system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if system == "darwin":
        monkeypatch.setattr("lk_users.wire.datagrams.sys.platform", system)
    else:
        monkeypatch.setattr("lk_users.wire.datagrams.SIOCGSTAMPNS", 0x8999)

    async def work() -> None:
        with opened(tick_reader()) as (transport, heard), other_side() as other:
            transport.pace(by_tick=True)
            assert not transport.by_tick
            other.sendto(b"now", transport.get_extra_info("sockname"))
            await until(lambda: len(heard.came) == 1)

    asyncio.run(work())


def test_what_waits_unread_is_not_lost_when_it_is_read_at_once_again() -> None:
    async def work() -> None:
        with opened(tick_reader()) as (transport, heard), other_side() as other:
            transport.pace(by_tick=True)
            other.sendto(b"sent while it could wait", transport.get_extra_info("sockname"))
            transport.pace(by_tick=False)
            await until(lambda: len(heard.came) == 1)

    on_both_loops(work)


def test_without_a_reader_everything_is_read_at_once() -> None:
    async def work() -> None:
        with opened() as (transport, heard), other_side() as other:
            transport.pace(by_tick=True)
            other.sendto(b"now", transport.get_extra_info("sockname"))
            await until(lambda: len(heard.came) == 1)

    on_both_loops(work)


@pytest.mark.parametrize("by_tick", [False, True])
def test_a_hushed_socket_keeps_its_port_and_takes_next_to_nothing(by_tick: bool) -> None:
    async def work() -> None:
        with opened(tick_reader()) as (transport, heard), other_side() as other:
            if by_tick:
                transport.pace(by_tick=True)
            name = transport.get_extra_info("sockname")
            transport.hush()
            transport.pace(by_tick=False)
            transport.pace(by_tick=True)
            assert transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 5_000
            other.sendto(b"too late", name)
            await asyncio.sleep(1.5 * TICK_MS / 1000)
            assert heard.came == []
            assert is_bound(name[1])
            assert not transport.is_closing()
            transport.close()
            transport.close()
            assert transport.is_closing()
            assert not is_bound(name[1])

    on_both_loops(work)


def test_one_that_another_ends_in_the_same_tick_is_read_no_more() -> None:
    async def work() -> None:
        reader = tick_reader()
        with opened(reader) as (one, first), opened(reader) as (two, second), other_side() as other:
            first.on_datagram, second.on_datagram = two.close, one.close
            for each in (one, two):
                each.pace(by_tick=True)
                for _ in range(3):
                    other.sendto(b"the end", each.get_extra_info("sockname"))
            await asyncio.sleep(2.5 * TICK_MS / 1000)
            assert sorted([len(first.came), len(second.came)]) == [0, 3]
            assert first.errors == second.errors == []

    on_both_loops(work)


def test_what_goes_wrong_with_one_is_told_and_costs_the_others_no_more_than_a_tick() -> None:
    async def work() -> None:
        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(str(what["exception"])))
        reader = tick_reader()
        with opened(reader) as (one, first), opened(reader) as (two, second), other_side() as other:

            def fail() -> None:
                raise ValueError(f"number {len(first.came) + len(second.came)}")

            first.on_datagram = second.on_datagram = fail
            for each in (one, two):
                each.pace(by_tick=True)
                other.sendto(b"a word", each.get_extra_info("sockname"))
            await until(lambda: len(first.came) == len(second.came) == 1)
            assert told == ["number 1", "number 2"]

    on_both_loops(work)


@pytest.mark.parametrize("by_tick", [False, True])
def test_a_flood_on_one_socket_leaves_the_others_their_turn(by_tick: bool) -> None:
    async def work() -> None:
        reader = tick_reader()
        with opened(reader) as (flooded, flood), opened(reader) as (quiet, heard), other_side() as other:
            for each in (flooded, quiet):
                each.pace(by_tick=by_tick)
            for _ in range(3 * READS_A_TICK):
                other.sendto(b"flood", flooded.get_extra_info("sockname"))
            other.sendto(b"a word", quiet.get_extra_info("sockname"))
            before: list[int] = []
            heard.on_datagram = lambda: before.append(len(flood.came))
            await until(lambda: len(flood.came) == 3 * READS_A_TICK and len(heard.came) == 1)
            assert before[0] <= 2
            if by_tick:
                ticks = Counter(round(at_s * 1000 / TICK_MS) for at_s in flood.at_s)
                assert list(ticks.values()) == [READS_A_TICK] * 3

    on_both_loops(work)


def test_an_error_of_the_network_is_told_and_no_exception() -> None:
    async def work() -> None:
        with opened() as (transport, heard):
            transport.sendto(b"x" * 70_000, (LOOPBACK, 9))
            assert [type(error) for error in heard.errors] == [OSError]

    on_both_loops(work)


def test_an_address_that_is_not_ours_costs_no_handle() -> None:
    before = len(list(HANDLES.iterdir()))
    with pytest.raises(OSError, match="assign"):
        Datagrams("192.0.2.199", None)
    assert len(list(HANDLES.iterdir())) == before


def test_nothing_of_it_is_gevent_s_where_locust_has_patched_the_process() -> None:
    code = """
import locust, selectors, socket, sys
from lk_users.runtime import Runtime
from lk_users.wire.datagrams import Datagrams, TickReader
import uvloop

async def work():
    selector = Runtime.selector()
    transport = Datagrams("127.0.0.1", TickReader(selector))
    transport.pace(by_tick=True)
    made = transport.get_extra_info("socket")
    print(type(selector).__module__, type(made).__module__, socket.socket.__module__)
    transport.close()

uvloop.run(work())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["selectors", "_socket", "gevent._socket3"]
