"""The reference agent on a real LiveKit server, heard by a listener of our own and by the official SDK."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from livekit import api, rtc
from livekit.protocol import models

from lk_users.clock import SystemClock
from lk_users.local.server import Server, find_or_build
from lk_users.local.speech import FRAME_S, SPEECH_S
from lk_users.wire import aioice_seam
from lk_users.wire.aiortc_seam import SharedCertificate
from lk_users.wire.api import AgentRequest, Api, Keys, user_token
from lk_users.wire.audio import Ear
from lk_users.wire.endpoint import Endpoint
from lk_users.wire.loudness import AUDIBLE_DBFS
from lk_users.wire.peer import Peer
from lk_users.wire.signalling import Pinger, Signal, SignalPath
from lk_users.wire.text_stream import TextPiece, TextStreams

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from livekit.protocol import rtc as messages

    from lk_users.errors import WireError

pytestmark = pytest.mark.real

WELCOME = "Welcome, how can I help?"
# A cold server takes 5 s for its first dispatch, and tells of a listener's state every 3 s.
DEADLINE_S = 15.0
TONE_S = SPEECH_S


def start_agent(server: Server, *options: str, **env: str) -> subprocess.Popen[str]:
    keys = {"LIVEKIT_API_KEY": server.api_key, "LIVEKIT_API_SECRET": server.api_secret}
    return subprocess.Popen(
        [sys.executable, "-m", "lk_users.local.agent", "--url", server.url, *options],
        env=os.environ | keys | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(agent: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = agent.communicate(timeout=DEADLINE_S)
    return agent.returncode, out, err


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(find_or_build(None, print), tmp_path_factory.mktemp("server") / "server.log") as running:
        yield running


@pytest.fixture(scope="module")
def agent(server: Server) -> Iterator[subprocess.Popen[str]]:
    """One agent for all tests; what it had to say is shown when one of them fails."""
    running = start_agent(server, "--agent-name", "welcome", "--workers", "4")
    assert running.stdout is not None
    assert running.stdout.readline() == "ready 4 workers\n"
    yield running
    running.send_signal(signal.SIGTERM)
    code, _, err = ended(running)
    assert (code, err) == (0, "")


@pytest.fixture(autouse=True)
def no_quarantine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our loops end long before a quarantined socket would be closed."""
    monkeypatch.setattr(aioice_seam, "PORT_QUARANTINE_S", 0.0)


