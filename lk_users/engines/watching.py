"""Engine ``listen`` for one user who looks closely: it hears every frame, and names every track."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from livekit.protocol import models

from lk_users.engines.listen import ListenEngine
from lk_users.wire.audio import Decoder
from lk_users.wire.loudness import rms_dbfs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from livekit.protocol import rtc as messages

    from lk_users.engines.listen import Surroundings
    from lk_users.engines.port import EngineListener
    from lk_users.plan import PlannedSession
    from lk_users.settings.run import Settings


class Watcher(Protocol):
    """Who is told what no session needs to know."""

    def published(self, participant_sid: str, name: str, kind: str) -> None:
        """A track was published, or was there when we came. ``kind``: as ``audio, microphone``."""

    def frame(self, participant_sid: str, level_dbfs: float, length_s: float, at_ns: int) -> None:
        """A frame of a participant's microphone came at ``at_ns``, monotonic clock."""


class WatchingEngine(ListenEngine):
    """For one session at a time: it decodes all that it hears, which hundreds could not afford."""

    def __init__(
        self,
        planned: PlannedSession,
        settings: Settings,
        around: Surroundings,
        listener: EngineListener,
        watcher: Watcher,
    ) -> None:
        super().__init__(planned, settings, around, listener)
        self._watcher = watcher
        self._decoders: dict[str, Decoder] = {}
        self._named: set[str] = set()

    def signal(self, kind: str, response: messages.SignalResponse) -> None:
        super().signal(kind, response)
        if kind == "join":
            self._name_tracks(response.join.other_participants)
        elif kind == "update":
            self._name_tracks(response.update.participants)

    def packet(self, track_sid: str, payload: bytes, timestamp: int) -> None:
        super().packet(track_sid, payload, timestamp)
        owner = self._owners.get(track_sid)
        if owner is None or self._ended:
            return
        decoder = self._decoders.get(track_sid)
        if decoder is None:
            decoder = self._decoders[track_sid] = Decoder()
        now_ns = self._around.clock.monotonic_ns()
        for samples, length_s in decoder.frames(payload):
            self._watcher.frame(owner, rms_dbfs(samples), length_s, now_ns)

    def _enough(self, track_sid: str) -> None:
        """It is never enough: where its first words end is what we are here for."""

    def _name_tracks(self, participants: Iterable[models.ParticipantInfo]) -> None:
        for info in participants:
            if info.sid == self._own_sid:
                continue
            for track in info.tracks:
                if track.sid not in self._named:
                    self._named.add(track.sid)
                    kind = models.TrackType.Name(track.type).lower()
                    source = models.TrackSource.Name(track.source).lower()
                    self._watcher.published(
                        info.sid, track.name, kind if source == "unknown" else f"{kind}, {source}"
                    )
