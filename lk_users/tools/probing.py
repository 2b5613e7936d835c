"""Which options a probe has. Imports next to nothing: the command line needs it at every start. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# Options of a run that make a session what it is; the rest is about many of them.
OPTIONS: Final = (
    "agent-name", "dispatch", "order", "session-url", "session-body", "mic", "ice", "metadata", "attributes",
    "room-metadata", "deployment", "restart-policy",
)  # fmt: skip


def given(options: Mapping[str, str]) -> list[tuple[str, str]]:
    """Those that are not empty or what a run has by itself, for a command line; by name without dashes."""
    plain = {"mic": "silence", "ice": "auto"}
    return [(name, options[name]) for name in OPTIONS if options[name] not in ("", plain.get(name))]
