"""The reference agent: ``python -m lk_users.local.agent --url ws://127.0.0.1:7880 --agent-name welcome``.

Speaks LiveKit's worker protocol on ``/agent``, one WebSocket a worker; all jobs run in this one process.
Keys come from LIVEKIT_API_KEY and LIVEKIT_API_SECRET only. It prints ``ready N workers`` once all are
registered. Exit codes: 0 on SIGTERM or SIGINT, 12 when it cannot register, 1 when the server went away.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
import uvloop
from livekit.protocol import agent as messages

from lk_users.clock import SystemClock
from lk_users.errors import ConnectionCut, LkUsersError, StackError, WireError
from lk_users.evidence import AGENT_NAME_ATTRIBUTES
from lk_users.local.agent_session import AgentSession, Ending, Job, Place
from lk_users.local.faults import Fault, Script, parse
from lk_users.local.pace import Pace
from lk_users.local.speech import Sounds
from lk_users.version import VERSION
from lk_users.wire.aioice_seam import host_addresses
from lk_users.wire.aiortc_seam import SharedCertificate, quiet_logs
from lk_users.wire.api import Keys, worker_token
from lk_users.wire.endpoint import Endpoint, connection_cause
from lk_users.wire.signalling import Pinger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REGISTER_S: Final = 10.0
STATUS_INTERVAL_S: Final = 2.5
# Sessions that are open when we are told to end still leave by ``leave``.
GOODBYE_S: Final = 3.0
REFUSED: Final = 12
_DEFAULT_PORTS: Final = {"ws": 80, "http": 80, "wss": 443, "https": 443}


def say(line: str) -> None:
    print(f"lk-users agent: {line}", file=sys.stderr, flush=True)


class Worker:
    """One registration with the server, and the jobs that it was given."""

    def __init__(self, place: Place, connection: aiohttp.ClientWebSocketResponse) -> None:
        self._place = place
        self._connection = connection
        self._scripts: dict[str, Script] = {}
        self._sessions: dict[str, AgentSession] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def register(self) -> None:
        """Raises ConnectionCut if the server hangs up instead."""
        message = messages.WorkerMessage()
        register = message.register
        register.agent_name, register.version = self._place.agent_name, VERSION
        for name in ("can_publish", "can_subscribe", "can_publish_data", "can_update_metadata"):
            setattr(register.allowed_permissions, name, True)
        await self._send(message)
        while (await self._receive()).WhichOneof("message") != "register":
            pass
        await self._send_status()

    async def serve(self) -> None:
        """Until cancelled; raises ConnectionCut when the server goes away."""
        reporting = asyncio.ensure_future(self._report_status())
        try:
            while True:
                await self._handle(await self._receive())
        finally:
            reporting.cancel()

    async def close(self) -> None:
        """End all jobs by ``leave``, within ``GOODBYE_S``."""
        for session in self._sessions.values():
            session.terminate()
        if self._running:
            await asyncio.wait(self._running, timeout=GOODBYE_S)
        await self._connection.close()

    async def _receive(self) -> messages.ServerMessage:
        received = await self._connection.receive()
        if received.type is not aiohttp.WSMsgType.BINARY:
            raise ConnectionCut(f"closed by the server (code {self._connection.close_code})")
        message = messages.ServerMessage()
        message.ParseFromString(received.data)
        return message

    async def _send(self, message: messages.WorkerMessage) -> None:
        try:
            await self._connection.send_bytes(message.SerializeToString())
        except (aiohttp.ClientError, OSError) as exc:
            raise ConnectionCut(connection_cause(exc)) from exc

    async def _report_status(self) -> None:
        while True:
            await asyncio.sleep(STATUS_INTERVAL_S)
            try:
                await self._send_status()
            except ConnectionCut:
                # The reader learns of it too, and tells.
                return

    async def _send_status(self) -> None:
        message = messages.WorkerMessage()
        message.update_worker.load = 0.0
        message.update_worker.status = messages.WorkerStatus.WS_AVAILABLE
        message.update_worker.job_count = len(self._sessions)
        await self._send(message)

    async def _handle(self, message: messages.ServerMessage) -> None:
        kind = message.WhichOneof("message")
        if kind == "availability":
            await self._answer_offer(message.availability.job)
        elif kind == "assignment":
            self._begin(message.assignment)
        elif kind == "termination":
            session = self._sessions.get(message.termination.job_id)
            if session is not None:
                session.terminate()

    async def _answer_offer(self, job: messages.Job) -> None:
        script = parse(job.metadata)
        if script.note:
            say(f"job {job.id}: {script.note}")
        if script.fault is Fault.IGNORE:
            return
        reply = messages.WorkerMessage()
        answer = reply.availability
        answer.job_id = job.id
        if script.fault is Fault.REJECT:
            answer.terminate = True
        else:
            self._scripts[job.id] = script
            answer.available = True
            answer.participant_identity = f"agent-{job.id}"
            if self._place.agent_name:
                answer.participant_attributes[AGENT_NAME_ATTRIBUTES[0]] = self._place.agent_name
        await self._send(reply)

    def _begin(self, assignment: messages.JobAssignment) -> None:
        job_id, script = assignment.job.id, self._scripts.pop(assignment.job.id, Script())
        session = AgentSession(self._place, Job(job_id, assignment.job.room.name, assignment.token, script))
        self._sessions[job_id] = session
        running = asyncio.ensure_future(self._run(job_id, session))
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def _run(self, job_id: str, session: AgentSession) -> None:
        try:
            # The status goes first: a server takes the leave of an unfinished job for a failure.
            if await session.run() is not Ending.DIED:
                await self._send_job_status(job_id, messages.JobStatus.JS_SUCCESS)
        except WireError as exc:
            say(f"job {job_id}: {exc}")
            await self._send_job_status(job_id, messages.JobStatus.JS_FAILED, exc.cause)
        finally:
            del self._sessions[job_id]
            await session.close()

    async def _send_job_status(self, job_id: str, status: messages.JobStatus, error: str = "") -> None:
        message = messages.WorkerMessage()
        update = message.update_job
        update.job_id, update.status, update.error = job_id, status, error
        try:
            await self._send(message)
        except ConnectionCut:
            # serve() tells.
            return


async def serve(place: Place, url: str, workers: int, ready: Callable[[], None]) -> None:
    """Until SIGTERM or SIGINT. Raises StackError if it cannot register, ConnectionCut if the server goes."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopping = asyncio.ensure_future(stop.wait())
    async with aiohttp.ClientSession() as client:
        registering = asyncio.ensure_future(_register(place, client, url, workers))
        await asyncio.wait({registering, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not registering.done():
            registering.cancel()
            return
        registered = registering.result()
        ready()
        serving = [asyncio.ensure_future(worker.serve()) for worker in registered]
        pinging = asyncio.ensure_future(place.pinger.run())
        try:
            await asyncio.wait({*serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                next(task for task in serving if task.done()).result()
        finally:
            await asyncio.gather(*(worker.close() for worker in registered))
            for task in (*serving, pinging, stopping):
                task.cancel()
            await asyncio.gather(*serving, pinging, stopping, return_exceptions=True)


async def _register(place: Place, client: aiohttp.ClientSession, url: str, workers: int) -> list[Worker]:
    headers = {"Authorization": f"Bearer {worker_token(place.keys)}"}
    registered = []
    try:
        async with asyncio.timeout(REGISTER_S):
            for _ in range(workers):
                # Frames of any size: the room of a job comes with all its codecs.
                connection = await client.ws_connect(f"{url}/agent", headers=headers, max_msg_size=0)
                worker = Worker(place, connection)
                registered.append(worker)
                await worker.register()
    except aiohttp.WSServerHandshakeError as exc:
        hint = " (wrong API key or secret?)" if exc.status in (401, 403) else ""
        raise StackError(f"{url} refused the worker: HTTP {exc.status}{hint}") from exc
    except TimeoutError as exc:
        raise StackError(f"{url} did not register the worker within {REGISTER_S:.0f} s") from exc
    except (aiohttp.ClientError, OSError, WireError) as exc:
        inner = getattr(exc, "os_error", exc)
        cause = exc.cause if isinstance(exc, WireError) else connection_cause(inner)
        raise StackError(f"{url} cannot be reached: {cause}") from exc
    return registered


def place_at(url: str, agent_name: str, keys: Keys, jobs_per_s: float = 0.0) -> Place:
    """Where the jobs will be. ``jobs_per_s``: how many start at most; 0: as they come. Raises StackError for
    a URL that is none."""
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise StackError(f"--url: {url!r} is not ws://HOST[:PORT] or wss://HOST[:PORT]")
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    try:
        endpoint = Endpoint.resolve(
            parts.hostname, port, parts.netloc.rpartition("@")[2], tls=parts.scheme in ("wss", "https")
        )
    except WireError as exc:
        raise StackError(f"--url: {exc}") from exc
    clock = SystemClock()
    return Place(
        endpoint=endpoint,
        prefix=parts.path.rstrip("/"),
        addresses=host_addresses(loopback=endpoint.loopback),
        clock=clock,
        pinger=Pinger(clock),
        certificate=SharedCertificate.generateCertificate(),
        sounds=Sounds.encode(),
        keys=keys,
        agent_name=agent_name,
        pace=Pace(clock, jobs_per_s),
    )


def _keys() -> Keys:
    keys = Keys(os.environ.get("LIVEKIT_API_KEY", ""), os.environ.get("LIVEKIT_API_SECRET", ""))
    if not keys.key or not keys.secret:
        raise StackError("LIVEKIT_API_KEY and LIVEKIT_API_SECRET must be set in the environment")
    return keys


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lk_users.local.agent", description="reference agent")
    parser.add_argument("--url", required=True, help="the LiveKit server: ws://HOST[:PORT]")
    parser.add_argument("--agent-name", default="welcome", help="empty for the unnamed agent")
    parser.add_argument("--workers", type=int, default=1, choices=range(1, 65), metavar="N", help="1 to 64")
    parser.add_argument(
        "--jobs-per-s", type=_rate, default=0.0, metavar="N", help="jobs it starts a second; 0: as they come"
    )
    return parser.parse_args(argv)


def _rate(text: str) -> float:
    """Raises ValueError, which argparse words."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    arguments = _arguments(argv)
    workers: int = arguments.workers
    url: str = arguments.url.rstrip("/")
    jobs_per_s: float = arguments.jobs_per_s
    quiet_logs()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS calls its hard limit infinite and then refuses it.
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 10_240, hard))

    def ready() -> None:
        # What is there now stays: the collector need not look at it in every burst.
        gc.collect()
        gc.freeze()
        print(f"ready {workers} worker{'' if workers == 1 else 's'}", flush=True)

    try:
        uvloop.run(serve(place_at(url, arguments.agent_name, _keys(), jobs_per_s), url, workers, ready))
    except StackError as exc:
        say(str(exc))
        return REFUSED
    except LkUsersError as exc:
        say(f"the server at {url} went away: {exc}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
