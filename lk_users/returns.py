"""What the workers returned of the round under way, and what it came to. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lk_users.course import RoundResult
from lk_users.verdict import void_reasons

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lk_users.course import Round
    from lk_users.health import Trailer
    from lk_users.record import Record
    from lk_users.settings.run import Settings


class Returns:
    """Records and last words, each kept once however often it is sent."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._records: dict[str, Record] = {}
        self._trailers: dict[str, Trailer] = {}

    def begin(self) -> None:
        """A round of its own: nothing of the last one counts any more."""
        self._records.clear()
        self._trailers.clear()

    def records(self, records: Iterable[Record]) -> None:
        self._records |= {record.session_id: record for record in records}

    def trailer(self, trailer: Trailer) -> None:
        self._trailers[trailer.worker] = trailer

    def result(self, number: int, of: Round) -> RoundResult:
        """What came late, of an earlier round, is left out."""
        records = tuple(
            sorted((one for one in self._records.values() if one.burst == number), key=lambda r: r.sort_key())
        )
        trailers = [trailer for trailer in self._trailers.values() if trailer.burst == number]
        reasons = void_reasons(records, trailers, of.users, self._settings)
        return RoundResult(number, of, records, tuple(dict.fromkeys(reasons)))
