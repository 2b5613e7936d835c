"""What a run says of this machine's calibration, once: that it is not of this machine, or is exceeded."""

from __future__ import annotations

import logging

from lk_users import capacity
from lk_users.machine import Identity
from lk_users.sizing import USERS_A_PROCESS

logger = logging.getLogger(__name__)


class Carries:
    """Of one process in one run."""

    def __init__(self) -> None:
        self._known: capacity.Known | None = None
        self._said = ""

    def excess(self, users: int) -> str:
        """In words, and said before T0: that so many users are more than was calibrated here; else empty."""
        if self._known is None:
            self._known = capacity.load(Identity.here(), capacity.path())
            if self._known.ignored:
                logger.info("%s", self._known.ignored)
        found = self._known.capacity
        excess = found.excess(users, USERS_A_PROCESS) if found is not None else ""
        if excess and excess != self._said:
            logger.warning(
                "%s: its loop may lag, and a run that stalls is void. More --processes or machines would do",
                excess,
            )
            self._said = excess
        return excess
