"""What every search for a limit is made of: one burst after another, each of an idle target. Pure.

A search is a course. What it asks for next follows from what its rounds came to, and from nothing else, so
the same rounds read back from disk give the same result: it is played anew each time.

Whether the target is idle again is asked of the target itself, as its user sees it: one session alone, a
probe. A server's queue and the workers' load can't be seen from outside everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from lk_users import slo
from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.course import Role, Round, RoundResult
from lk_users.errors import SearchStopped
from lk_users.record import Mark

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from lk_users.record import Record
    from lk_users.settings.run import Settings
    from lk_users.slo import Slo, SloResult

# A probe that takes more than so many times the fastest one, and this much more, found a target at work.
IDLE_FACTOR: Final = 2
IDLE_MARGIN_NS: Final = NS_PER_S // 2
# A round of one session takes some 4 s, so this is about how many seconds / 4 a target gets to recover.
PROBES: Final = 10
_CUT_SHORT: Final = "the run ended before its search did"


@dataclass(frozen=True)
class Probe:
    """One session alone. ``agent_joined_ns``: when its agent came; None if it never did."""

    burst: int
    agent_joined_ns: int | None
    ok: bool
    """Was the target idle?"""


@dataclass(frozen=True)
class Tried:
    """One burst that was tried, and whether its own sessions met every SLO."""

    burst: int
    round: Round
    repeat: int
    records: Sequence[Record]
    slo: tuple[SloResult, ...]

    @property
    def ok(self) -> bool:
        return all(result.ok for result in self.slo)


_S = TypeVar("_S", bound="Search")
_T = TypeVar("_T")
# Asks for a round, gets what it came to.
Asking: TypeAlias = "Generator[Round, RoundResult, _T]"


class Search:
    """A search under way: what it has tried, and its next step. ``slos``: what a burst has to meet;
    ``rest_s``: from a probe that found the target idle to the burst."""

    def __init__(self, slos: Sequence[Slo], rest_s: float) -> None:
        self._slos = slos
        self._rest_s = rest_s
        self.probes: list[Probe] = []
        self.tried: list[Tried] = []
        self.stopped = ""
        """Why it ended early, which makes it void; in words."""

    def news(self, done: Sequence[RoundResult]) -> str:
        """Of the last of these rounds, where it is worth a line."""
        number = done[-1].number if done else 0
        if self.tried and self.tried[-1].burst == number:
            tried = self.tried[-1]
            missed = [one.text for one in tried.slo if not one.ok]
            came_to = f"missed {'; '.join(missed)}" if missed else "met the SLOs"
            return f"burst {number}, {how_words(tried.round)}: {came_to}"
        if self.probes and self.probes[-1].burst == number and not self.probes[-1].ok:
            return "the target is not idle yet: one user alone had to wait for the agent; once more"
        return ""

    def steps(self) -> Asking[None]:
        """The whole search. Raises SearchStopped."""
        raise NotImplementedError

    def _try(self, wanted: Round, repeat: int) -> Asking[Tried]:
        """One burst of an idle target."""
        yield from self._settle()
        result = yield from self._run(replace(wanted, rest_s=self._rest_s))
        came_to = tuple(one.evaluate(result.records) for one in self._slos)
        for one in came_to:
            if one.missing:
                raise SearchStopped(f"{_words(result)}: no data for {one.text}: {one.missing}")
        tried = Tried(result.number, wanted, repeat, result.records, came_to)
        self.tried.append(tried)
        return tried

    def _settle(self) -> Asking[None]:
        """Until one session alone is served as fast as ever. Raises SearchStopped."""
        for _ in range(PROBES):
            result = yield from self._run(Round(Role.BASELINE, 1))
            joined_ns = _joined_ns(result.records)
            known = [probe.agent_joined_ns for probe in self.probes if probe.agent_joined_ns is not None]
            limit_ns = IDLE_FACTOR * min(known) + IDLE_MARGIN_NS if known else None
            ok = joined_ns is not None and (limit_ns is None or joined_ns <= limit_ns)
            self.probes.append(Probe(result.number, joined_ns, ok))
            if ok:
                return
        last_ns = self.probes[-1].agent_joined_ns
        seen = "without an agent" if last_ns is None else f"with its agent after {last_ns / NS_PER_MS:.0f} ms"
        before = f"after burst {self.tried[-1].burst}" if self.tried else "at the start"
        raise SearchStopped(
            f"the target was not idle {before}: {PROBES} users in a row, each alone, found it slow, the last "
            f"{seen}"
        )

    def _run(self, wanted: Round) -> Asking[RoundResult]:
        result = yield wanted
        if result.void_reasons:
            raise SearchStopped(f"{_words(result)} was void: {result.void_reasons[0]}")
        return result


class SearchCourse(Generic[_S]):
    """The rounds of a search. Of a run that was cut short, too."""

    def __init__(self, settings: Settings) -> None:
        """Raises Refused for SLOs that can't be read."""
        self._settings = settings
        self._slos = slo.parse(settings.slo)

    def next(self, done: Sequence[RoundResult]) -> Round | None:
        return self._played(done)[1]

    def void_reasons(self, done: Sequence[RoundResult]) -> Sequence[str]:
        _, stopped = self._ended(done)
        return (stopped,) if stopped else ()

    def news(self, done: Sequence[RoundResult]) -> str:
        return self._played(done)[0].news(done)

    def _search(self) -> _S:
        """One that has tried nothing yet."""
        raise NotImplementedError

    def _ended(self, done: Sequence[RoundResult]) -> tuple[_S, str]:
        """The search, and why it ended early: empty where it did not."""
        search, wanted = self._played(done)
        return search, search.stopped or _CUT_SHORT * (wanted is not None)

    def _played(self, done: Sequence[RoundResult]) -> tuple[_S, Round | None]:
        return play(self._search(), done)


def how_words(of: Round) -> str:
    """``40 users at once``, ``600 users in batches of 25 every 1 s``."""
    users = "1 user" if of.users == 1 else f"{of.users} users"
    if not of.batch_size:
        return f"{users} at once"
    return f"{users} in batches of {of.batch_size} every {of.batch_delay_s:g} s"


def play(search: _S, done: Sequence[RoundResult]) -> tuple[_S, Round | None]:
    """The search after these rounds, and the round that it asks for next; None when it is over."""
    steps = search.steps()
    try:
        wanted = next(steps)
        for result in done:
            _compare(wanted, result)
            wanted = steps.send(result)
    except StopIteration:
        return search, None
    except SearchStopped as why:
        search.stopped = str(why)
        return search, None
    return search, wanted


def _compare(wanted: Round, result: RoundResult) -> None:
    """Rounds that were run by other SLOs lead nowhere. Raises SearchStopped."""
    asked, ran = ((one.role, one.users, one.batch_size, one.batch_delay_s) for one in (wanted, result.round))
    if asked != ran:
        raise SearchStopped(
            f"burst {result.number} is not the one that these SLOs lead to: a search follows from its SLOs, "
            "so run it anew with them"
        )


def _words(result: RoundResult) -> str:
    if result.round.role is Role.BASELINE:
        return f"a user alone (round {result.number})"
    users = result.round.users
    return f"burst {result.number} ({'1 user' if users == 1 else f'{users} users'})"


def _joined_ns(records: Sequence[Record]) -> int | None:
    """When the one agent came."""
    return min(
        (r.marks_ns[Mark.AGENT_JOINED] for r in records if Mark.AGENT_JOINED in r.marks_ns), default=None
    )
