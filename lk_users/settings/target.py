"""The LiveKit server that a run is against, from the environment alone."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lk_users.address import Address, safely_shown
from lk_users.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

LIVEKIT_SCHEMES: Final = ("ws", "wss", "http", "https")
URL_FORMS: Final = "must be ws://, wss://, http:// or https:// and a host, for example wss://lk.example.com"


@dataclass(frozen=True)
class Target(Address):
    """The LiveKit server, and what opens it. Shown anywhere only by ``shown_url`` and ``shown_key``.

    Where the user's own backend gives the tokens, key and secret may be empty, and the server unknown too.
    """

    key: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, *, needs_key: bool = True) -> Target:
        """From LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET. Raises Refused with every fault.

        ``needs_key``: False where a backend of the user's own makes the tokens; then none of the three is
        needed, but a key needs its secret and a URL all the same.
        """
        faults: list[str] = []
        url = environ.get("LIVEKIT_URL", "").strip()
        given = {name: environ.get(name, "").strip() for name in ("LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")}
        needs_key = needs_key or any(given.values())
        address = Address("", 0, tls=False)
        if url:
            try:
                address = Address.parse(url, LIVEKIT_SCHEMES)
            except ValueError:
                faults.append(f"LIVEKIT_URL {safely_shown(url)}: {URL_FORMS}")
        elif needs_key:
            faults.append("LIVEKIT_URL is not set: for example ws://127.0.0.1:7880, or run `make burst`")
        if needs_key:
            faults += [
                f"{name} is not set: export it in the environment of this process"
                for name, value in given.items()
                if not value
            ]
        if faults:
            raise Refused(faults)
        key, secret = given.values()
        return cls(address.host, address.port, address.tls, address.path, key, secret)

    @property
    def address(self) -> Address:
        """Without what opens it."""
        return Address(self.host, self.port, self.tls, self.path)

    @property
    def is_known(self) -> bool:
        """Was LIVEKIT_URL given?"""
        return bool(self.host)

    @property
    def has_key(self) -> bool:
        """Can the API be asked?"""
        return bool(self.key)

    @property
    def shown_url(self) -> str:
        """Without user info and query; empty where the server is not known."""
        return super().shown_url if self.host else ""

    @property
    def shown_key(self) -> str:
        """Empty where there is none."""
        return self.key[:4] + "…" if self.key else ""
