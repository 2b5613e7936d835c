"""What a worker and its SDK children say to each other: JSON, a line each. Pure; both sides import it.

To a child, by seat: ``build`` (with ``url`` and ``token``), ``join``, ``leave``. From a child: ``ready``
once, and by seat ``built``, ``joining``, ``connected``, ``join_failed``, ``participant``, ``subscribed``,
``packet``, ``audible``, ``text``, ``facts`` (for the record's evidence), ``reconnecting``,
``reconnected``, ``disconnected``, ``left`` (with the child's CPU so far).
``at_ns`` is when it happened on the monotonic clock, which is the same in all processes of a machine.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

from lk_users.evidence import ParticipantView

# A JSON web token: a server that refuses one may quote it, and the SDK then has it in its error.
_TOKEN = re.compile(r"\beyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?")
_SHOWN = 300


class Lines:
    """Cuts what comes out of a pipe into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that are complete with ``data``. Raises ValueError on what is none."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("a line that is no message")
        return messages


def line(message: dict[str, Any]) -> bytes:
    """One message, with its newline."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def from_view(view: ParticipantView) -> dict[str, Any]:
    return asdict(view)


def to_view(data: dict[str, Any]) -> ParticipantView:
    return ParticipantView(**{**data, "microphones": tuple(data["microphones"])})


def shown(text: str) -> str:
    """A foreign text as it may be kept: one line, not too long, without tokens."""
    return " ".join(_TOKEN.sub("…", text).split())[:_SHOWN]
