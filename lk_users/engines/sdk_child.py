"""Up to 25 users on the official ``livekit`` package, in a process of their own: ``python -m`` this.

Nothing here is patched and nothing is a favour: default options, public events, and the moment of each is
when this client's Python learned of it. It speaks ``sdk_lines`` over stdin and stdout, and ends when stdin
does, so it never outlives its worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
import traceback
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from livekit import rtc
from livekit.rtc.participant import PublishTrackError

from lk_users.clock import NS_PER_MS, SystemClock
from lk_users.engines import sdk_seam
from lk_users.engines.sdk_lines import Lines, from_view, line, shown
from lk_users.evidence import ON_BEHALF_ATTRIBUTE, ParticipantView
from lk_users.wire.loudness import LoudnessGate
from lk_users.wire.names import disconnect_reason
from lk_users.wire.score import WorstScore
from lk_users.wire.text_stream import CHAT, FINAL_ATTRIBUTE, SEGMENT_ATTRIBUTE, TEXT_BYTES, TRANSCRIPTION

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from lk_users.clock import Clock

    Say = Callable[[dict[str, Any]], None]

MIC_RATE_HZ: Final = 48_000
# How often a track is asked for its first packet, of which the SDK tells nothing by itself.
PACKET_LOOK_S: Final = 0.5
# A room's sid can come after the join.
ROOM_SID_S: Final = 1.0
# How long a user who leaves in mid-join waits for its end.
JOIN_END_S: Final = 2.0
_AGENT: Final = rtc.ParticipantKind.PARTICIPANT_KIND_AGENT
_DISCONNECTED: Final = "disconnected"


class Guest:
    """One user."""

    def __init__(self, url: str, token: str, mic: str, clock: Clock, say: Say) -> None:
        self._url = url
        self._token = token
        self._with_microphone = mic == "silence"
        self._microphone: rtc.LocalAudioTrack | None = None
        self._clock = clock
        self._say = say
        self._tasks: set[asyncio.Task[None]] = set()
        self._joining: asyncio.Task[None] | None = None
        self._score = WorstScore()
        self._heard: set[str] = set()
        self._room = room = rtc.Room()
        # Before the join: what comes without a handler is dropped.
        for topic in (TRANSCRIPTION, CHAT):
            room.register_text_stream_handler(topic, self._text_opened)
        room.on("participant_connected", self._changed)
        room.on("participant_active", self._changed)
        room.on("participant_disconnected", self._gone)
        room.on("participant_attributes_changed", lambda changed, who: self._changed(who))
        room.on("track_published", lambda publication, who: self._changed(who))
        room.on("track_unpublished", lambda publication, who: self._changed(who))
        room.on("track_subscribed", lambda track, publication, who: self._listen(who))
        room.on("transcription_received", self._transcribed)
        room.on("connection_quality_changed", self._scored)
        room.on("reconnecting", lambda: self._tell("reconnecting"))
        room.on("reconnected", lambda: self._tell("reconnected"))
        room.on("disconnected", self._disconnected)

    def join(self) -> None:
        self._joining = self._start(self._join())

    async def leave(self) -> None:
        for task in self._tasks - {self._joining}:
            task.cancel()
        if self._joining is not None and not self._joining.done():
            # Cancelled, the native side would join all the same, with nobody left to leave.
            await asyncio.wait({self._joining}, timeout=JOIN_END_S)
        await self._room.disconnect()
        self._tell("left", cpu_s=time.process_time())

    async def _join(self) -> None:
        self._tell("joining")
        room = self._room
        try:
            await room.connect(self._url, self._token)
        except rtc.ConnectError as exc:
            self._tell("join_failed", cause=shown(exc.message))
            return
        at_ns = self._clock.monotonic_ns()
        others = list(room.remote_participants.values())
        views = [from_view(_view(other)) for other in others]
        own = from_view(_view(room.local_participant))
        room_sid = ""
        with contextlib.suppress(TimeoutError, RuntimeError):
            room_sid = await asyncio.wait_for(room.sid, ROOM_SID_S)
        self._tell("connected", at_ns=at_ns, own=own, room_sid=room_sid, others=views)
        # Who was there before gets no event of its own.
        for other in others:
            self._listen(other)
        if self._with_microphone:
            await self._publish()

    async def _publish(self) -> None:
        """A microphone in which nobody speaks: the SDK itself sends the silence."""
        source = rtc.AudioSource(MIC_RATE_HZ, 1)
        self._microphone = rtc.LocalAudioTrack.create_audio_track("microphone", source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE, dtx=True)
        try:
            await self._room.local_participant.publish_track(self._microphone, options)
        except PublishTrackError as exc:
            self._tell("facts", facts={"mic": f"not published: {shown(exc.message)}"})
        else:
            self._tell("facts", facts={"mic": "silence"})

    def _changed(self, who: rtc.Participant) -> None:
        if isinstance(who, rtc.RemoteParticipant):
            self._tell("participant", view=from_view(_view(who)))
            self._listen(who)

    def _gone(self, who: rtc.RemoteParticipant) -> None:
        self._tell("participant", view=from_view(_view(who, _DISCONNECTED)))

    def _disconnected(self, reason: rtc.DisconnectReason.ValueType) -> None:
        self._tell("disconnected", reason=disconnect_reason(reason))

    def _scored(self, who: rtc.Participant | None, quality: rtc.ConnectionQuality) -> None:
        name = quality.name.removeprefix("QUALITY_").lower()
        if isinstance(who, rtc.LocalParticipant) and self._score.take(name):
            self._tell("facts", facts={"worst_quality": name})

    # Hearing.

    def _listen(self, who: rtc.RemoteParticipant) -> None:
        """To each microphone of an agent, or of a participant on its behalf, that reaches us."""
        if who.kind != _AGENT and ON_BEHALF_ATTRIBUTE not in who.attributes:
            return
        for sid in _microphones(who):
            track = who.track_publications[sid].track
            if track is not None and sid not in self._heard:
                self._heard.add(sid)
                self._tell("subscribed", sid=who.sid)
                packets = self._start(self._look_for_packets(who.sid, track))
                self._start(self._hear(who.sid, track, packets))

    async def _hear(self, owner: str, track: rtc.RemoteTrack, packets: asyncio.Task[None]) -> None:
        gate = LoudnessGate()
        stream = rtc.AudioStream(track)
        received = measured = False
        try:
            async for event in stream:
                frame = event.frame
                samples = np.frombuffer(frame.data, np.int16)
                # Until the first packet the SDK plays digital silence: nothing that was received.
                received = received or bool(samples.any())
                if not received:
                    continue
                now_ns = self._clock.monotonic_ns()
                onset = gate.hear(samples, frame.samples_per_channel / frame.sample_rate, now_ns)
                if gate.loud_since_ns and not measured:
                    measured = True
                    self._start(self._measure(track, gate.loud_since_ns))
                if onset is not None:
                    packets.cancel()
                    self._tell("packet", sid=owner)
                    self._tell("audible", sid=owner, onset=asdict(onset))
                    return
        finally:
            self._tell("facts", facts={"loudest_dbfs": round(gate.loudest_dbfs, 1)})
            self._start(stream.aclose())

    async def _measure(self, track: rtc.RemoteTrack, heard_ns: int) -> None:
        """The client's own delay, from a packet's arrival to its sound here.

        Exact where the sound is that of the only packet so far, since the statistics stamp the last one;
        beside it the jitter buffer's own average (W3C: jitterBufferDelay / jitterBufferEmittedCount).
        """
        inbound = await _inbound(track)
        if inbound is None:
            return
        facts = {}
        stream = inbound.inbound
        if stream.jitter_buffer_emitted_count:
            waited_s = stream.jitter_buffer_delay / stream.jitter_buffer_emitted_count
            facts["jitter_buffer_ms"] = round(1000 * waited_s, 1)
        if inbound.received.packets_received == 1:
            heard_wall_ns = self._clock.wall_ns() - (self._clock.monotonic_ns() - heard_ns)
            delay_ms = heard_wall_ns / NS_PER_MS - stream.last_packet_received_timestamp
            facts["receive_delay_ms"] = round(delay_ms, 1)
        self._tell("facts", facts=facts)

    async def _look_for_packets(self, owner: str, track: rtc.RemoteTrack) -> None:
        while True:
            await asyncio.sleep(PACKET_LOOK_S)
            stats = await _inbound(track)
            if stats is not None and stats.received.packets_received:
                self._tell("packet", sid=owner)
                return

    # Reading.

    def _text_opened(self, reader: rtc.TextStreamReader, sender: str) -> None:
        self._start(self._read(reader, sender))

    async def _read(self, reader: rtc.TextStreamReader, sender: str) -> None:
        so_far, told = "", False
        with contextlib.suppress(ConnectionError):
            async for text in reader:
                so_far = (so_far + text)[:TEXT_BYTES]
                told = self._tell_text(reader, sender, so_far)
        # A stream of single words only says at its end that it was the final text.
        if so_far and not told:
            self._tell_text(reader, sender, so_far)

    def _tell_text(self, reader: rtc.TextStreamReader, sender: str, text: str) -> bool:
        """All of a stream so far. Was it final?"""
        info = reader.info
        attributes = info.attributes or {}
        final = attributes.get(FINAL_ATTRIBUTE) == "true"
        segment = f"stream {attributes.get(SEGMENT_ATTRIBUTE) or info.stream_id}"
        self._tell("text", topic=info.topic, sender=sender, text=text, final=final, segment=segment)
        return final

    def _transcribed(self, segments: list[rtc.TranscriptionSegment], who: rtc.Participant | None) -> None:
        if segments:
            text = " ".join(segment.text for segment in segments)
            sender = who.identity if who is not None else ""
            last = segments[-1]
            self._tell(
                "text", topic=TRANSCRIPTION, sender=sender, text=text, final=last.final,
                segment=f"packet {last.id}",
            )  # fmt: skip

    # Telling.

    def _tell(self, what: str, **facts: Any) -> None:
        self._say({"is": what, "at_ns": self._clock.monotonic_ns(), **facts})

    def _start(self, doing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _microphones(who: rtc.RemoteParticipant) -> tuple[str, ...]:
    return tuple(
        publication.sid
        for publication in who.track_publications.values()
        if publication.kind == rtc.TrackKind.KIND_AUDIO
        and publication.source == rtc.TrackSource.SOURCE_MICROPHONE
    )


def _view(who: rtc.Participant, state: str = "") -> ParticipantView:
    joined_at, reason = who.joined_at, who.disconnect_reason
    return ParticipantView(
        sid=who.sid,
        identity=who.identity,
        agent=who.kind == _AGENT,
        state=state or rtc.ParticipantState.Name(who.state).removeprefix("PARTICIPANT_STATE_").lower(),
        joined_at_ms=round(joined_at.timestamp() * 1000) if joined_at is not None else 0,
        attributes=who.attributes,
        microphones=_microphones(who) if isinstance(who, rtc.RemoteParticipant) else (),
        disconnect_reason="unknown_reason" if reason is None else disconnect_reason(reason),
    )


async def _inbound(track: rtc.RemoteTrack) -> Any:
    """The track's inbound RTP statistics, None where it has none."""
    for stats in await track.get_stats():
        if stats.HasField("inbound_rtp"):
            return stats.inbound_rtp
    return None


