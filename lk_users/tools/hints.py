"""What to check where no agent came, by what was found. Pure."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from lk_users.outcome import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lk_users.settings.run import Settings

_MEDIA: Final = (
    "UDP has to get from here to the server's media ports (50000-60000, or its rtc.udp_port); where it "
    "can't: --ice relay, with a TURN server that the server names",
)
_HINTS: Final[Mapping[Finding, tuple[str, ...]]] = MappingProxyType(
    {
        Finding.NEVER_ASSIGNED: (
            "a worker must be registered under exactly this name (case counts) with this server and key; its "
            "log says `registered worker`",
            "a worker takes no job from its load_threshold on: start it with `start`, and probe again when "
            "it rests; --agent-worker-url tells its load in a run",
            "an agent on LiveKit Cloud that sleeps needs 10 to 20 s to wake up: a longer --wait",
        ),
        Finding.REJECTED: (
            "the worker's request function declined the job; what it looks at may be in --metadata",
        ),
        Finding.ASSIGNED_NOT_JOINED: (
            "a worker took the job, and its process did not get into the room: see the agent's log for this "
            "job, and whether it calls ctx.connect()",
            "a first job waits for a process to start: probe again, or a longer --wait",
        ),
        Finding.SESSION_FAILED: (
            "your backend gave nothing to join with: see its log, and LK_SESSION_AUTHORIZATION, "
            "LK_SESSION_HEADERS and --session-body for what it expects",
        ),
        Finding.DISPATCH_FAILED: (
            "a server that makes no rooms by itself (room.auto_create: false) needs --dispatch room",
            "a 401 or 403: the key may not create dispatches",
        ),
        Finding.RATE_LIMITED: ("the project's API limit is used up: try again in a minute",),
        Finding.CONNECT_FAILED: (
            "a server that makes no rooms by itself (room.auto_create: false) needs --dispatch room",
        ),
        Finding.MEDIA_FAILED: _MEDIA,
        Finding.CLIENT_BLIND: (
            "the agent is there, and this server did not tell its user: probe again, and report it",
        ),
    }
)
_ANY: Final = "`lk-users preflight` with the same options looks at the server, the key and the way to it"


def hints(findings: Iterable[Finding], settings: Settings, waited_s: float) -> list[str]:
    """What to check, the likeliest first."""
    found = [hint for finding in findings for hint in _HINTS.get(finding, ())]
    if not settings.agent_name:
        found.insert(0, "without --agent-name the unnamed agent is asked for; if yours has a name, give it")
        found = [hint.replace("exactly this name (case counts)", "no name") for hint in found]
    if any("--wait" in hint for hint in found):
        found = [hint.replace("a longer --wait", f"a longer --wait (now {waited_s:g} s)") for hint in found]
    return [*found, _ANY]
