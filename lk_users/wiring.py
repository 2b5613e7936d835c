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
from lk_users.barrier.messages import TO_MASTER, TO_WORKER, Kind, refusal
from lk_users.errors import Refused
from lk_users.interrupt import spare_greenlets
from lk_users.master import RunMaster
from lk_users.master_link import MASTER_GONE_S
from lk_users.outcome import ExitCode
from lk_users.placement import Placement, Places
from lk_users.runtime import Runtime
from lk_users.settings.options import PROCESS_OPTIONS, RUN_OPTIONS, Option
from lk_users.sinks.locust_stats import LocustStats
from lk_users.version import VERSION
from lk_users.worker import WorkerSide

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lk_users.settings.process import ProcessSettings
    from lk_users.settings.run import Settings
    from lk_users.settings.target import Target

logger = logging.getLogger(__name__)

LOCAL_WORKER = "local"
HELLO_PATIENCE_S = 5.0
HELLO_POLL_S = 0.05
# Beyond the trailers' own deadline: the reads of a large burst are spread out.
END_PATIENCE_S = 120.0


@functools.cache
def register() -> None:
    """Register the options and the start of everything else, once a process."""
    events.init_command_line_parser.add_listener(_add_options)
    events.init.add_listener(_on_init)
    logging.getLogger("locust.runners").addFilter(_worth_saying)
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
    spare_greenlets()
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


