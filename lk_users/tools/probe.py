"""``lk-users probe``: one session that shows what an agent emits and when, and which welcome to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from lk_users import preflight
from lk_users.clock import NS_PER_MS, NS_PER_S, ServerClock, SystemClock
from lk_users.ending import JOBS_LATE_S, pause_s
from lk_users.engines.ground import break_ground
from lk_users.engines.sdk_pool import SdkPool
from lk_users.engines.watching import WatchingEngine
from lk_users.errors import Refused, WireError
from lk_users.evidence import NO_KEY, ServerView
from lk_users.outcome import Finding
from lk_users.plan import planned
from lk_users.record import Mark
from lk_users.session import Session
from lk_users.tools.teller import Teller
from lk_users.wire.aiortc_seam import quiet_logs
from lk_users.wire.armed import knock
from lk_users.wire.backend import Backend
from lk_users.wire.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lk_users.clock import Clock
    from lk_users.engines.ground import Ground
    from lk_users.engines.port import Engine, EngineListener
    from lk_users.evidence import Observation
    from lk_users.plan import PlannedSession
    from lk_users.settings.run import Settings
    from lk_users.settings.target import Target
    from lk_users.tools.speech import Utterance
    from lk_users.wire.api import Api

# Once an agent has said something and then nothing for so long, there is no more to come.
QUIET_NS: Final = 3 * NS_PER_S
LOOK_S: Final = 0.1
# A list of jobs may be behind for some seconds, after which an agent is missed anyway.
AGENT_LEAVE_S: Final = 1.0


@dataclass(frozen=True)
class Probed:
    """What one session came to. ``findings``: with their causes; ``watched_s``: since its agent came."""

    seen: Observation
    findings: Mapping[Finding, str]
    timeline: tuple[str, ...]
    speech: tuple[Utterance, ...]
    watched_s: float
    room: str

    @property
    def came(self) -> bool:
        """Was the agent in the room?"""
        return bool(self.seen.named)


class _Quiet:
    """Nobody but the probe itself looks at its one session."""

    def marked(self, session: Session, mark: Mark, at_ns: int) -> None: ...

    def decided(self, session: Session) -> None: ...


_REQUESTS: Final = {
    "api": "CreateDispatch", "room": "CreateRoom", "backend": "the request to your backend",
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """Where a probe goes: the server, and the users' own backend where tokens come from there."""

    target: Target
    backend: Backend | None = None


def way_of(target: Target, settings: Settings, headers: tuple[tuple[str, str], ...]) -> Way:
    """``headers``: what opens the backend. Raises Refused where its name can't be resolved."""
    url = settings.session_url
    if url is None:
        return Way(target)
    try:
        endpoint = Endpoint.resolve(url.host, url.port, url.authority, tls=url.tls)
    except WireError as exc:
        raise Refused([preflight.knock_fault(f"--session-url {url.http_url}", exc, "your backend")]) from exc
    # One session is no load, so it may lead to LiveKit Cloud unasked.
    return Way(target, Backend(endpoint, url.path or "/", headers, allow_cloud=True))


async def probe(way: Way, settings: Settings, wait_s: float, for_s: float) -> Probed:
    """One session, start to clean-up. ``wait_s``: for the agent to come; ``for_s``: to observe from then.

    Whatever the network does is in the result. The room is gone afterwards.
    """
    quiet_logs()
    clock = SystemClock()
    run_id = f"probe-{secrets.token_hex(4)}"
    # What else its welcome has is seen all the same; its text is matched where it is asked for.
    settings = replace(settings, session_timeout_s=wait_s, welcome=frozenset({"audio"}))
    item = planned(run_id, 0, 0, settings, "local")
    teller = Teller(clock, _REQUESTS.get(settings.dispatch, ""))
    ground = await break_ground(
        way.target, _endpoint(way.target), settings, SdkPool(lambda pid, ended: None), f"lk-{run_id}-way",
        way.backend,
    )  # fmt: skip
    if ground.found.tried:
        failed = "; ".join(f"{way}: {cause}" for way, cause in ground.found.tried.items())
        teller.note(f"media goes by {ground.found.way} ({failed})")

    def make_engine(planned_: PlannedSession, listener: EngineListener) -> Engine:
        teller.session = listener
        return WatchingEngine(planned_, settings, ground.surroundings, teller, teller)

    session = Session(item, settings, clock, ServerClock(), _Quiet(), make_engine)
    try:
        await session.build()
        session.announce(clock.monotonic_ns(), clock.wall_ns())
        first = "the join" if settings.order == "join-first" else teller.way
        session.fire()
        teller.note(f"{first} was written: the clock starts", session.intended_ns)
        session.fired(asyncio.get_running_loop())
        await _observe(session, teller, clock, wait_s, for_s)
        return await _probed(session, teller, clock, ground)
    finally:
        await session.close()
        await _clean_up(ground, session.room)


