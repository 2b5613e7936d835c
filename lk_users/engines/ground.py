"""What all sessions of a process stand on: its way to the target, made once a run. On the sessions' loop."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lk_users.clock import SystemClock
from lk_users.engines.listen import ListenEngine, Surroundings
from lk_users.engines.probe import Found, find_way
from lk_users.engines.sdk import SdkEngine
from lk_users.errors import EngineCrashed, WireError
from lk_users.plan import WITNESS
from lk_users.wire.aioice_seam import host_addresses
from lk_users.wire.aiortc_seam import SharedCertificate
from lk_users.wire.api import Api, Keys, speaks
from lk_users.wire.microphone import Microphones
from lk_users.wire.servers import Servers
from lk_users.wire.signalling import Pinger, SignalPath
from lk_users.wire.turn import MediaWay

if TYPE_CHECKING:
    from lk_users.engines.port import Engine, EngineListener
    from lk_users.engines.sdk_pool import SdkPool
    from lk_users.errors import BackendError
    from lk_users.plan import PlannedSession
    from lk_users.settings.run import Settings
    from lk_users.settings.target import Target
    from lk_users.wire.backend import Backend, Ticket
    from lk_users.wire.datagrams import TickReader
    from lk_users.wire.endpoint import Endpoint


@dataclass(frozen=True)
class Ground:
    """``found``: the way that media takes."""

    settings: Settings
    surroundings: Surroundings
    api: Api | None
    """None without a key."""
    witnesses: SdkPool
    found: Found
    at_work: tuple[asyncio.Task[None], ...]

    def engine(
        self, item: PlannedSession, listener: EngineListener, given: Ticket | BackendError | None = None
    ) -> Engine:
        """As the plan has it for this session. ``given``: what the user's locustfile got for it."""
        if item.engine == WITNESS:
            return SdkEngine(item, self.settings, self.surroundings, self.witnesses, listener, given)
        return ListenEngine(item, self.settings, self.surroundings, listener, given)

    async def close(self) -> None:
        for task in self.at_work:
            task.cancel()
        await self.witnesses.close()
        if self.api is not None:
            with contextlib.suppress(WireError):
                await self.api.close()


async def break_ground(
    target: Target,
    endpoint: Endpoint,
    settings: Settings,
    witnesses: SdkPool,
    room: str,
    backend: Backend | None = None,
    reader: TickReader | None = None,
) -> Ground:
    """``room``: where a probe for media joins. ``reader``: of users who have nobody to hear.

    A target that does not answer now gets the newest signalling path and no probe: every session will find it
    silent, and say so in its record. Without a key there is no probe either, and media goes by host
    candidates."""
    keys = Keys(target.key, target.secret) if target.has_key else None
    api = Api(target.http_url, keys, settings.api_budget_per_minute) if keys is not None else None
    servers = Servers()
    if endpoint.addresses:
        servers.know(target.address, endpoint)
    clock = SystemClock()
    around = Surroundings(
        address=target.address,
        endpoint=endpoint,
        keys=keys,
        servers=servers,
        clock=clock,
        path=SignalPath.V1,
        addresses=host_addresses(loopback=endpoint.loopback),
        pinger=Pinger(clock),
        reader=reader,
        certificate=SharedCertificate.generateCertificate(),
        microphones=Microphones(),
        backend=backend,
    )
    found = Found(MediaWay.HOST, {})
    with contextlib.suppress(WireError, EngineCrashed):
        if target.is_known and await speaks(target.http_url, f"{SignalPath.V1}/validate", keys) == 404:
            around = replace(around, path=SignalPath.V0)
        # Nothing lies between us and a server on loopback.
        wants_probe = settings.ice == "relay" or (settings.ice == "auto" and not endpoint.loopback)
        if api is not None and wants_probe:
            found = await find_way(around, settings, room)
            await api.delete_room(room)
    loop = asyncio.get_running_loop()
    at_work = (loop.create_task(around.pinger.run()), loop.create_task(around.microphones.run()))
    return Ground(settings, replace(around, way=found.way), api, witnesses, found, at_work)