def _worth_saying(record: logging.LogRecord) -> bool:
    """Locust warns of high spawn rates: that is about users who start as they are spawned, and ours park.
    It does not know a message of ours that comes before we have told it: such are asked for again."""
    text = record.getMessage()
    return "spawn rate is very high" not in text and "Unknown message type received" not in text


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
        self._closed = Event()
        self.worker: WorkerSide | None = None
        self.run: RunMaster | None = None
        self._leads = isinstance(runner, (LocalRunner, MasterRunner))
        self._works = isinstance(runner, (LocalRunner, WorkerRunner))
        options = vars(environment.parsed_options)
        self._own_credentials = self._has_own_credentials()
        self._process, self._target = self._checked(options)
        self._regions: dict[str, str] = {}
        self._places = Places()
        environment.dispatcher_class = functools.partial(Placement, places=self._places)
        self._listen()
        if self._process.influx is not None:
            # Of those that --processes forked the leader says it.
            forked = bool(options.get("processes")) and _is_worker(runner)
            preflight.load_influx()
            gevent.spawn(preflight.ask_influx, self._process.influx, aloud=not forked)
        if web_ui is not None:
            web_ui.app.before_request(self._before_request)

    # What Locust tells.

    def _listen(self) -> None:
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
        self._say_hello()
        if isinstance(self._runner, MasterRunner):
            # Before Locust counts them: one of another version is none that can be expected.
            self._await_hellos()

    def _checked(self, options: Mapping[str, Any]) -> tuple[ProcessSettings, Target]:
        faults: list[str] = []
        checked = preflight.collect(
            lambda: preflight.read_process(options, own_credentials=self._own_credentials), faults
        )
        users = options.get("num_users")
        users = 1 if users is None else int(users)
        if options.get("headless") and self._leads:
            target = checked[1] if checked else None
            preflight.collect(lambda: self._read_settings(options, users, target), faults)
        if faults or checked is None:
            raise Refused(faults)
        processes = int(options.get("processes") or 0)
        # A master has no sessions of its own but by the workers that it forked.
        here = self._leads and (processes or isinstance(self._runner, LocalRunner))
        sessions = -(-max(users, 1) // max(1, processes)) if here else 1
        loopback = preflight.on_loopback(checked[1])
        preflight.raise_handle_limit(sessions, preflight.addresses_here(loopback=loopback))
        if self._leads:
            preflight.check_target(checked[1], self._runtime)
            preflight.check_backend(options, self._runtime)
        return checked

    def _has_own_credentials(self) -> bool:
        """Does the locustfile get its users' tokens? Raises Refused where only some of its users do."""
        users = [
            cls for cls in self._environment.user_classes or () if getattr(cls, "lk_session_user", False)
        ]
        without = [cls.__name__ for cls in users if not cls.lk_own_credentials]
        if without and len(without) < len(users):
            raise Refused([f"{without[0]} has no credentials(), and other users of the locustfile have"])
        return bool(users) and not without

    def _read_settings(
        self, options: Mapping[str, Any], users: int | None, target: Target | None
    ) -> Settings:
        return preflight.read_settings(options, users, target, own_credentials=self._own_credentials)

    def _test_start(self, **_: Any) -> None:
        self._runtime.start()
        self._closing = False
        self._closed.clear()
        options = vars(self._environment.parsed_options)
        users = int(self._runner.target_user_count) if self._leads else None
        try:
            settings = self._read_settings(options, users, self._target)
        except Refused as exc:
            self._refused(exc)
            return
        if self._leads:
            self._await_hellos()
            try:
                self._places.begin(
                    free=settings.release == "free",
                    regions=self._regions,
                    region_users=settings.region_users,
                )
            except Refused as exc:
                self._refused(exc)
                return
            self.run = RunMaster(
                settings, self._process, self._target, self._send_to_worker, self._gone, self._run_over,
                self._regions, lambda: self._places.planned,
            )  # fmt: skip
        if self._works:
            name = LOCAL_WORKER if self._leads else str(self._runner.client_id)
            index = max(0, int(getattr(self._runner, "worker_index", 0)))
            self.worker = WorkerSide(
                name, index, settings, self._process, self._target, self._runtime, self._stats,
                self._send_to_master, self._master_gone,
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
        """End what still runs, come to the verdict, set the exit code. Once; whoever comes while another
        is at it waits for that one, since Locust exits right after."""
        if self._closing:
            self._closed.wait()
            return
        self._closing = True
        try:
            self._close_run(cause)
        finally:
            self._closed.set()

    def _close_run(self, cause: str) -> None:
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

    def _master_gone(self) -> None:
        """The worker goes on alone, and Locust must not end it before it is done."""
        logger.warning("lk-users: the master is gone; finishing the sessions that run, then ending")
        self._runner.last_heartbeat_timestamp = None
        gevent.spawn(self._finish_alone)

    def _finish_alone(self) -> None:
        assert self.worker is not None
        self.worker.finish_alone()
        self._environment.process_exit_code = int(ExitCode.VOID)
        self._runner.quit()

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
                self._read_settings(options, users, self._target)
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
        if kind == Kind.HELLO:
            self._greet(worker, data)
        elif kind == Kind.WHO:
            self._say_hello()
        elif kind == Kind.REFUSED:
            refuse(Refused([str(data["why"])]))
        elif to_master and self.run is not None:
            self.run.receive(worker, kind, data)
        elif not to_master and self.worker is not None:
            self.worker.receive(kind, data)

    def _say_hello(self) -> None:
        if self._works:
            self._send_to_master(Kind.HELLO, {"version": VERSION, "region": self._process.region})

    def _greet(self, worker: str, data: Mapping[str, Any]) -> None:
        """A worker connected: is it one of ours, and where is it?"""
        why = refusal(worker, data)
        if why:
            logger.warning("%s", why)
            self._send_to_worker(Kind.REFUSED, {"why": why}, worker)
            # Locust must not count on it: another one may come in its place.
            self._runner.clients.pop(worker, None)
            return
        self._regions[worker] = str(data.get("region", ""))
        if self.run is not None and worker not in self.run.workers:
            logger.warning(
                "worker %s (%s) joined in mid-run: it takes part from the next run on",
                worker, self._regions[worker],
            )  # fmt: skip

    def _await_hellos(self) -> None:
        """Locust counts a worker as soon as it is connected. Its first hello may have come before we were
        ready to hear it, so they are asked."""
        if not isinstance(self._runner, MasterRunner):
            self._regions = {LOCAL_WORKER: self._process.region}
            return
        self._send_to_worker(Kind.WHO, {}, "")
        for _ in range(round(HELLO_PATIENCE_S / HELLO_POLL_S)):
            if self._here() <= self._regions.keys():
                break
            gevent.sleep(HELLO_POLL_S)
        here = self._here()
        self._regions = {name: region for name, region in self._regions.items() if name in here}

    def _here(self) -> set[str]:
        """The workers that Locust would give users to."""
        clients = self._runner.clients
        return {client.id for client in (*clients.ready, *clients.spawning, *clients.running)}

    def _gone(self) -> dict[str, str]:
        """Workers of this run that are lost, and how. Locust misses one after 3 s, and takes it back when it
        is heard again; so do we, for as long as it holds its master for there. Once none is left, Locust
        stops."""
        if self.run is None or not isinstance(self._runner, MasterRunner):
            return {}
        clients = self._runner.clients
        gone = {}
        for name in self.run.workers:
            client = clients.get(name)
            if client is None:
                gone[name] = "it quit"
            elif client.state == locust.runners.STATE_MISSING:
                silent_s = locust.runners.HEARTBEAT_LIVENESS - client.heartbeat
                if silent_s >= MASTER_GONE_S or self._runner.worker_count == 0:
                    gone[name] = f"no heartbeat for {silent_s} s"
        return gone
