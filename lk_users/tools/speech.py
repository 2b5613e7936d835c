"""From frames of sound to utterances: when somebody begins to speak, and for how long. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from lk_users.clock import NS_PER_S
from lk_users.wire.loudness import AUDIBLE_DBFS, AUDIBLE_S

# Between two sentences of one welcome; who is silent for longer has said what there was to say.
PAUSE_NS: Final = NS_PER_S


@dataclass(frozen=True)
class Utterance:
    """Sound without a pause of ``PAUSE_NS``; moments in ns on the monotonic clock."""

    began_ns: int
    ended_ns: int
    loudest_dbfs: float

    @property
    def length_s(self) -> float:
        return (self.ended_ns - self.began_ns) / NS_PER_S


class Speech:
    """The utterances of one participant's microphone."""

    def __init__(self) -> None:
        self._done: list[Utterance] = []
        self._now: Utterance | None = None

    def add(self, level_dbfs: float, length_s: float, at_ns: int) -> None:
        """One frame."""
        if level_dbfs < AUDIBLE_DBFS:
            return
        self._close(at_ns)
        end_ns = at_ns + round(length_s * NS_PER_S)
        if self._now is None:
            self._now = Utterance(at_ns, end_ns, level_dbfs)
        else:
            loudest_dbfs = max(self._now.loudest_dbfs, level_dbfs)
            self._now = replace(self._now, ended_ns=end_ns, loudest_dbfs=loudest_dbfs)

    def over(self, now_ns: int) -> tuple[Utterance, ...]:
        """Those that are over by now, without clicks."""
        self._close(now_ns)
        return tuple(item for item in self._done if item.length_s >= AUDIBLE_S)

    def all(self, now_ns: int) -> tuple[Utterance, ...]:
        """Also the one that goes on."""
        over = self.over(now_ns)
        return over if self._now is None else (*over, self._now)

    def _close(self, now_ns: int) -> None:
        if self._now is not None and now_ns - self._now.ended_ns >= PAUSE_NS:
            self._done.append(self._now)
            self._now = None
