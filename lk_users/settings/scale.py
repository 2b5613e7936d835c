"""What a search for limits is to try: sizes, delays and how often each, read from options. Pure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_N = TypeVar("_N", int, float)

AUTO: Final = "auto"
FIRST_SIZE: Final = 10
LADDER_REPEATS: Final = 3
# The one in the middle is searched; the smaller and the larger only have to beat it.
BATCH_SIZES: Final = (25, 10, 50)
# The course that each of the options is for; --repeats is for both.
COURSE_OF: Final = (("ladder-sizes", "ladder"), ("batch-sizes", "batches"), ("batch-delays", "batches"))
SEARCHES: Final = ("ladder", "batches")


@dataclass(frozen=True)
class Scale:
    """What a search tries; all empty in a run that is none."""

    ladder_sizes: tuple[int, ...] = ()
    """Ascending."""
    repeats: int = 1
    batch_sizes: tuple[int, ...] = ()
    """In the order in which they are tried."""
    batch_delays_s: tuple[float, ...] = ()
    """Empty: they are searched."""


def read_scale(text: Callable[[str], str], course: str, users: int | None, faults: list[str]) -> Scale:
    """From the texts of the options, by name. ``users``: None in a worker, which tries nothing by itself.
    Each fault becomes one line."""
    read = _Lists(text, faults)
    if course not in SEARCHES:
        read.refuse_foreign(course, "repeats")
        return Scale()
    read.refuse_foreign(course)
    repeats = read.repeats(LADDER_REPEATS if course == "ladder" else 1)
    if course == "ladder":
        sizes = read.sizes("ladder-sizes", users, "10,20,40") or ladder_sizes(users or 0)
        return Scale(ladder_sizes=tuple(sorted(sizes)), repeats=repeats)
    return Scale(
        batch_sizes=read.sizes("batch-sizes", users, "10,25,50") or batch_sizes(users or 0),
        batch_delays_s=read.delays("batch-delays"),
        repeats=repeats,
    )


def ladder_sizes(users: int) -> tuple[int, ...]:
    """10, 20, 40 … and ``users``."""
    doubled = itertools.takewhile(lambda size: size < users, (FIRST_SIZE << n for n in itertools.count()))
    return (*doubled, users)


def batch_sizes(users: int) -> tuple[int, ...]:
    """Those of ``BATCH_SIZES`` that make more than one batch; of few users the half."""
    return tuple(size for size in BATCH_SIZES if size < users) or (max(1, users // 2),)


def search_faults(course: str, release: str, bursts: int, batch_size: int, control_s: float) -> list[str]:
    """Options that a search can't go with."""
    if course not in SEARCHES:
        return []
    why = f"--course {course} decides itself what comes next"
    faults = []
    if release != "barrier":
        faults.append(f"--release {release}: --course {course} is made of bursts; use barrier")
    if bursts != 1:
        faults.append(f"--bursts {bursts}: {why}; use --repeats")
    if control_s:
        faults.append(f"--control spread={control_s:g}s: {why}; leave it out")
    if course == "batches" and batch_size:
        faults.append(f"--batch-size {batch_size}: --course batches looks for it; use --batch-sizes")
    return faults


class _Lists:
    def __init__(self, text: Callable[[str], str], faults: list[str]) -> None:
        self._text = text
        self._faults = faults

    def refuse_foreign(self, course: str, *also: str) -> None:
        """What is given and would change nothing."""
        foreign = [(name, own) for name, own in COURSE_OF if own != course]
        for name, own in (*foreign, *((name, " or ".join(SEARCHES)) for name in also)):
            value = self._text(name)
            if value != AUTO:
                self._faults.append(f"--{name} {value}: is for --course {own}, and this is --course {course}")

    def repeats(self, default: int) -> int:
        value = self._text("repeats")
        if value == AUTO:
            return default
        if not value.isascii() or not value.isdecimal() or not 1 <= int(value) <= 100:
            self._faults.append(f"--repeats {value}: must be a whole number from 1 to 100, or auto")
            return default
        return int(value)

    def sizes(self, name: str, users: int | None, like: str) -> tuple[int, ...]:
        """Empty where they are not given."""
        found = self._listed(name, int, 1, f"whole numbers of at least 1, as {like}, or auto")
        for size in found:
            if users is not None and size > max(users, 0):
                self._faults.append(
                    f"--{name} {self._text(name)}: {size} is more than the {users} of --users"
                )
        return found

    def delays(self, name: str) -> tuple[float, ...]:
        """Empty where they are to be searched."""
        return self._listed(name, float, 0, "seconds of at least 0, as 0.5,1,2, or auto")

    def _listed(self, name: str, kind: Callable[[str], _N], least: int, what: str) -> tuple[_N, ...]:
        """Comma-separated, each once."""
        value = self._text(name)
        if value == AUTO:
            return ()
        try:
            numbers = tuple(dict.fromkeys(kind(part) for part in value.split(",")))
        except ValueError:
            numbers = ()
        if not numbers or not all(least <= number < float("inf") for number in numbers):
            self._faults.append(f"--{name} {value}: must be {what}")
            return ()
        return numbers
