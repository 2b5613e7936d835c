"""TURN: which of the servers that a join response names can be used, by the way that leads there."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from livekit.protocol import rtc as messages


class MediaWay(enum.StrEnum):
    """How media gets to the server, the best first."""

    HOST = "host"
    TURN_UDP = "turn-udp"
    TURN_TCP = "turn-tcp"
    TURN_TLS = "turn-tls"


RELAYED: tuple[MediaWay, ...] = (MediaWay.TURN_UDP, MediaWay.TURN_TCP, MediaWay.TURN_TLS)


@dataclass(frozen=True)
class Turn:
    """One TURN server, with a participant's own credentials for it."""

    way: MediaWay
    url: str
    username: str
    credential: str = field(repr=False)


def turns(servers: Iterable[messages.ICEServer]) -> list[Turn]:
    """The TURN servers among those of a join response, the best way first; STUN ones are not needed.

    A URL is ``turn:HOST[:PORT][?transport=udp|tcp]`` or ``turns:…`` (RFC 7065).
    """
    found = [
        Turn(way, url, server.username, server.credential)
        for server in servers
        for url in server.urls
        if (way := _way(url)) is not None
    ]
    return sorted(found, key=lambda turn: RELAYED.index(turn.way))


def _way(url: str) -> MediaWay | None:
    scheme = url.partition(":")[0]
    by_tcp = url.endswith("transport=tcp")
    if scheme == "turns":
        # TURN over DTLS, which nobody serves, would be the alternative.
        return None if url.endswith("transport=udp") else MediaWay.TURN_TLS
    if scheme == "turn":
        return MediaWay.TURN_TCP if by_tcp else MediaWay.TURN_UDP
    return None