class User:
    """Joins over V1, hears each track and reads each transcript, and writes down what it saw."""

    def __init__(self, server: Server, room: str, agent: AgentRequest | None) -> None:
        clock = SystemClock()
        self.room = room
        self.agents: dict[str, models.ParticipantInfo] = {}
        self.states: list[tuple[str, str, float]] = []
        self.texts: list[tuple[str, str]] = []
        self.ears: dict[str, Ear] = {}
        self.connected_s = 0.0
        self._streams = TextStreams()
        self._keys = Keys(server.api_key, server.api_secret)
        self._agent = agent
        self._offers = 1
        self._serial = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        endpoint = Endpoint.resolve("127.0.0.1", server.port, f"127.0.0.1:{server.port}", tls=False)
        self._signal = Signal(endpoint, clock, self)
        self._peer = Peer(self, ["127.0.0.1"], SharedCertificate.generateCertificate(), clock)
        self._pinger = Pinger(clock)

    async def join(self) -> None:
        token = user_token(self._keys, self.room, "user", agent=self._agent)
        self._signal.load_join("", SignalPath.V1, token, offer_sdp=await self._peer.offer())
        await self._signal.arm()
        self._signal.fire()
        self._pinger.add(self._signal)
        self._do(self._pinger.run())

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._signal.leave()
        await self._peer.close()
        # Sockets close in the loop's next rounds.
        await asyncio.sleep(0.05)

    def ear(self, track_name: str, source: int = models.TrackSource.MICROPHONE) -> Ear | None:
        """Of the last agent's track of that name."""
        for info in reversed(self.agents.values()):
            for track in info.tracks:
                if track.name == track_name and track.source == source and track.sid in self.ears:
                    return self.ears[track.sid]
        return None

    def audible(self, track_name: str = "welcome") -> bool:
        ear = self.ear(track_name)
        return ear is not None and ear.gate.loudest_dbfs > AUDIBLE_DBFS

    def states_of(self, sid: str) -> list[str]:
        return [state for owner, state, _ in self.states if owner == sid]

    def moment_of(self, state: str) -> float:
        return next(moment_s for _, found, moment_s in self.states if found == state)

    def has_spoken(self, count: int = 1) -> bool:
        """So many agents have spoken and listen again."""
        rounds = [self.states_of(sid)[-2:] for sid in self.agents]
        return rounds.count(["speaking", "listening"]) == count

    def _do(self, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def signal(self, kind: str, response: messages.SignalResponse) -> None:
        if kind == "join":
            self.connected_s = time.monotonic()
            self._seen(response.join.other_participants)
        elif kind == "update":
            self._seen(response.update.participants)
        elif kind == "answer":
            self._do(self._accept(response.answer))
        elif kind == "trickle":
            self._do(self._add(response.trickle.candidateInit))
        elif kind == "media_sections_requirement":
            self._do(self._offer_again(response.media_sections_requirement.num_audios))

    def signal_lost(self, error: WireError) -> None:
        """Shown by what is missing."""

    def _seen(self, participants: Any) -> None:
        for info in participants:
            if info.kind != models.ParticipantInfo.Kind.AGENT:
                continue
            kept = models.ParticipantInfo()
            kept.CopyFrom(info)
            self.agents[info.sid] = kept
            state = info.attributes.get("lk.agent.state", "")
            if state and self.states_of(info.sid)[-1:] != [state]:
                self.states.append((info.sid, state, time.monotonic()))

    async def _accept(self, answer: messages.SessionDescription) -> None:
        async with self._serial:
            await self._peer.accept(answer.sdp, dict(answer.mid_to_track_id))

    async def _add(self, init: str) -> None:
        async with self._serial:
            await self._peer.add_candidate(init)

    async def _offer_again(self, more: int) -> None:
        async with self._serial:
            self._offers += 1
            self._signal.offer(await self._peer.offer_again(more), self._offers)

    def media_up(self) -> None:
        """Not needed."""

    def media_down(self, state: str) -> None:
        """Not needed."""

    def packet(self, track_sid: str, payload: bytes, timestamp: int) -> None:
        self.ears.setdefault(track_sid, Ear()).hear(payload, time.monotonic_ns())

    def data(self, message: bytes) -> None:
        piece = self._streams.feed(message)
        if piece is not None:
            assert isinstance(piece, TextPiece)
            self.texts.append((piece.topic, piece.text))


async def until(look: Callable[[], object], what: str, timeout_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not look():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.02)


def wish(fault: str, delay_ms: int | None = None) -> str:
    return json.dumps({"lk": {"fault": fault} | ({} if delay_ms is None else {"delay_ms": delay_ms})})


def new_room() -> str:
    return f"t-{secrets.token_hex(5)}"


def with_user(server: Server, metadata: str, look: Callable[[User, Api], Coroutine[Any, Any, None]]) -> User:
    """A user alone in a room with the agent that its token asked for."""

    async def play() -> User:
        user = User(server, new_room(), AgentRequest("welcome", metadata))
        reads = Api(server.url.replace("ws", "http"), Keys(server.api_key, server.api_secret))
        try:
            await user.join()
            await look(user, reads)
        finally:
            await user.leave()
            await reads.close()
        return user

    return asyncio.run(play())


async def heard(user: User, _: Api) -> None:
    await until(user.has_spoken, f"a welcome; states {user.states}, ears {list(user.ears)}")
    await until(lambda: user.texts, "a transcript")


def test_it_welcomes_its_user_and_leaves_with_it(server: Server, agent: subprocess.Popen[str]) -> None:
    async def look(user: User, reads: Api) -> None:
        await heard(user, reads)
        listed = next(view for view in await reads.participants(user.room) if view.agent)
        assert listed.state == "active"
        assert len(listed.microphones) == 1
        assert listed.attributes["lk.agent.name"] == "welcome"
        await user.leave()
        # The server tells of a user who publishes nothing every 3 s.
        await until_empty(reads, user.room)

    user = with_user(server, "", look)
    (info,) = user.agents.values()
    assert user.states_of(info.sid) == ["listening", "speaking", "listening"]
    assert 0.9 * TONE_S < user.states[2][2] - user.states[1][2] < 3 * TONE_S
    ear = user.ear("welcome")
    assert ear is not None
    assert ear.gate.loudest_dbfs > AUDIBLE_DBFS + 20
    # All of it: nothing was said before the user could hear.
    assert ear.packets >= round(TONE_S / FRAME_S) - 2
    assert user.texts == [("lk.transcription", WELCOME)]


async def until_empty(reads: Api, room: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while any(view.state != "disconnected" for view in await reads.participants(room)):
        assert time.monotonic() < deadline, "somebody is still in the room"
        await asyncio.sleep(0.1)


def test_the_official_client_hears_it(server: Server, agent: subprocess.Popen[str]) -> None:
    levels: list[float] = []
    texts: list[tuple[str, dict[str, str]]] = []

    async def play() -> None:
        room, reading = rtc.Room(), set()

        async def listen(track: rtc.Track) -> None:
            stream = rtc.AudioStream(track, sample_rate=48_000, num_channels=1)
            async for event in stream:
                samples = np.frombuffer(event.frame.data, dtype=np.int16).astype(np.float64)
                levels.append(float(np.sqrt(np.mean(samples**2))))

        async def read(reader: rtc.TextStreamReader) -> None:
            texts.append((await reader.read_all(), dict(reader.info.attributes or {})))

        def start(doing: Coroutine[Any, Any, None]) -> None:
            reading.add(asyncio.ensure_future(doing))

        room.on("track_subscribed", lambda track, *_: start(listen(track)))
        room.register_text_stream_handler("lk.transcription", lambda reader, _: start(read(reader)))
        keys = Keys(server.api_key, server.api_secret)
        await room.connect(server.url, user_token(keys, new_room(), "user", agent=AgentRequest("welcome")))
        try:
            await until(lambda: texts and sum(level > 1000 for level in levels) > 50, "tone and transcript")
        finally:
            await room.disconnect()
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

    asyncio.run(play())
    ((text, attributes),) = texts
    assert text == WELCOME
    assert attributes["lk.transcription_final"] == "true"
    assert attributes["lk.segment_id"]
    assert attributes["lk.transcribed_track_id"].startswith("TR_")


def test_slow_join(server: Server, agent: subprocess.Popen[str]) -> None:
    user = with_user(server, wish("slow_join", 2000), heard)
    assert user.moment_of("listening") - user.connected_s > 1.9


def test_slow_welcome(server: Server, agent: subprocess.Popen[str]) -> None:
    user = with_user(server, wish("slow_welcome", 1500), heard)
    assert user.moment_of("speaking") - user.moment_of("listening") > 1.4


def test_silent_says_that_it_speaks_and_is_silent(server: Server, agent: subprocess.Popen[str]) -> None:
    async def look(user: User, _: Api) -> None:
        await until(user.has_spoken, "a silent welcome")

    user = with_user(server, wish("silent"), look)
    ear = user.ear("welcome")
    assert ear is not None
    assert ear.packets * FRAME_S > 0.75 * TONE_S
    assert ear.gate.loudest_dbfs < AUDIBLE_DBFS - 20
    assert user.texts == []


def test_freeze_listens_and_never_speaks(server: Server, agent: subprocess.Popen[str]) -> None:
    async def look(user: User, reads: Api) -> None:
        await until(lambda: user.states, "a state")
        await asyncio.sleep(4)
        (listed,) = (view for view in await reads.participants(user.room) if view.agent)
        assert listed.state == "active"

    user = with_user(server, wish("freeze"), look)
    assert [state for _, state, _ in user.states] == ["listening"]
    assert (user.ears, user.texts) == ({}, [])


def test_reject_ends_the_job_before_it_began(server: Server, agent: subprocess.Popen[str]) -> None:
    async def look(user: User, reads: Api) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not (jobs := (await reads.dispatches(user.room))[0].jobs):
            assert time.monotonic() < deadline, "no job was listed"
            await asyncio.sleep(0.1)
        assert (jobs[0].status, jobs[0].participant_identity) == ("success", "")

    assert with_user(server, wish("reject"), look).agents == {}


def test_ignore_never_answers(server: Server, agent: subprocess.Popen[str]) -> None:
    async def look(user: User, reads: Api) -> None:
        await asyncio.sleep(6)
        assert (await reads.dispatches(user.room))[0].jobs == ()

    assert with_user(server, wish("ignore"), look).agents == {}


def test_background_is_audible_and_no_microphone(server: Server, agent: subprocess.Popen[str]) -> None:
    async def look(user: User, _: Api) -> None:
        await until(user.has_spoken, "a welcome that is none")

        def noise() -> bool:
            ear = user.ear("background_audio", models.TrackSource.UNKNOWN)
            return ear is not None and ear.packets * FRAME_S > 1.0 and ear.gate.loudest_dbfs > AUDIBLE_DBFS

        await until(noise, "background audio")

    user = with_user(server, wish("background"), look)
    microphone = user.ear("welcome")
    assert microphone is not None
    assert microphone.gate.loudest_dbfs < AUDIBLE_DBFS - 20
    assert user.texts == []


def test_end_leaves_on_purpose_before_a_word(server: Server, agent: subprocess.Popen[str]) -> None:
    gone = models.ParticipantInfo.State.DISCONNECTED

    async def look(user: User, _: Api) -> None:
        await until(lambda: any(info.state == gone for info in user.agents.values()), "it left")

    user = with_user(server, wish("end"), look)
    (info,) = user.agents.values()
    assert info.disconnect_reason == models.DisconnectReason.CLIENT_INITIATED
    assert "speaking" not in user.states_of(info.sid)


def test_end_later_leaves_after_its_welcome(server: Server, agent: subprocess.Popen[str]) -> None:
    gone = models.ParticipantInfo.State.DISCONNECTED

    async def look(user: User, reads: Api) -> None:
        await heard(user, reads)
        await until(lambda: any(info.state == gone for info in user.agents.values()), "it left")

    with_user(server, wish("end", 5000), look)


def test_die_is_noticed_by_the_server_alone(server: Server, agent: subprocess.Popen[str]) -> None:
    gone = models.ParticipantInfo.State.DISCONNECTED

    async def look(user: User, _: Api) -> None:
        await until(lambda: user.states, "it came")
        await until(lambda: any(info.state == gone for info in user.agents.values()), "it was missed", 40)

    user = with_user(server, wish("die_after_join"), look)
    (info,) = user.agents.values()
    assert info.disconnect_reason == models.DisconnectReason.CONNECTION_TIMEOUT
    assert "speaking" not in user.states_of(info.sid)


def test_rejoin_is_the_same_agent_under_a_new_sid(server: Server, agent: subprocess.Popen[str]) -> None:
    user = with_user(server, wish("rejoin"), heard)
    first, second = user.agents.values()
    assert first.identity == second.identity
    assert first.sid != second.sid
    assert user.states_of(first.sid) == ["listening"]
    assert user.audible()


def test_duplicate_is_two_of_it(server: Server, agent: subprocess.Popen[str]) -> None:
    async def look(user: User, _: Api) -> None:
        await until(lambda: user.has_spoken(2), "two welcomes")
        await until(lambda: len(user.texts) == 2, "two transcripts")

    user = with_user(server, wish("duplicate"), look)
    first, second = user.agents.values()
    assert first.identity != second.identity
    assert {info.attributes["lk.agent.name"] for info in (first, second)} == {"welcome"}


def test_bystander_is_another_one_that_only_listens(server: Server, agent: subprocess.Popen[str]) -> None:
    async def look(user: User, reads: Api) -> None:
        await heard(user, reads)
        await until(lambda: len(user.agents) == 2, "the bystander")

    user = with_user(server, wish("bystander"), look)
    other = next(info for info in user.agents.values() if info.attributes["lk.agent.name"] != "welcome")
    assert set(user.states_of(other.sid)) <= {"listening"}
    assert user.texts == [("lk.transcription", WELCOME)]


async def agent_alone(server: Server, metadata: str, after: Callable[[str, Api], Any]) -> None:
    """A room that asks for the agent, with nobody in it."""
    http_url = server.url.replace("ws", "http")
    reads = Api(http_url, Keys(server.api_key, server.api_secret))
    client = api.LiveKitAPI(http_url, server.api_key, server.api_secret)
    room = new_room()
    try:
        request = api.CreateRoomRequest(name=room)
        request.agents.append(api.RoomAgentDispatch(agent_name="welcome", metadata=metadata))
        await client.room.create_room(request)
        await after(room, reads)
        await reads.delete_room(room)
    finally:
        await client.aclose()
        await reads.close()


async def state_in(reads: Api, room: str) -> str:
    views = [view.agent_state for view in await reads.participants(room) if view.agent]
    return views[0] if views else ""


def test_alone_it_waits_and_welcomes_who_comes(server: Server, agent: subprocess.Popen[str]) -> None:
    async def after(room: str, reads: Api) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while await state_in(reads, room) != "listening":
            assert time.monotonic() < deadline, "it did not come"
            await asyncio.sleep(0.1)
        for _ in range(10):
            await asyncio.sleep(0.2)
            assert await state_in(reads, room) == "listening"
        user = User(server, room, None)
        await user.join()
        try:
            await heard(user, reads)
        finally:
            await user.leave()
        assert user.audible()

    asyncio.run(agent_alone(server, "", after))


def test_eager_speaks_to_nobody(server: Server, agent: subprocess.Popen[str]) -> None:
    async def after(room: str, reads: Api) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while await state_in(reads, room) != "speaking":
            assert time.monotonic() < deadline, "it did not speak"
            await asyncio.sleep(0.1)

    asyncio.run(agent_alone(server, wish("eager"), after))


def test_a_deleted_dispatch_sends_it_away(server: Server, agent: subprocess.Popen[str]) -> None:
    async def look(user: User, reads: Api) -> None:
        await heard(user, reads)
        deadline = time.monotonic() + DEADLINE_S
        while not (found := (await reads.dispatches(user.room))[0]).jobs:
            assert time.monotonic() < deadline, "no job was listed"
            await asyncio.sleep(0.1)
        client = api.LiveKitAPI(server.url.replace("ws", "http"), server.api_key, server.api_secret)
        await client.agent_dispatch.delete_dispatch(found.dispatch_id, user.room)
        await client.aclose()
        gone = models.ParticipantInfo.State.DISCONNECTED
        await until(lambda: any(info.state == gone for info in user.agents.values()), "it left")

    user = with_user(server, "", look)
    (info,) = user.agents.values()
    assert info.disconnect_reason == models.DisconnectReason.CLIENT_INITIATED


# --- the command -----------------------------------------------------------------------------------


def test_the_unnamed_agent_comes_unasked(server: Server) -> None:
    running = start_agent(server, "--agent-name", "")
    assert running.stdout is not None
    assert running.stdout.readline() == "ready 1 worker\n"

    async def play() -> None:
        user = User(server, new_room(), None)
        await user.join()
        try:
            await until(user.has_spoken, "a welcome of the unnamed agent")
        finally:
            await user.leave()

    try:
        asyncio.run(play())
    finally:
        running.send_signal(signal.SIGINT)
    assert ended(running) == (0, "", "")


def test_told_to_end_it_leaves_its_rooms_first(server: Server) -> None:
    running = start_agent(server, "--agent-name", "short")
    assert running.stdout is not None
    assert running.stdout.readline() == "ready 1 worker\n"
    gone = models.ParticipantInfo.State.DISCONNECTED

    async def play() -> User:
        user = User(server, new_room(), AgentRequest("short", wish("freeze")))
        await user.join()
        try:
            await until(lambda: user.states, "it came")
            running.send_signal(signal.SIGTERM)
            await until(lambda: any(info.state == gone for info in user.agents.values()), "it left")
        except BaseException:
            running.kill()
            raise
        finally:
            await user.leave()
        return user

    (info,) = asyncio.run(play()).agents.values()
    assert info.disconnect_reason == models.DisconnectReason.CLIENT_INITIATED
    assert ended(running) == (0, "", "")


def test_a_wrong_key_is_one_line(server: Server) -> None:
    code, out, err = ended(start_agent(server, LIVEKIT_API_SECRET="x" * 40))
    assert (code, out) == (12, "")
    assert err.count("\n") == 1
    assert "HTTP 401" in err
    assert "x" * 40 not in err


def test_no_keys_is_one_line(server: Server) -> None:
    code, out, err = ended(start_agent(server, LIVEKIT_API_KEY=""))
    assert (code, out, err.count("\n")) == (12, "", 1)


@pytest.mark.parametrize("url", ["http//nothing", "ws://", "ftp://127.0.0.1"])
def test_a_wrong_url_is_one_line(server: Server, url: str) -> None:
    code, out, err = ended(start_agent(server, "--url", url))
    assert (code, out, err.count("\n")) == (12, "", 1)


def test_nothing_listening_is_one_line(server: Server) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        code, out, err = ended(start_agent(server, "--url", f"ws://127.0.0.1:{probe.getsockname()[1]}"))
    assert (code, out, err.count("\n")) == (12, "", 1)
    assert "connection refused" in err


def test_a_server_that_says_nothing_is_given_up(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        code, out, err = ended(start_agent(server, "--url", f"ws://127.0.0.1:{mute.getsockname()[1]}"))
    assert (code, out, err.count("\n")) == (12, "", 1)
    assert "within 10 s" in err


def test_a_server_that_goes_away_ends_it(tmp_path: Path) -> None:
    with Server(find_or_build(None, print), tmp_path / "server.log") as short:
        running = start_agent(short, "--workers", "2")
        assert running.stdout is not None
        assert running.stdout.readline() == "ready 2 workers\n"
    code, _, err = ended(running)
    assert (code, err.count("\n")) == (1, 1)
    assert "went away" in err
