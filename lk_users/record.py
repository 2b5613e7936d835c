"""The record: all that is kept of one session, as one flat frozen value and one JSON line.

Marks are nanoseconds from the intended start on the session's own monotonic clock. Phases are intervals
between marks, a closed list: never stored, always derived, so that a report made from disk is the one that
was made live.
"""

from __future__ import annotations

import enum
import functools
import json
import re
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lk_users.errors import RecordError
from lk_users.outcome import OURS, Finding, is_lost, outcome_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_T = TypeVar("_T")

SCHEMA = 1
_JSON_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = MappingProxyType(
    {"str": str, "int": int, "float": (int, float), "bool": bool}
)


class Mark(enum.StrEnum):
    """A moment of a session, in the order in which a good one passes them."""

    FIRED = "fired"
    SESSION_CREATED = "session_created"
    DISPATCHED = "dispatched"
    CONNECTED = "connected"
    MEDIA_UP = "media_up"
    AGENT_JOINED = "agent_joined"
    AGENT_SEEN = "agent_seen"
    AGENT_ACTIVE = "agent_active"
    AGENT_READY = "agent_ready"
    AGENT_SPEAKING = "agent_speaking"
    AGENT_TRACK = "agent_track"
    FIRST_AUDIO = "first_audio"
    FIRST_TEXT = "first_text"
    TEXT_MATCHED = "text_matched"
    WELCOMED = "welcomed"


class Phase(enum.StrEnum):
    """An interval that somebody can be asked about."""

    SESSION_API = "session_api"
    DISPATCH_API = "dispatch_api"
    USER_JOIN = "user_join"
    MEDIA_SETUP = "media_setup"
    SERVER_QUEUE = "server_queue"
    ACCEPT_TO_JOIN = "accept_to_join"
    AGENT_START = "agent_start"
    SPEAK = "speak"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One session, from intended start to verdict."""

    run_id: str
    session_id: str
    burst: int
    """The number of its round: 1 is the first burst. 0 of the baseline before it, and of free users."""
    role: str = "burst"
    """What its round is for: ``baseline``, ``burst`` or ``control``."""
    ordinal: int
    batch: int = 1
    """The number of its batch in the burst; 1 is the first."""
    worker: str
    region: str
    engine: str
    agent_name: str
    dispatch: str
    order: str
    room: str
    intended_wall_ns: int
    """The intended start, T0 plus the session's offset, as Unix time. For display and database points."""
    decided_ns: int = 0
    """When the outcome stood, from the intended start."""
    deadline_ns: int = 0
    """``--session-timeout``, from the intended start: where a session that never got there counts."""
    marks_ns: dict[str, int] = field(default_factory=dict)
    joined_uncertainty_ns: int = 0
    """How far ``agent_joined``, placed from the server's clock, can be off either way."""
    created_at_ns: int = 0
    """Server clock: its dispatch was stored. 0: not known."""
    started_at_ns: int = 0
    """Server clock: the job was offered to the worker that took it. 0: not known."""
    joined_at_ns: int = 0
    """Server clock, whole milliseconds: the agent joined. 0: not known."""
    findings: dict[str, str] = field(default_factory=dict)
    """Finding → cause, in the order of :mod:`lk_users.outcome`."""
    evidence: dict[str, Any] = field(default_factory=dict)
    lag_ms: float = 0.0
    """The largest loop lag of its worker while it ran."""
    room_sid: str = ""
    dispatch_id: str = ""
    job_id: str = ""
    worker_id: str = ""
    participant_sid: str = ""
    agent_sid: str = ""
    agent_identity: str = ""
    schema: int = SCHEMA

    # Asked for in every table of a report.
    @cached_property
    def outcome(self) -> Finding:
        return outcome_of(Finding(name) for name in self.findings)

    @property
    def cause(self) -> str:
        return self.findings.get(self.outcome, "")

    @property
    def welcomed(self) -> bool:
        return Mark.WELCOMED in self.marks_ns

    @property
    def lost(self) -> bool:
        """Did the user get no welcome, for a reason that is not ours? An agent that came twice and never
        spoke counts too, whatever the outcome is called."""
        if self.outcome in OURS:
            return False
        return any(is_lost(Finding(name), welcomed=self.welcomed) for name in self.findings)

    @property
    def start_error_ns(self) -> int | None:
        """How far from its intended start the first byte left; None if none did."""
        return self.marks_ns.get(Mark.FIRED)

    @cached_property
    def phases_ns(self) -> Mapping[Phase, int]:
        """Every phase whose two ends are known. Never negative: clocks that cross give 0."""
        marks = self.marks_ns
        spans: dict[Phase, tuple[int | None, int | None]] = {
            Phase.SESSION_API: (marks.get(Mark.FIRED), marks.get(Mark.SESSION_CREATED)),
            Phase.DISPATCH_API: (marks.get(Mark.FIRED), marks.get(Mark.DISPATCHED)),
            Phase.USER_JOIN: (self._join_written_ns(), marks.get(Mark.CONNECTED)),
            Phase.MEDIA_SETUP: (marks.get(Mark.CONNECTED), marks.get(Mark.MEDIA_UP)),
            Phase.SERVER_QUEUE: (self.created_at_ns or None, self.started_at_ns or None),
            Phase.ACCEPT_TO_JOIN: (self.started_at_ns or None, self.joined_at_ns or None),
            Phase.AGENT_START: (marks.get(Mark.AGENT_JOINED), marks.get(Mark.AGENT_TRACK)),
            Phase.SPEAK: (
                marks.get(Mark.AGENT_TRACK),
                marks.get(Mark.FIRST_AUDIO, marks.get(Mark.FIRST_TEXT)),
            ),
        }
        return {
            phase: max(0, end - start)
            for phase, (start, end) in spans.items()
            if start is not None and end is not None
        }

    def _join_written_ns(self) -> int | None:
        """When the join left: with the first write, or once that was answered. To a server that only the
        backend's answer named it begins with opening the connection."""
        if self.order == "session-first":
            return self.marks_ns.get(Mark.SESSION_CREATED)
        if self.order == "dispatch-first":
            return self.marks_ns.get(Mark.DISPATCHED)
        return self.marks_ns.get(Mark.FIRED)

    def to_json(self) -> str:
        """One line, keys in the order of the fields."""
        # Not asdict: its deep copies cost three times what the line itself does.
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return json.dumps(values, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """The record of one line. Raises RecordError on anything else, and on another schema."""
        try:
            data = json.loads(line)
        except ValueError as exc:
            raise RecordError(f"not a JSON line: {line[:60]!r}") from exc
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: object) -> Record:
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise RecordError(f"not a record of schema {SCHEMA}: {str(data)[:60]!r}")
        record = build(cls, data)
        try:
            _ = record.outcome
        except ValueError as exc:
            raise RecordError(f"not a record: {exc}") from exc
        return record

    def sort_key(self) -> tuple[int, int, str]:
        return (self.burst, self.ordinal, self.session_id)


