"""The name of the agent that is waited for."""

from __future__ import annotations

from typing import Final

# A backend may ask for an agent whose name only it knows: then any will do.
ANY_AGENT: Final = "*"
