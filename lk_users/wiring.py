"""Composition root: the only place that registers Locust listeners, ends runs and sets the exit code.

``register`` is called by the first subclass of ``AgentUser``, that is when Locust loads the locustfile and
just before it parses options.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import logging
import sys
from typing import TYPE_CHECKING, Any

import gevent
import locust
import psutil
from gevent.event import Event
from gevent.queue import Queue
from locust import events
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

from lk_users import preflight
from lk_users.barrier import TO_MASTER, TO_WORKER, Kind
from lk_users.errors import Refused
from lk_users.master import RunMaster
from lk_users.outcome import ExitCode
from lk_users.runtime import Runtime
from lk_users.settings import PROCESS_OPTIONS, RUN_OPTIONS, Option
from lk_users.sinks.locust_stats import LocustStats
from lk_users.worker import WorkerSide

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lk_users.settings import ProcessSettings, Target

logger = logging.getLogger(__name__)

LOCAL_WORKER = "local"
# A worker is not told how many users a burst has; its master has checked what depends on it.
UNKNOWN_USERS = 1_000_000
# Beyond the trailers' own deadline: the reads of a large burst are spread out.
END_PATIENCE_S = 120.0


@functools.cache
def register() -> None:
    """Register the options and the start of everything else, once a process."""
    events.init_command_line_parser.add_listener(_add_options)
    events.init.add_listener(_on_init)
    # For a start that fails before ``init``, as where another run has the master's port: the workers that
    # it forked would go on, and join that run.
    atexit.register(_end_forked_workers)


def register_defaults(options: Mapping[str, str]) -> None:
    """Other defaults for options, from a locustfile; a name that is none refuses the start."""
    known = {option.name: option for option in (*RUN_OPTIONS, *PROCESS_OPTIONS)}

    def set_defaults(parser: Any, **_: Any) -> None:
        unknown = [name for name in options if name not in known]
        if unknown:
            refuse(Refused([f"options of the locustfile: no option {name!r}" for name in unknown]))
        parser.set_defaults(**{known[name].dest: str(value) for name, value in options.items()})

    events.init_command_line_parser.add_listener(set_defaults)


class _Joined(argparse.Action):
    """A repeatable option that stays one string."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest, None)
        first = before is None or before == self.default
        setattr(namespace, self.dest, values if first else f"{before}; {values}")


def _add_options(parser: Any, **_: Any) -> None:
    run = parser.add_argument_group("lk-users: the run")
    process = parser.add_argument_group("lk-users: this process")
    for group, options in ((run, RUN_OPTIONS), (process, PROCESS_OPTIONS)):
        for option in options:
            _add_option(parser, group, option, in_web_ui=options is RUN_OPTIONS)


def _add_option(parser: Any, group: Any, option: Option, *, in_web_ui: bool) -> None:
    # Locust keeps what it shows in the web UI on its own parser, so the group only sorts the help.
    extra = {"action": _Joined} if option.name == "slo" else {}
    action = parser.add_argument(
        option.flag,
        default=option.default,
        env_var=option.variable,
        help=option.help.replace("%", "%%"),
        include_in_web_ui=in_web_ui,
        **extra,
    )
    parser._optionals._group_actions.remove(action)
    group._group_actions.append(action)


def _on_init(environment: Any, runner: Any, web_ui: Any, **_: Any) -> None:
    atexit.unregister(_end_forked_workers)
    try:
        environment.lk_users = Wiring(environment, runner, web_ui)
    except Refused as exc:
        refuse(exc, quiet=bool(getattr(environment.parsed_options, "processes", None)) and _is_worker(runner))


def refuse(refused: Refused, *, quiet: bool = False) -> None:
    """Say what is wrong, a line a fault, and exit. ``quiet``: another process says it."""
    if not quiet:
        for fault in refused.faults:
            print(f"lk-users: {fault}", file=sys.stderr)
    _end_forked_workers()
    sys.exit(ExitCode.REFUSED)


def _end_forked_workers() -> None:
    """Workers that ``--processes`` forked: Locust's own end of them takes "still running" for "ended"."""
    for child in psutil.Process().children():
        child.terminate()