def build(kind: type[_T], data: Mapping[str, Any]) -> _T:
    """A dataclass from its fields. Raises RecordError where one is unknown, lacking or mistyped."""
    types = _annotations(kind)  # type: ignore[arg-type]
    unknown = data.keys() - types.keys()
    if unknown:
        raise RecordError(f"unknown fields {sorted(unknown)}")
    for name, value in data.items():
        if not _fits(value, *types[name]):
            raise RecordError(f"field {name} is {str(value)[:40]!r}, not {types[name][0]}")
    try:
        return kind(**data)
    except TypeError as exc:
        raise RecordError(f"not a {kind.__name__}: {exc}") from exc


@functools.cache
def _annotations(kind: type) -> Mapping[str, tuple[str, str]]:
    """Field → (its annotation, that of its values where it is a mapping, else empty)."""
    found = {}
    for one in fields(kind):
        annotation = str(one.type)
        match = re.fullmatch(r"(?:dict|Mapping)\[str, (\w+)\]", annotation)
        found[one.name] = (annotation, match[1] if match else "")
    return MappingProxyType(found)


def _fits(value: object, annotation: str, inner: str = "") -> bool:
    """Is ``value``, as it came from JSON, of the annotated type? Looks one level into mappings."""
    if inner:
        return isinstance(value, dict) and all(_fits(item, inner) for item in value.values())
    return isinstance(value, _JSON_TYPES.get(annotation, object))
