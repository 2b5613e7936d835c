"""A true burst of LiveKit users, each waiting for its agent's welcome.

The names that a locustfile imports, loaded on first use: ``import lk_users`` alone must patch nothing,
since ``import locust`` patches the whole process (gevent).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lk_users.version import VERSION as __version__  # noqa: N811

if TYPE_CHECKING:
    from lk_users.settings.run import Settings
    from lk_users.user import AgentUser

__all__ = ["AgentUser", "Settings", "__version__"]


def __getattr__(name: str) -> object:
    if name == "AgentUser":
        from lk_users.user import AgentUser

        return AgentUser
    if name == "Settings":
        from lk_users.settings.run import Settings

        return Settings
    raise AttributeError(f"module 'lk_users' has no attribute {name!r}")