def _not_about_spawn_rates(record: logging.LogRecord) -> bool:
    return "spawn rate is very high" not in record.getMessage()


def _is_worker(runner: Any) -> bool:
    return isinstance(runner, WorkerRunner)


class Wiring:
    """What one Locust process has of us: a worker's side, a master's, or (alone) both."""

    def __init__(self, environment: Any, runner: Any, web_ui: Any) -> None:
        """Raises Refused for everything that can be known to fail."""
        preflight.check_platform()
        self._environment = environment
        self._runner = runner
        self._main = gevent.getcurrent()
        self._runtime = Runtime()
        self._stats = LocustStats(environment.events.request)
        self._mail: Queue = Queue()
        self._ending = ""
        self._closing = False
        self.worker: WorkerSide | None = None
        self.run: RunMaster | None = None
        self._leads = isinstance(runner, (LocalRunner, MasterRunner))
        self._works = isinstance(runner, (LocalRunner, WorkerRunner))
        options = vars(environment.parsed_options)
        self._process, self._target = self._checked(options)
        self._listen()
        if web_ui is not None:
            web_ui.app.before_request(self._before_request)

    # What Locust tells.

    def _listen(self) -> None:
        # Its warning of high spawn rates is about users that start as they are spawned; ours are parked.
        logging.getLogger("locust.runners").addFilter(_not_about_spawn_rates)
        for event, listener in (
            ("test_start", self._test_start),
            ("spawning_complete", self._spawning_complete),
            ("test_stopping", self._test_stopping),
            ("quitting", self._quitting),
            ("quit", self._quit),
        ):
            getattr(self._environment.events, event).add_listener(listener)
        if isinstance(self._runner, LocalRunner):
            self._runner.greenlet.spawn(self._deliver)
        else:
            for kind in TO_MASTER if self._leads else TO_WORKER:
                self._runner.register_message(str(kind), self._received)

    def _checked(self, options: Mapping[str, Any]) -> tuple[ProcessSettings, Target]:
        faults: list[str] = []
        checked = preflight.collect(lambda: preflight.read_process(options), faults)
        users = options.get("num_users")
        users = 1 if users is None else int(users)
        if options.get("headless") and self._leads:
            target = checked[1] if checked else None
            preflight.collect(lambda: preflight.read_settings(options, users, target), faults)
        if faults or checked is None:
            raise Refused(faults)
        processes = max(1, int(options.get("processes") or 1))
        preflight.raise_handle_limit(-(-max(users, 1) // processes) if self._leads else 1)
        if self._leads:
            preflight.check_target(checked[1], self._runtime)
        return checked

    def _test_start(self, **_: Any) -> None:
        self._runtime.start()
        self._closing = False
        options = vars(self._environment.parsed_options)
        users = int(self._runner.target_user_count) if self._leads else UNKNOWN_USERS
        try:
            settings = preflight.read_settings(options, users, self._target)
        except Refused as exc:
            self._refused(exc)
            return
        if self._leads:
            self.run = RunMaster(
                settings, self._process, self._target, self._send_to_worker, self._gone, self._run_over
            )
        if self._works:
            name = LOCAL_WORKER if self._leads else str(self._runner.client_id)
            index = max(0, int(getattr(self._runner, "worker_index", 0)))
            self.worker = WorkerSide(
                name, index, settings, self._process, self._target, self._runtime, self._stats,
                self._send_to_master,
            )  # fmt: skip

    def _spawning_complete(self, **_: Any) -> None:
        if self.run is None:
            return
        ours = {
            cls.__name__ for cls in self._environment.user_classes if getattr(cls, "lk_session_user", False)
        }
        counts = self._runner.target_user_classes_count
        self.run.spawning_complete(sum(count for name, count in counts.items() if name in ours))

    def _test_stopping(self, **_: Any) -> None:
        self.close_run("the run was stopped before every session had its outcome")

    def _quitting(self, **_: Any) -> None:
        self.close_run("the run was interrupted before every session had its outcome")

    def _quit(self, **_: Any) -> None:
        self._runtime.stop()
        if self._ending:
            ending, self._ending = self._ending, ""
            print(f"\n{ending}", flush=True)
        if self._headless and gevent.getcurrent() is not self._main:
            # On SIGTERM Locust shuts down in a greenlet while its main one does the same; one exit is enough,
            # and any exception here, SystemExit too, would end as a traceback.
            Event().wait()

    # The end.

    def close_run(self, cause: str) -> None:
        """End what still runs, come to the verdict, set the exit code. Idempotent."""
        if self._closing:
            return
        self._closing = True
        run = self.run
        if run is not None:
            if not run.is_over:
                if run.settings.release == "free":
                    # Who is in mid-session gets Locust's --stop-timeout to end it.
                    gevent.sleep(float(self._environment.stop_timeout or 0.0))
                run.cancel(cause)
                run.wait(run.settings.trailer_timeout_s + END_PATIENCE_S)
            self.run = None
            self._judge(run)
        elif self.worker is not None:
            self.worker.stop(cause, END_PATIENCE_S)
        if self.worker is not None:
            self.worker.close()

    def _judge(self, run: RunMaster) -> None:
        judgement, text = run.judge()
        before = self._environment.process_exit_code or 0
        self._environment.process_exit_code = max(before, int(judgement.exit_code))
        if self._headless:
            self._ending = text
        else:
            print(f"\n{text}", flush=True)

    def _run_over(self) -> None:
        """Nothing more will come: Locust itself would go on for ever."""
        gevent.spawn(self._runner.quit if self._headless else self._runner.stop)

    def _refused(self, refused: Refused) -> None:
        """A fault that only ``test_start`` could see."""
        for fault in refused.faults:
            logger.error("lk-users: %s", fault)
        self._environment.process_exit_code = int(ExitCode.REFUSED)
        self._run_over()

    @property
    def _headless(self) -> bool:
        return bool(self._environment.parsed_options.headless)

    # The web UI.

    def _before_request(self) -> Any:
        """Answer a start that can't be with the reason, since ``test_start`` cannot refuse."""
        from flask import jsonify, request

        if request.method != "POST" or not request.path.endswith("/swarm"):
            return None
        if self._runner.state in ("spawning", "running"):
            message = "a run is under way: a burst's size can't be changed; stop it first"
        else:
            options = {**vars(self._environment.parsed_options), **request.form.to_dict()}
            try:
                users = int(str(options.get("user_count") or options.get("num_users") or 1))
                preflight.read_settings(options, users, self._target)
            except ValueError:
                message = f"users {options.get('user_count')!r}: not a whole number"
            except Refused as exc:
                message = "; ".join(exc.faults)
            else:
                return None
        return jsonify({"success": False, "message": message, "host": self._environment.host})

    # Messages.

    def _send_to_master(self, kind: Kind, data: dict[str, Any]) -> None:
        if isinstance(self._runner, LocalRunner):
            self._mail.put((True, LOCAL_WORKER, str(kind), data))
        else:
            self._runner.send_message(str(kind), data)

    def _send_to_worker(self, kind: Kind, data: dict[str, Any], worker: str) -> None:
        if isinstance(self._runner, LocalRunner):
            self._mail.put((False, worker, str(kind), data))
        else:
            self._runner.send_message(str(kind), data, worker or None)

    def _received(self, msg: Any, **_: Any) -> None:
        self._hand_over(self._leads, str(msg.node_id), str(msg.type), msg.data)

    def _deliver(self) -> None:
        """Alone, master and worker talk through a queue, so that neither is called from within itself."""
        while True:
            self._hand_over(*self._mail.get())

    def _hand_over(self, to_master: bool, worker: str, kind: str, data: Mapping[str, Any]) -> None:
        if to_master and self.run is not None:
            self.run.receive(worker, kind, data)
        elif not to_master and self.worker is not None:
            self.worker.receive(kind, data)
            if self.worker.refusal:
                refuse(Refused([self.worker.refusal]))

    def _gone(self) -> dict[str, str]:
        """Workers of this run that Locust lost, and how."""
        if self.run is None or not isinstance(self._runner, MasterRunner):
            return {}
        clients = self._runner.clients
        gone = {}
        for name in self.run.workers:
            client = clients.get(name)
            if client is None:
                gone[name] = "it quit"
            elif client.state == locust.runners.STATE_MISSING:
                gone[name] = "no heartbeat for 3 s"
        return gone
