"""Which course a run takes: the one place that knows all of them. Pure."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from lk_users.batches import BatchCourse
from lk_users.course import BurstCourse
from lk_users.ladder import LadderCourse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lk_users.course import Course
    from lk_users.settings.run import Settings

# By the values of --course (lk_users.settings.options.COURSES).
MAKERS: Final[Mapping[str, Callable[[Settings], Course]]] = MappingProxyType(
    {"bursts": BurstCourse, "ladder": LadderCourse, "batches": BatchCourse}
)


def course_of(settings: Settings) -> Course:
    """A course for one run; it may keep what it learns."""
    return MAKERS[settings.course](settings)
