"""What a report says of the users' own backend: the servers that it named, and what no key leaves unknown."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from lk_users.clock import NS_PER_MS
from lk_users.report import words
from lk_users.report.figures import spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lk_users.record import Record
    from lk_users.settings.run import Settings

SERVERS_SHOWN: Final = 3


def section(
    records: Sequence[Record], settings: Settings, target: Mapping[str, str]
) -> dict[str, Any] | None:
    """``servers``: those that tokens were for and LIVEKIT_URL did not name, by users; ``connect_ms``: the
    connections that were opened after the answer. None where tokens were of our own making."""
    if settings.dispatch != "backend":
        return None
    servers = Counter(str(one.evidence["server_url"]) for one in records if "server_url" in one.evidence)
    opened_ns = sorted(
        round(float(one.evidence["connect_ms"]) * NS_PER_MS)
        for one in records
        if "connect_ms" in one.evidence
    )
    return {
        "asked": "session-url" if settings.session_url is not None else "credentials",
        "api_key": bool(target.get("key")),
        "servers": dict(sorted(servers.items(), key=lambda item: (-item[1], item[0]))),
        "connect_ms": spread(opened_ns, (50, 99), n=True),
    }


def lines(summary: words.Summary) -> list[str]:
    """What of the times is not known, or is not the users' own."""
    found = summary["backend"]
    if found is None:
        return []
    told = []
    if words.lacks_key(summary):
        told.append(
            "The server's clock phases (server_queue, accept_to_join) and what became of jobs are not known: "
            "no API key. With LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET they are read afterwards."
        )
    opened = found["connect_ms"]
    if opened["n"]:
        told.append(
            f"{words.plural(opened['n'], 'user')} opened the connection to the server only once your "
            f"backend had named it, p50 {words.duration(opened['p50'])}, p99 "
            f"{words.duration(opened['p99'])} of user_join. Where LIVEKIT_URL is that server, it is open "
            "before T0."
        )
    url = summary["target"].get("url", "")
    others = [f"{name} ({count})" for name, count in found["servers"].items()][:SERVERS_SHOWN]
    if others and url:
        api = ", and what the API said is of the latter" if found["api_key"] else ""
        told.append(f"Tokens were for {', '.join(others)}, while LIVEKIT_URL is {url}{api}.")
    return told


def agent(summary: words.Summary) -> str:
    """Which agent was waited for, in words."""
    name = str(summary["settings"].get("agent-name", ""))
    return name or ("any" if summary["resolved"]["dispatch"] == "backend" else "the unnamed agent")
