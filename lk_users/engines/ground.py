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
from lk_users.wire.api import Api, Keys
from lk_users.wire.microphone import Microphones
from lk_users.wire.seams import SharedCertificate, host_addresses
from lk_users.wire.signalling import Pinger, SignalPath
from lk_users.wire.turn import MediaWay

if TYPE_CHECKING:
    from lk_users.engines.port import Engine, EngineListener
    from lk_users.engines.sdk_pool import SdkPool
    from lk_users.plan import PlannedSession
    from lk_users.settings import Settings, Target
    from lk_users.wire.armed import Endpoint


@dataclass(frozen=True)
class Ground:
    """``found``: the way that media takes."""

    settings: Settings
    surroundings: Surroundings
    api: Api
    witnesses: SdkPool
    found: Found
    at_work: tuple[asyncio.Task[None], ...]

    def engine(self, item: PlannedSession, listener: EngineListener) -> Engine:
        """As the plan has it for this session."""
        if item.engine == WITNESS:
            return SdkEngine(item, self.settings, self.surroundings, self.witnesses, listener)
        return ListenEngine(item, self.settings, self.surroundings, listener)

    async def close(self) -> None:
        for task in self.at_work:
            task.cancel()
        await self.witnesses.close()
        with contextlib.suppress(WireError):
            await self.api.close()


async def break_ground(
    target: Target, endpoint: Endpoint, settings: Settings, witnesses: SdkPool, room: str
) -> Ground:
    """``room``: where a probe for media joins. A target that does not answer now gets the newest signalling
    path and no probe: every session will find it silent, and say so in its record."""
    keys = Keys(target.key, target.secret)
    api = Api(target.http_url, keys, settings.api_budget_per_minute)
    around = Surroundings(
        endpoint=endpoint,
        prefix=target.path,
        keys=keys,
        clock=SystemClock(),
        path=SignalPath.V1,
        addresses=host_addresses(loopback=endpoint.loopback),
        pinger=Pinger(),
        certificate=SharedCertificate.generateCertificate(),
        microphones=Microphones(),
    )
    found = Found(MediaWay.HOST, {})
    with contextlib.suppress(WireError, EngineCrashed):
        if await api.speaks(f"{SignalPath.V1}/validate") == 404:
            around = replace(around, path=SignalPath.V0)
        # Nothing lies between us and a server on loopback.
        if settings.ice == "relay" or (settings.ice == "auto" and not endpoint.loopback):
            found = await find_way(around, settings, room)
            await api.delete_room(room)
    loop = asyncio.get_running_loop()
    at_work = (loop.create_task(around.pinger.run()), loop.create_task(around.microphones.run()))
    return Ground(settings, replace(around, way=found.way), api, witnesses, found, at_work)
