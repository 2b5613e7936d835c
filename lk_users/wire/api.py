"""LiveKit's HTTP API: tokens, the dispatch request as bytes, and all that is off the hot path.

``livekit-api`` serves the reads and deletes. Its failover, which hides time and can repeat a request, is
off, and nothing here retries.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import aiohttp
from livekit import api
from livekit.protocol import agent as agent_messages
from livekit.protocol import agent_dispatch, models
from livekit.protocol import room as room_messages

from lk_users.clock import NS_PER_S
from lk_users.errors import ConnectionCut, HttpError
from lk_users.evidence import DispatchView, JobView, ParticipantView
from lk_users.masking import masked
from lk_users.wire.endpoint import connection_cause
from lk_users.wire.names import disconnect_reason, job_status, participant_state

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

_T = TypeVar("_T")

# Valid long enough for a user who waits out the longest session, and for the clock of a slow region.
TOKEN_TTL = dt.timedelta(hours=2)
# Requests at once: enough to be done soon, few enough to disturb nothing.
CONCURRENCY = 8
REQUEST_TIMEOUT_S = 10.0

RESTART_POLICY: Final = {
    "": agent_dispatch.JobRestartPolicy.JRP_ON_FAILURE,
    "on-failure": agent_dispatch.JobRestartPolicy.JRP_ON_FAILURE,
    "never": agent_dispatch.JobRestartPolicy.JRP_NEVER,
}


@dataclass(frozen=True)
class Keys:
    """What signs tokens."""

    key: str
    secret: str


@dataclass(frozen=True)
class AgentRequest:
    """Which agent is asked for, and with what."""

    agent_name: str
    metadata: str = ""
    deployment: str = ""
    restart_policy: str = ""
    attributes: tuple[tuple[str, str], ...] = ()


def user_token(
    keys: Keys, room: str, identity: str, attributes: str = "", agent: AgentRequest | None = None,
    room_metadata: str = "",
) -> str:  # fmt: skip
    """A token that joins ``room``. ``agent``: dispatched by the token's room configuration."""
    token = (
        api.AccessToken(keys.key, keys.secret)
        .with_identity(identity)
        .with_ttl(TOKEN_TTL)
        .with_grants(api.VideoGrants(room_join=True, room=room, can_update_own_metadata=True))
    )
    if attributes:
        token = token.with_attributes(json.loads(attributes))
    if agent is not None or room_metadata:
        config = room_messages.RoomConfiguration(metadata=room_metadata)
        if agent is not None:
            config.agents.append(_room_agent(agent))
        token = token.with_room_config(config)
    return token.to_jwt()


def admin_token(keys: Keys, room: str) -> str:
    """A token that may create and administer ``room``."""
    grants = api.VideoGrants(room_admin=True, room_create=True, room=room)
    return api.AccessToken(keys.key, keys.secret).with_ttl(TOKEN_TTL).with_grants(grants).to_jwt()


def worker_token(keys: Keys) -> str:
    """A token that registers an agent worker."""
    return api.AccessToken(keys.key, keys.secret).with_grants(api.VideoGrants(agent=True)).to_jwt()


def create_dispatch(room: str, agent: AgentRequest) -> tuple[str, bytes]:
    """Twirp path and body of CreateDispatch."""
    request = agent_dispatch.CreateAgentDispatchRequest(
        agent_name=agent.agent_name,
        room=room,
        metadata=agent.metadata,
        deployment=agent.deployment,
        restart_policy=RESTART_POLICY[agent.restart_policy],
    )
    return "/twirp/livekit.AgentDispatchService/CreateDispatch", request.SerializeToString()


def create_room(room: str, agent: AgentRequest, room_metadata: str) -> tuple[str, bytes]:
    """Twirp path and body of CreateRoom that asks for the agent at once."""
    request = room_messages.CreateRoomRequest(name=room, metadata=room_metadata)
    request.agents.append(_room_agent(agent))
    return "/twirp/livekit.RoomService/CreateRoom", request.SerializeToString()


def read_dispatch(body: bytes) -> DispatchView:
    """CreateDispatch's answer."""
    return _dispatch_view(agent_dispatch.AgentDispatch.FromString(body))


def read_room_sid(body: bytes) -> str:
    """CreateRoom's answer: the room's sid."""
    return models.Room.FromString(body).sid


def participant_view(info: models.ParticipantInfo) -> ParticipantView:
    """What we keep of a ParticipantInfo."""
    return ParticipantView(
        sid=info.sid,
        identity=info.identity,
        agent=info.kind == models.ParticipantInfo.Kind.AGENT,
        state=participant_state(info.state),
        joined_at_ms=info.joined_at_ms or info.joined_at * 1000,
        attributes=dict(info.attributes),
        microphones=tuple(
            track.sid
            for track in info.tracks
            if track.type == models.TrackType.AUDIO and track.source == models.TrackSource.MICROPHONE
        ),
        disconnect_reason=disconnect_reason(info.disconnect_reason),
        region=info.region,
        hosted=models.ParticipantInfo.KindDetail.CLOUD_AGENT in info.kind_details,
    )


