"""A token endpoint of the tests' own: LiveKit's standard one, that can do wrong on request."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web
from livekit import api
from livekit.protocol.agent_dispatch import RoomAgentDispatch
from livekit.protocol.room import RoomConfiguration

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from types import TracebackType

SLOW_S = 30.0
PATH = "/api/token"
OWN_PATH = "/start"


class TokenEndpoint:
    """Serves on loopback while in the block, in a thread. ``environ``: URL, key and secret of the server that
    its tokens are for. ``faults``: by participant identity, what it does wrong for that one."""

    def __init__(
        self,
        environ: Mapping[str, str],
        faults: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        agent_name: str = "",
    ) -> None:
        self._environ = environ
        self._faults = faults or {}
        self._tls = tls
        self._agent_name = agent_name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self.requests: list[tuple[dict[str, str], Any]] = []
        """Headers and JSON of all that came."""
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
        app = web.Application()
        app.router.add_post(PATH, self._answer)
        app.router.add_post(OWN_PATH, self._answer_in_its_own_way)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls, backlog=1024)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"https://localhost:{port}{PATH}" if self._tls else f"http://127.0.0.1:{port}{PATH}"

    async def _stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.requests.append((dict(request.headers), asked))
        fault = self._faults.get(asked["participant_identity"], "")
        said = request.headers.get("Authorization", "")
        token = self.token(asked, secret="w" * 40 if fault == "wrong token" else "")
        good = {"server_url": self._environ["LIVEKIT_URL"], "participant_token": token}
        if fault == "slow":
            await asyncio.sleep(SLOW_S)
        if fault == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        answers: dict[str, tuple[int, Any]] = {
            "": (201, good),
            "camel": (200, {"serverUrl": good["server_url"], "participantToken": token}),
            "429": (429, "slow down"),
            "500": (500, f"what is {said}? {token}"),
            "garbage": (200, f"<html>{said} {token}</html>"),
            "no token": (200, {"server_url": good["server_url"], "token": token}),
            "wrong token": (201, good),
            "cloud": (201, {**good, "server_url": "wss://p.livekit.cloud"}),
            "nowhere": (201, {**good, "server_url": "ws://127.0.0.1:9"}),
            "other name": (201, {**good, "server_url": good["server_url"].replace("127.0.0.1", "localhost")}),
        }
        status, body = answers[fault]
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, content_type="application/json")

    async def _answer_in_its_own_way(self, request: web.Request) -> web.Response:
        """Not by the standard: as in the example of docs/own-backend.md."""
        asked = await request.json()
        self.requests.append((dict(request.headers), asked))
        token = self.token({"room_name": asked["room"], "participant_identity": asked["user"]})
        return web.json_response({"url": self._environ["LIVEKIT_URL"], "token": token})

    def token(self, asked: Mapping[str, Any], secret: str = "") -> str:
        """Its room is not the one that it was asked for: a backend names rooms as it likes."""
        environ = self._environ
        made = api.AccessToken(environ["LIVEKIT_API_KEY"], secret or environ["LIVEKIT_API_SECRET"])
        room = f"own-{asked['room_name']}"
        made = made.with_identity(asked["participant_identity"]).with_grants(
            api.VideoGrants(room_join=True, room=room)
        )
        agents = asked.get("room_config", {}).get("agents", [])
        if self._agent_name:
            agents = [{"agent_name": self._agent_name}]
        made = made.with_room_config(
            RoomConfiguration(agents=[RoomAgentDispatch(**agent) for agent in agents])
        )
        return made.to_jwt()
