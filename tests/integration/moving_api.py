"""A proxy before a LiveKit server that shows its jobs on another worker from the second look on, as LiveKit
Cloud does when it gives a job to a second worker; the open-source server never does."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, Self

from aiohttp import ClientSession, WSMsgType, web
from livekit.protocol import agent_dispatch
from yarl import URL

if TYPE_CHECKING:
    from types import TracebackType

    from aiohttp import ClientWebSocketResponse

SECOND_WORKER = "AW_second"
LIST_DISPATCH = "/ListDispatch"
# A join request holds the user's offer.
MAX_LINE = 64 * 1024
KEPT_HEADERS = ("Authorization", "Content-Type")


class MovingApi:
    """Serves on loopback while in the block. ``moved_after_s``: the second offer, after the first one."""

    def __init__(self, upstream: str, moved_after_s: float) -> None:
        """``upstream``: ``ws://HOST:PORT``."""
        self._upstream = upstream.replace("ws", "http", 1)
        self._moved_after_ns = round(moved_after_s * 1e9)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self._client: ClientSession | None = None
        self.first_workers: dict[str, str] = {}
        """Job id → the worker that really has it."""
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        self._client = ClientSession(auto_decompress=False)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            app, max_line_size=MAX_LINE, max_field_size=MAX_LINE, shutdown_timeout=1.0
        )  # fmt: skip
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"ws://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        assert self._runner is not None
        assert self._client is not None
        await self._client.close()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        assert self._client is not None
        url = URL(f"{self._upstream}{request.raw_path}", encoded=True)
        headers = {name: request.headers[name] for name in KEPT_HEADERS if name in request.headers}
        if request.headers.get("Upgrade", "").lower() == "websocket":
            async with self._client.ws_connect(url, headers=headers, max_msg_size=0) as there:
                return await _tunnel(request, there)
        sent = await request.read()
        async with self._client.request(request.method, url, data=sent, headers=headers) as response:
            body = await response.read()
            if request.path.endswith(LIST_DISPATCH) and response.status == 200:
                body = self._moved(body)
            kind = response.headers.get("Content-Type", "")
            return web.Response(body=body, status=response.status, headers={"Content-Type": kind})

    def _moved(self, body: bytes) -> bytes:
        listed = agent_dispatch.ListAgentDispatchResponse.FromString(body)
        for dispatch in listed.agent_dispatches:
            for job in dispatch.state.jobs:
                if job.id not in self.first_workers:
                    self.first_workers[job.id] = job.state.worker_id
                    continue
                job.state.worker_id = SECOND_WORKER
                job.state.started_at += self._moved_after_ns
        return listed.SerializeToString()


async def _tunnel(request: web.Request, there: ClientWebSocketResponse) -> web.StreamResponse:
    here = web.WebSocketResponse(max_msg_size=0)
    await here.prepare(request)
    ways = [asyncio.ensure_future(_carry(here, there)), asyncio.ensure_future(_carry(there, here))]
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    for way in ways:
        way.cancel()
    await asyncio.gather(*ways, return_exceptions=True)
    with contextlib.suppress(ConnectionError):
        await here.close()
    return here


async def _carry(source: Any, target: Any) -> None:
    async for message in source:
        if message.type is WSMsgType.BINARY:
            await target.send_bytes(message.data)
