"""The user's own backend: the request that starts a session, and what its answer gives to join with.

The standard of LiveKit's token endpoints: POST with ``room_name``, ``participant_identity``,
``participant_attributes`` and ``room_config`` (a RoomConfiguration), all optional; the answer has
``server_url`` and ``participant_token``. Its messages are TokenSourceRequest and TokenSourceResponse of
livekit_token_source.proto, in protobuf's JSON: a field may come as ``serverUrl``, too.

Nothing in an answer is trusted: it becomes part of a request, and its token must never be shown.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from lk_users.address import Address
from lk_users.errors import BackendError
from lk_users.masking import masked
from lk_users.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lk_users.wire.api import AgentRequest
    from lk_users.wire.endpoint import Endpoint

SUCCESS: Final = range(200, 300)
SCHEMES: Final = ("ws", "wss", "http", "https")
URL_NAMES: Final = ("server_url", "serverUrl")
TOKEN_NAMES: Final = ("participant_token", "participantToken")
# A room configuration with metadata makes a token long; servers take headers of 64 kB at the very most.
MAX_TOKEN_CHARS: Final = 1 << 16
MAX_NAME_CHARS: Final = 512
# As every JWT begins: its first characters are '{"' in base64. What does not could not be masked.
_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_-]*\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")
_SHOWN_CHARS: Final = 80
_RESTART_POLICY: Final = MappingProxyType({"on-failure": "JRP_ON_FAILURE", "never": "JRP_NEVER"})


@dataclass(frozen=True)
class Backend:
    """Where it is asked, and what opens it."""

    endpoint: Endpoint
    path: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    allow_cloud: bool = False


@dataclass(frozen=True)
class Ticket:
    """With what, and where, a user joins."""

    address: Address
    token: str = field(repr=False)
    room: str
    """As the token says it; the backend need not take the name that it was asked for."""


def standard_body(
    room: str, identity: str, attributes: str, agent: AgentRequest | None, metadata: str
) -> bytes:
    """The standard's request. ``attributes``: JSON of an object of strings, or empty; ``metadata``: the
    room's. ``agent``: None where the backend knows by itself."""
    body: dict[str, Any] = {"room_name": room, "participant_identity": identity}
    if attributes:
        body["participant_attributes"] = json.loads(attributes)
    config: dict[str, Any] = {"metadata": metadata} if metadata else {}
    if agent is not None:
        config["agents"] = [_agent(agent)]
    return json.dumps({**body, "room_config": config} if config else body).encode()


def _agent(agent: AgentRequest) -> dict[str, str]:
    """A RoomAgentDispatch."""
    fields = {
        "agent_name": agent.agent_name,
        "metadata": agent.metadata,
        "deployment": agent.deployment,
        "restart_policy": _RESTART_POLICY.get(agent.restart_policy, ""),
    }
    return {name: value for name, value in fields.items() if value}


def headers(own: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The request's, with the user's ``own``, which win."""
    given = {name.lower() for name, _ in own}
    ours = (("Accept", "application/json"), ("User-Agent", f"lk-users/{VERSION}"))
    return [
        ("Content-Type", "application/json"),
        *((name, value) for name, value in ours if name.lower() not in given),
        *own,
    ]


def read_answer(body: bytes, *, allow_cloud: bool) -> Ticket:
    """What an answer gives. Raises BackendError, which says what would do, and shows no value of it."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise BackendError("its answer is no JSON") from None
    if not isinstance(answer, dict):
        raise BackendError("its answer is no JSON object")
    return read_ticket(_value(answer, URL_NAMES), _value(answer, TOKEN_NAMES), allow_cloud=allow_cloud)


def read_ticket(url: object, token: object, *, allow_cloud: bool) -> Ticket:
    """Raises BackendError."""
    if not isinstance(url, str) or not url:
        raise BackendError("server_url is no text")
    try:
        address = Address.parse(url.strip(), SCHEMES)
    except ValueError:
        address = None
    if address is None or not address.is_plain:
        raise BackendError("server_url is not ws:// or wss:// and a host")
    if address.cloud and not allow_cloud:
        raise BackendError(
            f"server_url leads to LiveKit Cloud ({_shown(address.host)}), where every session is billed: "
            "not joined without --allow-cloud yes"
        )
    return Ticket(address, *_read_token(token))


def _read_token(token: object) -> tuple[str, str]:
    """The token and its room. Its signature is the server's business."""
    match = _JWT.fullmatch(token.strip()) if isinstance(token, str) else None
    if match is None or len(match[0]) > MAX_TOKEN_CHARS:
        raise BackendError("participant_token is no JWT")
    try:
        claims = json.loads(base64.urlsafe_b64decode(match[1] + "=" * (-len(match[1]) % 4)))
        room = claims["video"]["room"]
    except (ValueError, KeyError, TypeError, RecursionError):
        room = None
    named = isinstance(room, str) and 0 < len(room) <= MAX_NAME_CHARS and room.isprintable()
    # A name that looks like a token could not be shown, and a record without its room is none.
    if not named or masked(room) != room:
        raise BackendError("participant_token names no room to join")
    return match[0], room


def _value(answer: dict[str, Any], names: Sequence[str]) -> object:
    """Of the first name that is there. Raises BackendError."""
    for name in names:
        if answer.get(name) is not None:
            return answer[name]
    there = ", ".join(_shown(name) for name in list(answer)[:5]) or "nothing"
    raise BackendError(f"its answer has no {names[0]} (it has {there})")


def _shown(text: str) -> str:
    """A foreign name on one line, not too long."""
    return " ".join(masked(text).split())[:_SHOWN_CHARS]
