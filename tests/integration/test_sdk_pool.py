"""SDK children as processes, without a server: started, told apart, missed when they die, ended."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import conftest
import psutil
import pytest
import uvloop

from lk_users.engines.sdk_pool import SEATS, SdkPool

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping


class Passenger:
    def __init__(self) -> None:
        self.messages: list[Mapping[str, Any]] = []
        self.cause: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def told(self, message: Mapping[str, Any]) -> None:
        self.messages.append(message)

    def crashed(self, cause: str) -> None:
        self.cause.set_result(cause)


def children() -> list[psutil.Process]:
    return conftest.children(os.getpid(), "lk_users.engines.sdk_child")


def handles() -> int:
    return psutil.Process().num_fds()


@pytest.fixture
def aboard() -> Callable[[Callable[[SdkPool], Coroutine[Any, Any, None]]], None]:
    """Runs work with a pool, which must leave neither process nor handle behind."""

    def run(work: Callable[[SdkPool], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            before = handles()
            pool = SdkPool()
            try:
                async with asyncio.timeout(20):
                    await work(pool)
            finally:
                await pool.close()
            assert children() == []
            # The loop closes its own handle on a pipe in its next turn.
            await asyncio.sleep(0.05)
            assert handles() == before

        uvloop.run(main())

    return run


def test_a_killed_child_is_missed_by_its_own_passengers(aboard: Any) -> None:
    async def work(pool: SdkPool) -> None:
        passengers = [Passenger() for _ in range(SEATS + 1)]
        await asyncio.gather(*(pool.board(passenger) for passenger in passengers))
        full, other = sorted(children(), key=lambda process: process.pid)
        os.kill(full.pid, signal.SIGKILL)
        causes = await asyncio.gather(*(passenger.cause for passenger in passengers[:SEATS]))
        assert set(causes) == {"its SDK child ended: killed by SIGKILL"}
        assert not passengers[SEATS].cause.done()
        assert [process.pid for process in children()] == [other.pid]
        # Who comes now gets a seat in the one that lives.
        await pool.board(Passenger())
        assert len(children()) == 1

    aboard(work)


def test_the_sdks_last_words_are_kept(aboard: Any) -> None:
    async def work(pool: SdkPool) -> None:
        passenger = Passenger()
        seat = await pool.board(passenger)
        seat.give(b"not an order\n")
        cause = await passenger.cause
        assert cause.startswith("its SDK child ended: exit status 1; its last words: ")
        assert "JSONDecodeError" in cause

    aboard(work)


def test_a_child_gets_no_key_and_hears_no_ctrl_c(monkeypatch: pytest.MonkeyPatch, aboard: Any) -> None:
    monkeypatch.setenv("LIVEKIT_API_SECRET", "top-secret-of-this-test")

    async def work(pool: SdkPool) -> None:
        seat = await pool.board(Passenger())
        (child,) = children()
        assert "LIVEKIT_API_SECRET" not in child.environ()
        os.kill(child.pid, signal.SIGINT)
        other = Passenger()
        assert (await pool.board(other)).version == seat.version
        assert len(children()) == 1

    aboard(work)
