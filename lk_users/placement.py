"""Where Locust puts the users of a run: region by region, and once.

Locust moves users whenever a worker comes or goes: one that was lost has its users made again elsewhere, one
that joins late gets some of the others'. In a burst that would be users who were not asked for, so here
places are given once a run. Ramps and soaks (``--release free``) keep Locust's own ways.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from locust.dispatch import UsersDispatcher

from lk_users.errors import Refused
from lk_users.plan import region_faults, worker_of_each_user

if TYPE_CHECKING:
    from collections.abc import Mapping

Counts = dict[str, dict[str, int]]


@dataclass
class Places:
    """The places of the run under way; outlives the dispatchers, of which Locust makes several a run."""

    free: bool = False
    regions: Mapping[str, str] = field(default_factory=dict)
    """Worker → region, of all that are there at the start."""
    region_users: Mapping[str, int] = field(default_factory=dict)
    planned: Mapping[str, int] = field(default_factory=dict)
    """Worker → users that it is to have; empty before the first are placed."""
    given: Counts = field(default_factory=dict)
    """Worker → user class → users; empty until the first were placed."""

    def begin(self, *, free: bool, regions: Mapping[str, str], region_users: Mapping[str, int]) -> None:
        """A new run. Raises Refused where a region that users are meant for has no worker."""
        faults = region_faults(regions, region_users)
        if faults:
            raise Refused(faults)
        self.free, self.regions, self.region_users = free, dict(regions), dict(region_users)
        self.planned, self.given = {}, {}


class Placement(UsersDispatcher):
    """Locust's dispatcher, with places of our own choice that stay as they are."""

    def __init__(self, worker_nodes: list[Any], user_classes: list[Any], *, places: Places) -> None:
        super().__init__(worker_nodes=worker_nodes, user_classes=user_classes)
        self._places = places

    def new_dispatch(
        self, target_user_count: int, spawn_rate: float, user_classes: list[Any] | None = None
    ) -> None:
        places = self._places
        if places.free:
            super().new_dispatch(target_user_count, spawn_rate, user_classes)
            return
        here = {node.id: node for node in self._worker_nodes}
        if places.given:
            # Somebody came or went: who is still here keeps what it has.
            self._users_on_workers = {name: dict(places.given.get(name, {})) for name in here}
            target_user_count = self.get_current_user_count()
            super().new_dispatch(target_user_count, spawn_rate, user_classes)
            return
        # Without a worker of ours the run was refused, and Locust has yet to learn of it.
        ours = [name for name in here if name in places.regions]
        super().new_dispatch(target_user_count if ours else 0, spawn_rate, user_classes)
        order = worker_of_each_user(ours, places.regions, places.region_users, target_user_count)
        places.planned = Counter(order)
        self._worker_node_generator = itertools.cycle([here[name] for name in order])

    def __next__(self) -> Counts:
        placed: Counts = super().__next__()
        if self._current_user_count == self._target_user_count:
            self._places.given = self._places.given or {name: dict(users) for name, users in placed.items()}
        return placed

    def add_worker(self, worker_node: Any) -> None:
        if self._places.free:
            super().add_worker(worker_node)

    def remove_worker(self, worker_node: Any) -> None:
        if self._places.free:
            super().remove_worker(worker_node)