def run(
    target: Target, settings: Settings, headers: tuple[tuple[str, str], ...], wait_s: float, for_s: float
) -> Probed:
    """``probe`` on a loop of its own. Raises Refused where the server is away or does not take the key, or
    the backend is."""
    preflight.check_platform()
    import uvloop

    async def whole() -> Probed:
        way = way_of(target, settings, headers)
        if target.has_key:
            await preflight.check(target)
        elif target.is_known:
            await _knock(_endpoint(target), f"LIVEKIT_URL {target.shown_url}", "a LiveKit server")
        if way.backend is not None and settings.session_url is not None:
            name = f"--session-url {settings.session_url.http_url}"
            await _knock(way.backend.endpoint, name, "your backend")
        return await probe(way, settings, wait_s, for_s)

    return uvloop.run(whole())


async def _knock(endpoint: Endpoint, name: str, what: str) -> None:
    """Raises Refused where nobody opens."""
    try:
        await knock(endpoint)
    except WireError as exc:
        raise Refused([preflight.knock_fault(name, exc, what)]) from exc


async def _observe(session: Session, teller: Teller, clock: Clock, wait_s: float, for_s: float) -> None:
    """Until there is nothing more to be seen."""
    while True:
        await asyncio.sleep(LOOK_S)
        now_ns = clock.monotonic_ns()
        teller.tell_utterances(now_ns)
        if teller.over or session.observation().failure is not None:
            return
        seen_ns = session.marks_ns.get(Mark.AGENT_SEEN)
        if seen_ns is None:
            if now_ns >= session.intended_ns + wait_s * NS_PER_S:
                return
            continue
        if now_ns >= session.intended_ns + seen_ns + for_s * NS_PER_S:
            return
        spoken = any(speech.over(now_ns) for speech in teller.speech.values())
        if spoken and Mark.FIRST_AUDIO in session.marks_ns and now_ns >= teller.timeline.last_ns + QUIET_NS:
            return


async def _probed(session: Session, teller: Teller, clock: Clock, ground: Ground) -> Probed:
    now_ns = clock.monotonic_ns()
    record = session.record("", "", "", await _view(ground.api, session), 0)
    seen = session.observation()
    named = {sighting.sid for sighting in seen.named}
    came_ns = seen.marks_ns.get(Mark.AGENT_SEEN, 0)
    joined_ns = seen.marks_ns.get(Mark.AGENT_JOINED)
    if joined_ns is not None:
        teller.note(
            f"the agent joined, by the server's clock (±{record.joined_uncertainty_ns / NS_PER_MS:.0f} ms)",
            session.intended_ns + joined_ns,
        )
    speakers = named | {voice.sid for voice in seen.voices}
    heard = [item for sid, one in teller.speech.items() if sid in speakers for item in one.all(now_ns)]
    return Probed(
        seen=seen,
        findings={Finding(name): cause for name, cause in record.findings.items()},
        timeline=tuple(teller.timeline.lines(session.intended_ns)),
        speech=tuple(sorted(heard, key=lambda item: item.began_ns)),
        watched_s=(now_ns - session.intended_ns - came_ns) / NS_PER_S,
        room=session.room,
    )


async def _view(api: Api | None, session: Session) -> ServerView:
    """What the API says; where it lists no job, once more when that can be believed."""
    if api is None:
        return ServerView(unread=NO_KEY)
    late_s = asyncio.get_running_loop().time() + JOBS_LATE_S
    while True:
        try:
            participants = None if session.saw_agent else await api.participants(session.room)
            view = ServerView(await api.dispatches(session.room), participants)
        except WireError as exc:
            return ServerView(unread=exc.cause)
        told = session.saw_agent or not view.dispatches or any(item.jobs for item in view.dispatches)
        if told or asyncio.get_running_loop().time() >= late_s:
            return view
        await asyncio.sleep(pause_s(1))


async def _clean_up(ground: Ground, room: str) -> None:
    await asyncio.sleep(AGENT_LEAVE_S)
    if ground.api is not None:
        with contextlib.suppress(WireError):
            await ground.api.delete_room(room)
    await ground.close()


def _endpoint(target: Target) -> Endpoint:
    """Raises Refused where its name can't be resolved."""
    if not target.is_known:
        return Endpoint.nowhere()
    try:
        return Endpoint.resolve(target.host, target.port, target.authority, tls=target.tls)
    except WireError as exc:
        raise Refused([preflight.target_fault(target, exc)]) from exc
