"""A real agent that greets, and needs nothing but a LiveKit server: no cloud, no models, no other keys.

Each job is an ``AgentSession`` that says one sentence as soon as it is entered. Its voice is made here, so a
burst measures the way to an agent and not a provider of speech. Settings, all from the environment:

    LIVEKIT_URL, LIVEKIT_API_KEY, LIVEKIT_API_SECRET   the server
    LIVEKIT_AGENT_NAME      name to register under; without one it is the unnamed agent
    GREETER_LOAD_THRESHOLD  take no job from this load on; without it livekit-agents' own (0.7)
    GREETER_HTTP            host:port of its own HTTP endpoint, default :8081 (every interface)

A job's metadata may ask it to do wrong, in the words of lk-users' reference agent:
``{"lk": {"fault": "slow_welcome", "delay_ms": 2000}}``, ``silent``, or ``eager``: it speaks at once, listener
or not, and its track comes ``delay_ms`` into the speech.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from livekit import rtc
from livekit.agents import Agent, AgentServer, AgentSession, JobContext, cli

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

GREETING = "Hello, this is a real agent speaking."
RATE_HZ = 24_000
FRAME = RATE_HZ // 50
SPEECH_S = 2.0
SYLLABLES_PER_S = 4.0
PITCH_HZ = 140.0
LEVEL = 9_000.0


def voice() -> np.ndarray:
    """Like a voice: a pitch with overtones, loud and soft four times a second."""
    t = np.arange(int(SPEECH_S * RATE_HZ)) / RATE_HZ
    tone = sum(np.sin(2 * np.pi * PITCH_HZ * n * t) / n for n in range(1, 9))
    syllables = np.abs(np.sin(np.pi * SYLLABLES_PER_S * t)) ** 0.5
    sound = tone * syllables
    return (LEVEL * sound / np.abs(sound).max()).astype(np.int16)


# Made as a job's process is warmed up: under load, making it in the job would delay the greeting.
VOICE = voice()


async def frames() -> AsyncIterator[rtc.AudioFrame]:
    """The voice in frames of 20 ms."""
    for start in range(0, len(VOICE), FRAME):
        piece = VOICE[start : start + FRAME]
        yield rtc.AudioFrame(piece.tobytes(), RATE_HZ, 1, len(piece))


class Greeter(Agent):
    """Says its greeting, then listens for good."""

    def __init__(self, fault: str, delay_s: float) -> None:
        super().__init__(instructions="Greet.")
        self._fault = fault
        self._delay_s = delay_s

    async def on_enter(self) -> None:
        if self._fault == "slow_welcome":
            await asyncio.sleep(self._delay_s)
        if self._fault != "silent":
            self.session.say(GREETING, audio=frames())


async def speak_too_early(room: rtc.Room, delay_s: float) -> None:
    """By hand: what an ``AgentSession`` says waits until somebody can hear it."""
    await room.local_participant.set_attributes({"lk.agent.state": "speaking"})
    await asyncio.sleep(delay_s)
    source = rtc.AudioSource(RATE_HZ, 1)
    track = rtc.LocalAudioTrack.create_audio_track("greeting", source)
    microphone = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
    await room.local_participant.publish_track(track, microphone)
    for start in range(round(delay_s * RATE_HZ), len(VOICE), FRAME):
        piece = VOICE[start : start + FRAME]
        await source.capture_frame(rtc.AudioFrame(piece.tobytes(), RATE_HZ, 1, len(piece)))
    await room.local_participant.set_attributes({"lk.agent.state": "listening"})


def fault_of(metadata: str) -> tuple[str, float]:
    """What a job asks for: the fault's name, empty for none, and its delay in seconds."""
    try:
        asked: Any = json.loads(metadata or "{}")
    except ValueError:
        return "", 0.0
    asked = asked.get("lk") if isinstance(asked, dict) else None
    if not isinstance(asked, dict):
        return "", 0.0
    return str(asked.get("fault", "")), float(asked.get("delay_ms", 0)) / 1000


def server_from(environ: Mapping[str, str]) -> AgentServer:
    """A worker as the environment asks for it; what it does not name stays livekit-agents' own."""
    options: dict[str, object] = {}
    try:
        if threshold := environ.get("GREETER_LOAD_THRESHOLD"):
            options["load_threshold"] = float(threshold)
        if http := environ.get("GREETER_HTTP"):
            host, _, port = http.rpartition(":")
            options |= {"host": host, "port": int(port)}
    except ValueError as error:
        fault = f"GREETER_LOAD_THRESHOLD, GREETER_HTTP: {error}; for example 0.7 and 127.0.0.1:8081"
        raise SystemExit(fault) from None
    return AgentServer(**options)


server = server_from(os.environ)


@server.rtc_session()
async def greet(ctx: JobContext) -> None:
    fault, delay_s = fault_of(ctx.job.metadata)
    if fault == "eager":
        await ctx.connect()
        await speak_too_early(ctx.room, delay_s)
        return
    # Without these the session would look for models: a detector of speech, and of the end of a turn.
    session = AgentSession(vad=None, turn_handling={"turn_detection": "manual"})
    await session.start(Greeter(fault, delay_s), room=ctx.room)


if __name__ == "__main__":
    cli.run_app(server)