async def serve(orders: int, out: Any) -> None:
    """Follow the orders that come by the file descriptor ``orders``, until it ends."""
    loop = asyncio.get_running_loop()
    clock = SystemClock()
    transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, out)
    guests: dict[int, Guest] = {}
    leaving: set[asyncio.Task[None]] = set()

    def obey(order: dict[str, Any]) -> None:
        seat, do = order["seat"], order["do"]

        def say(message: dict[str, Any]) -> None:
            transport.write(line({"seat": seat, **message}))

        if do == "build":
            guests[seat] = Guest(order["url"], order["token"], order["mic"], clock, say)
            say({"is": "built"})
        elif do == "join":
            guests[seat].join()
        elif do == "leave":
            task = loop.create_task(guests.pop(seat).leave())
            leaving.add(task)
            task.add_done_callback(leaving.discard)

    def read() -> None:
        # A thread of its own, so that the end of the worker ends us also where the loop hangs.
        lines = Lines()
        try:
            while data := os.read(orders, 1 << 16):
                for order in lines.feed(data):
                    loop.call_soon_threadsafe(obey, order)
        except Exception:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    transport.write(line({"is": "ready", "sdk": rtc.__version__}))
    await asyncio.Event().wait()


def main() -> None:
    # Whatever prints shall not print into the lines.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    sdk_seam.load()
    asyncio.run(serve(sys.stdin.fileno(), out))


if __name__ == "__main__":
    main()
