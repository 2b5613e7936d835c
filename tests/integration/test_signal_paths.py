"""Both signalling paths against the real server: ``/rtc/v1``, and ``/rtc`` for a server that lacks it."""

from __future__ import annotations

import asyncio
import json
import selectors
import uuid
from typing import TYPE_CHECKING

import pytest
import uvloop

from lk_users.burst import Burst, Meters, Stage, Worker
from lk_users.clock import NS_PER_S, SystemClock
from lk_users.course import Role, Round
from lk_users.engines import listen
from lk_users.engines.listen import ListenEngine, Surroundings
from lk_users.health import LagMeter
from lk_users.plan import Share
from lk_users.settings.run import Settings
from lk_users.settings.target import Target
from lk_users.wire import aioice_seam
from lk_users.wire.aioice_seam import host_addresses
from lk_users.wire.aiortc_seam import SharedCertificate
from lk_users.wire.api import Api, Keys
from lk_users.wire.datagrams import TickReader
from lk_users.wire.endpoint import Endpoint
from lk_users.wire.microphone import Microphones
from lk_users.wire.peer import Peer
from lk_users.wire.servers import Servers
from lk_users.wire.signalling import Pinger, SignalPath
from lk_users.wire.ticks import TICK_MS

if TYPE_CHECKING:
    from _socket import socket as NativeSocket  # noqa: N812
    from collections.abc import Callable, Mapping

    from lk_users.local.stack import Stack
    from lk_users.record import Mark, Record
    from lk_users.session import Session
    from lk_users.wire.recording import Recording

pytestmark = pytest.mark.real
USERS = 5


class Kept:
    """A burst's reporter that keeps its final records."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.over = asyncio.Event()

    def marked(self, session: Session, mark: Mark, at_ns: int) -> None: ...

    def decided(self, session: Session, record: Record) -> None: ...

    def recorded(self, record: Record, recording: Recording | None) -> None:
        self.records.append(record)

    def all_decided(self) -> None:
        self.over.set()


class CountingReader(TickReader):
    """Knows how often it was given a socket, and how often one was taken back."""

    def __init__(self) -> None:
        super().__init__(selectors.DefaultSelector())
        self.given = self.taken_back = 0

    def add(self, sock: NativeSocket, read: Callable[[], None]) -> None:
        super().add(sock, read)
        self.given += 1

    def discard(self, sock: NativeSocket) -> None:
        super().discard(sock)
        self.taken_back += 1


async def burst(
    target: Target, path: SignalPath, reader: TickReader | None = None, **more: str
) -> list[Record]:
    """A burst over ``path``, without Locust. ``more``: options."""
    clock, keys, kept = SystemClock(), Keys(target.key, target.secret), Kept()
    pinger = Pinger(clock)
    options = {"agent_name": "welcome", "welcome": "state,track,audio,text", "session_timeout": "20"} | more
    settings = Settings.from_options(options, USERS)
    around = Surroundings(
        address=target.address,
        endpoint=Endpoint.resolve(target.host, target.port, target.authority, tls=False),
        keys=keys,
        servers=Servers(),
        clock=clock,
        path=path,
        addresses=host_addresses(loopback=True),
        pinger=pinger,
        reader=reader,
        certificate=SharedCertificate.generateCertificate(),
        microphones=Microphones(),
    )
    run_id = f"paths-{uuid.uuid4().hex[:8]}"
    stage = Stage(
        run_id, settings, Worker("w", "local"), clock, Meters(LagMeter(), LagMeter()), kept,
        lambda item, listener: ListenEngine(item, settings, around, listener),
    )  # fmt: skip
    made = Burst(Share(run_id, 1, 0, USERS, Round(Role.BURST, USERS)), stage)
    await made.build()
    made.announce(clock.monotonic_ns() + NS_PER_S // 2, clock.wall_ns() + NS_PER_S // 2)
    await asyncio.wait_for(kept.over.wait(), 30)
    api = Api(target.http_url, keys)
    await made.collect(api)
    await api.close()
    # The ports' quarantine is over: a loop that closes over open sockets warns of them.
    await asyncio.sleep(0.1)
    return kept.records


@pytest.mark.parametrize("path", list(SignalPath))
def test_users_hear_and_read_their_welcome_over(
    stack: Stack, path: SignalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aioice_seam, "PORT_QUARANTINE_S", 0.0)
    records = uvloop.run(burst(Target.from_environment(stack.env()), path))
    assert [record.outcome for record in records] == ["ok"] * USERS
    assert all({"first_audio", "first_text", "agent_track"} <= record.marks_ns.keys() for record in records)
    # Over /rtc a microphone would need a second connection.
    mic = "silence" if path is SignalPath.V1 else "none"
    assert {record.evidence["mic"] for record in records} == {mic}
    assert not any("sections_unasked" in record.evidence for record in records)


def test_a_server_that_tells_sections_by_its_offer_alone_is_heard_over_rtc(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """livekit-server 1.8 has no ``mid_to_track_id``, and names its tracks in the offer as all of them do."""

    class Untold(Peer):
        async def answer(self, offer_sdp: str, tracks_by_mid: Mapping[str, str]) -> str:
            told.append(len(tracks_by_mid))
            return await super().answer(offer_sdp, {})

    told: list[int] = []
    monkeypatch.setattr(aioice_seam, "PORT_QUARANTINE_S", 0.0)
    monkeypatch.setattr(listen, "Peer", Untold)
    records = uvloop.run(burst(Target.from_environment(stack.env()), SignalPath.V0))
    assert [record.outcome for record in records] == ["ok"] * USERS
    assert all({"first_audio", "agent_track"} <= record.marks_ns.keys() for record in records)
    assert sum(told) >= USERS


@pytest.mark.parametrize("path", list(SignalPath))
def test_users_whose_agent_comes_late_wait_by_tick_and_hear_as_well(
    stack: Stack, path: SignalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aioice_seam, "PORT_QUARANTINE_S", 0.0)
    monkeypatch.setattr(aioice_seam, "CONSENT_INTERVAL", 0.2)
    reader = CountingReader()
    late = json.dumps({"lk": {"fault": "slow_join", "delay_ms": 3000}})
    target = Target.from_environment(stack.env())
    records = uvloop.run(burst(target, path, reader, metadata=late))
    assert [record.outcome for record in records] == ["ok"] * USERS
    # Each of them while it was alone, and again when it had heard and read its welcome.
    assert (reader.given, reader.taken_back) == (2 * USERS, 2 * USERS)
    for record in records:
        seen_ns, heard_ns = record.marks_ns["agent_seen"], record.marks_ns["first_audio"]
        assert seen_ns > 3 * NS_PER_S
        assert heard_ns > seen_ns
        assert record.evidence["ice"]["rtt_ms"] < TICK_MS
