"""The user class that a locustfile subclasses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from gevent.event import Event
from locust import User, constant, task

from lk_users.wiring import register, register_defaults

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lk_users.plan import PlannedSession


class AgentUser(User):
    """A user who needs an agent. Subclass it, and Locust has the options, the burst and the verdict.

    ``options``: other defaults for options, by name without dashes, for example
    ``{"batch-size": "50"}``; the command line and ``LK_…`` variables still win.
    """

    abstract = True
    lk_session_user: ClassVar[bool] = True
    lk_own_credentials: ClassVar[bool] = False
    options: ClassVar[Mapping[str, str]] = {}
    wait_time = constant(0)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register()
        if "options" in cls.__dict__:
            register_defaults(cls.options)
        if cls.credentials is not AgentUser.credentials:
            cls.lk_own_credentials = True
            register_defaults({"dispatch": "backend"})

    def credentials(self, session: PlannedSession) -> tuple[str, str]:
        """Override it where tokens come from a server of your own: (URL to join, token) for ``session``.

        ``session.room`` and ``session.identity`` are names to ask for; the token's count. It is called before
        T0 for every session of a burst, up to 32 at once, each in a greenlet: what waits for a socket may
        take its time (30 s at most), what blocks in another way holds up the whole process. Whatever it
        raises ends this session alone, as ``session_failed``.
        """
        raise NotImplementedError

    @task
    def session(self) -> None:
        """Parked: one place in every burst of the run. Free: one session after another."""
        worker = self.environment.lk_users.worker
        if worker is not None and worker.settings.release == "free":
            worker.one_free_session(self)
            return
        if worker is not None:
            worker.park(self)
        # The run is over; Locust ends this greenlet.
        Event().wait()