class Api:
    """The paced client for everything off the hot path. Belongs to the loop that made it.

    Its methods raise HttpError or ConnectionCut. ``budget_per_minute``: 0 for no limit.
    """

    def __init__(self, http_url: str, keys: Keys, budget_per_minute: int = 0) -> None:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY))
        self._turns = asyncio.Semaphore(CONCURRENCY)
        self._client = api.LiveKitAPI(http_url, keys.key, keys.secret, session=self._session, failover=False)
        self._pace = _Pace(60.0 / budget_per_minute if budget_per_minute else 0.0)

    async def close(self) -> None:
        await self._session.close()

    def limit(self, budget_per_minute: float) -> None:
        """From now on at most so many requests a minute; 0 for no limit."""
        self._pace.every(60.0 / budget_per_minute if budget_per_minute else 0.0)

    def spent(self, requests: int) -> None:
        """So many requests went to the API without passing here: the dispatches of a burst."""
        self._pace.spend(requests)

    async def dispatches(self, room: str) -> tuple[DispatchView, ...]:
        found = await self._call(self._client.agent_dispatch.list_dispatch(room))
        return tuple(_dispatch_view(item) for item in found)

    async def participants(self, room: str) -> tuple[ParticipantView, ...]:
        request = room_messages.ListParticipantsRequest(room=room)
        found = await self._call(self._client.room.list_participants(request))
        return tuple(participant_view(item) for item in found.participants)

    async def rooms(self, names: Sequence[str] = ()) -> tuple[str, ...]:
        """Names of the open rooms among ``names``; of all open rooms if there are none."""
        request = room_messages.ListRoomsRequest(names=list(names))
        found = await self._call(self._client.room.list_rooms(request))
        return tuple(item.name for item in found.rooms)

    async def delete_room(self, room: str) -> None:
        """Closed and gone; no error if it was gone already."""
        try:
            await self._call(self._client.room.delete_room(room_messages.DeleteRoomRequest(room=room)))
        except HttpError as exc:
            if exc.status != 404:
                raise

    async def _call(self, request: Awaitable[_T]) -> _T:
        await self._pace.wait()
        try:
            # livekit-api asks aiohttp for no timeout at all where it is given none for the one request. Who
            # waits for a connection of ours does not wait for the server yet.
            async with self._turns, asyncio.timeout(REQUEST_TIMEOUT_S):
                return await request
        except api.TwirpError as exc:
            raise HttpError(exc.status, exc.message) from exc
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise ConnectionCut(_client_cause(exc)) from exc


async def speaks(http_url: str, path: str, keys: Keys | None) -> int:
    """HTTP status of a GET on ``path`` with a user's token, or without a key with none: tells which
    signalling paths exist. Raises ConnectionCut."""
    headers = {}
    if keys is not None:
        headers["Authorization"] = f"Bearer {user_token(keys, 'lk-preflight', 'lk-preflight')}"
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(http_url + path, headers=headers) as response,
        ):
            return response.status
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise ConnectionCut(_client_cause(exc)) from exc


class _Pace:
    """Lets one request pass every ``interval_s``; 0 lets all pass."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next_s = 0.0

    def every(self, interval_s: float) -> None:
        self._interval_s = interval_s

    def spend(self, requests: int) -> None:
        now_s = asyncio.get_running_loop().time()
        self._next_s = max(self._next_s, now_s) + requests * self._interval_s

    async def wait(self) -> None:
        if not self._interval_s:
            return
        now_s = asyncio.get_running_loop().time()
        due_s = max(self._next_s, now_s)
        self._next_s = due_s + self._interval_s
        await asyncio.sleep(due_s - now_s)


def _client_cause(exc: BaseException) -> str:
    """aiohttp wraps the operating system's error; its own text names host and port at length."""
    inner = getattr(exc, "os_error", None) or exc.__cause__ or exc
    cause = connection_cause(inner if isinstance(inner, OSError) else exc)
    return cause or type(exc).__name__


def _room_agent(agent: AgentRequest) -> agent_dispatch.RoomAgentDispatch:
    return agent_dispatch.RoomAgentDispatch(
        agent_name=agent.agent_name, metadata=agent.metadata, deployment=agent.deployment
    )


def _dispatch_view(found: agent_dispatch.AgentDispatch) -> DispatchView:
    return DispatchView(
        dispatch_id=found.id,
        agent_name=found.agent_name,
        created_at_ns=_ns(found.state.created_at),
        jobs=tuple(_job_view(job) for job in found.state.jobs),
    )


def _job_view(job: agent_messages.Job) -> JobView:
    # Never keep the message: its room carries a TURN password.
    return JobView(
        job_id=job.id,
        worker_id=job.state.worker_id,
        status=job_status(job.state.status),
        started_at_ns=_ns(job.state.started_at),
        ended_at_ns=_ns(job.state.ended_at),
        participant_identity=job.state.participant_identity,
        error=masked(job.state.error),
    )


def _ns(stamp: int) -> int:
    """A server stamp in nanoseconds: dispatch and job states are, but guard against seconds."""
    return stamp if stamp == 0 or stamp > 10**15 else stamp * NS_PER_S
