"""The user class that a locustfile subclasses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from gevent.event import Event
from locust import User, constant, task

from lk_users.wiring import register, register_defaults

if TYPE_CHECKING:
    from collections.abc import Mapping


class AgentUser(User):
    """A user who needs an agent. Subclass it, and Locust has the options, the burst and the verdict.

    ``options``: other defaults for options, by name without dashes, for example
    ``{"batch-size": "50"}``; the command line and ``LK_…`` variables still win.
    """

    abstract = True
    lk_session_user: ClassVar[bool] = True
    options: ClassVar[Mapping[str, str]] = {}
    wait_time = constant(0)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register()
        if "options" in cls.__dict__:
            register_defaults(cls.options)

    @task
    def session(self) -> None:
        """Parked: one place in every burst of the run. Free: one session after another."""
        worker = self.environment.lk_users.worker
        if worker is not None and worker.settings.release == "free":
            worker.one_free_session()
            return
        if worker is not None:
            worker.park()
        # The run is over; Locust ends this greenlet.
        Event().wait()
