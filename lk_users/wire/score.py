"""The server's score of a user's connection."""

from __future__ import annotations

from typing import Final

# From worst to best.
SCORES: Final = ("lost", "poor", "good", "excellent")


class WorstScore:
    """The worst of all that came."""

    def __init__(self) -> None:
        self.name = ""
        """One of ``SCORES``; empty as long as none came."""

    def take(self, name: str) -> bool:
        """Is it worse than all before? Of one that only a newer server has nobody can say how good it is."""
        worse = SCORES[: SCORES.index(self.name)] if self.name else SCORES
        if name not in worse:
            return False
        self.name = name
        return True
