"""Where a server is: what there is in a URL that is ours to use, and how it may be shown. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

CLOUD_SUFFIX: Final = ".livekit.cloud"
_SECURE: Final = ("wss", "https")
# Both go into a request as they are: nothing there may end a line, or be a character that needs coding.
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_PATH: Final = re.compile(r"(?:/[!-~]*)?")


@dataclass(frozen=True)
class Address:
    """A server's host, port and path."""

    host: str
    port: int
    tls: bool
    path: str = ""

    @classmethod
    def parse(cls, url: str, schemes: tuple[str, ...]) -> Address:
        """Of a URL of one of ``schemes``, without user info, query and fragment. Raises ValueError."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme not in schemes or not host or port == 0 or not url.isprintable():
            raise ValueError("not such a URL")
        tls = parts.scheme in _SECURE
        return cls(host, port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    @property
    def is_plain(self) -> bool:
        """Can host and path stand in a request as they are?"""
        return bool(_HOST.fullmatch(self.host) and _PATH.fullmatch(self.path))

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def http_url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.path}"

    @property
    def shown_url(self) -> str:
        """As LiveKit writes it, without user info and query."""
        return f"{'wss' if self.tls else 'ws'}://{self.authority}{self.path}"

    @property
    def cloud(self) -> bool:
        """Is it LiveKit Cloud?"""
        # A name may end in the dot of the root.
        return self.host.rstrip(".").lower().endswith(CLOUD_SUFFIX)


def http_url_fault(url: str, like: str) -> str:
    """Why ``url`` is not the address of an HTTP endpoint; empty if it is. ``like``: one that would do."""
    example = f"for example {like}"
    try:
        parts = urlsplit(url)
        named = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and " " not in url
        )
    except ValueError:
        named = False  # no such port, or a bracket that never closes
    if not named:
        return f"must be http:// or https://, a host and a port, {example}"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return f"must be without user, password and query, {example}"
    return ""


def safely_shown(url: str) -> str:
    """A URL that cannot be read, as it may be shown: without what may be user info or query."""
    head = re.split(r"[?#]", url, maxsplit=1)[0]
    if "@" in url[len(head) :]:
        return "…"  # where its password ends is anybody's guess
    return re.sub(r"^(.*//)?.*@", r"\1", head)
