"""``lk-users preflight``: all that can be known before a run, looked at from where the run would start.

It changes nothing but that one user of its own joins a room of its own for a moment, which is how it is
seen whether rooms are made by joining and whether media gets through. ``--probe`` sends the agent a session.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lk_users import capacity, preflight, sizing
from lk_users.agent_name import ANY_AGENT
from lk_users.clock import NS_PER_MS, SystemClock, WallWatch
from lk_users.course import BurstCourse
from lk_users.engines.ground import break_ground
from lk_users.engines.probe import find_way
from lk_users.engines.sdk_pool import SdkPool
from lk_users.errors import EngineCrashed, HttpError, Refused, WireError
from lk_users.machine import ClockState, Identity, Machine
from lk_users.priority import may_precede
from lk_users.record import Mark
from lk_users.settings.process import ProcessSettings
from lk_users.settings.run import Settings
from lk_users.settings.target import Target
from lk_users.tools import probe
from lk_users.tools.checks import (
    Check,
    Level,
    api_check,
    clock_check,
    handles_check,
    machine_checks,
    plan_check,
    priority_check,
    reach_check,
)
from lk_users.tools.proposal import propose
from lk_users.welcome import mark_of
from lk_users.wire import agent_http
from lk_users.wire.aiortc_seam import quiet_logs
from lk_users.wire.armed import knock
from lk_users.wire.endpoint import Endpoint
from lk_users.wire.reach import NotReached, reach

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lk_users.settings.process import Influx

PROBE_WAIT_S: Final = 30.0
PROBE_FOR_S: Final = 8.0
_NOT_FOUND: Final = 404
_REACH_REMEDY: Final = {
    "name": "the host in LIVEKIT_URL, and this machine's DNS",
    "TCP": "is a LiveKit server listening there, and does a firewall let this machine through?",
    "TLS": "ws:// or http://, if that port is without TLS",
    "HTTP": "ws:// or http:// for a port without TLS, wss:// or https:// for one with; is it LiveKit's?",
}


_CERTIFICATE_REMEDY: Final = (
    "a certificate for that name, by an authority that is trusted here (SSL_CERT_FILE names others)"
)


@dataclass(frozen=True)
class Asked:
    """What the command line says: options by ``dest``, users, processes, whether to probe the agent, and
    whether this machine only leads."""

    options: Mapping[str, Any]
    users: int
    processes: int
    probe: bool
    leads: bool = False


def run(asked: Asked) -> list[Check]:
    """Every check, in order, on a loop of its own."""
    preflight.check_platform()
    import uvloop

    return uvloop.run(_run(asked))


async def _run(asked: Asked) -> list[Check]:
    quiet_logs()
    faults: list[str] = []
    process = preflight.collect(lambda: ProcessSettings.from_options(asked.options), faults)
    unset: list[str] = []
    needs_key = not preflight.gets_tokens(asked.options, own_credentials=False)
    target = preflight.collect(lambda: Target.from_environment(needs_key=needs_key), unset)
    settings = preflight.collect(lambda: preflight.read_settings(asked.options, asked.users, target), faults)
    checks = [Check("options", Level.FAIL, fault) for fault in faults]
    if settings is not None and not faults:
        checks.append(Check("options", Level.OK, _in_words(settings)))
    checks += [Check("keys", Level.FAIL, fault) for fault in unset]
    # Without options that can be read the way to the server is looked at all the same.
    asking = settings or Settings(users=max(asked.users, 1), dispatch="none", order="join-first")
    if target is not None:
        meant = process is not None and not preflight.cloud_faults(target, process)
        if process is not None:
            checks += [Check("cloud", Level.FAIL, fault) for fault in preflight.cloud_faults(target, process)]
        headers = process.session_headers if process is not None else ()
        checks += await _target_checks(target, asking, asked, headers, meant=meant)
    if settings is not None:
        checks += _size_checks(settings, asked, target)
    if process is not None and process.influx is not None:
        checks.append(_influx_check(process.influx))
    return checks


def _in_words(settings: Settings) -> str:
    batches = ""
    if settings.batch_size:
        batches = f", in batches of {settings.batch_size} every {settings.batch_delay_s:g} s"
    bursts = f", {settings.bursts} bursts" if settings.bursts > 1 else ""
    agent = {"": "without a name", ANY_AGENT: "of any name"}.get(settings.agent_name, settings.agent_name)
    return (
        f"{settings.users:,} users{batches}{bursts}, agent {agent}, "
        f"dispatch by {settings.dispatch}, welcome {','.join(sorted(settings.welcome))}"
    )


# The target.


async def _target_checks(
    target: Target, settings: Settings, asked: Asked, headers: tuple[tuple[str, str], ...], *, meant: bool
) -> list[Check]:
    """``headers``: what opens the users' own backend. ``meant``: may a session be made there?"""
    checks = await _backend_checks(settings)
    if target.is_known:
        checks += await _server_checks(target, settings, meant=meant)
    else:
        text = "LIVEKIT_URL is not given: where the tokens of your backend lead to is known only at T0"
        checks.append(Check("server", Level.OPEN, text))
    reached = not any(check.level is Level.FAIL for check in checks)
    if not reached and not asked.probe:
        return checks
    return [*checks, *await _agent_checks(target, settings, asked, headers, may=meant and reached)]


async def _backend_checks(settings: Settings) -> list[Check]:
    """Is it there? It is not asked: each request would start a session."""
    url = settings.session_url
    if url is None:
        return []
    name = f"--session-url {url.http_url}"
    try:
        await knock(Endpoint.resolve(url.host, url.port, url.authority, tls=url.tls))
    except WireError as exc:
        return [Check("backend", Level.FAIL, preflight.knock_fault(name, exc, "your backend"))]
    return [Check("backend", Level.OK, f"{name}: somebody listens; a request would start a session")]


async def _server_checks(target: Target, settings: Settings, *, meant: bool) -> list[Check]:
    clock = SystemClock()
    watch = WallWatch(clock)
    try:
        endpoint = _endpoint(target)
        reached = await reach(endpoint, target.http_url, clock)
    except NotReached as exc:
        return [_unreached(target, exc)]
    checks = [reach_check(reached, target)]
    stepped_ms = watch.step_ns() / NS_PER_MS
    clock_told = clock_check(reached.ahead_s, ClockState.here(), stepped_ms)
    if not target.has_key:
        text = "none here: your backend makes the tokens. What the API tells of jobs stays unknown"
        return [*checks, Check("key", Level.OPEN, text), clock_told]
    try:
        await preflight.ask(target)
    except WireError as exc:
        return [*checks, Check("key", Level.FAIL, preflight.target_fault(target, exc)), clock_told]
    checks.append(Check("key", Level.OK, f"{target.shown_key} and its secret are taken"))
    if meant:
        checks += await _join_checks(target, endpoint, settings)
    else:
        checks.append(Check("rooms", Level.OPEN, "not asked: it takes a session, see cloud above"))
    return [*checks, clock_told]


def _unreached(target: Target, error: NotReached) -> Check:
    remedy = _CERTIFICATE_REMEDY if error.cause.startswith("certificate") else _REACH_REMEDY[error.step]
    return Check("reach", Level.FAIL, f"{target.shown_url}, {error.step}: {error.cause}", remedy)


def _endpoint(target: Target) -> Endpoint:
    try:
        return Endpoint.resolve(target.host, target.port, target.authority, tls=target.tls)
    except WireError as exc:
        raise NotReached("name", exc.cause) from exc


async def _join_checks(target: Target, endpoint: Endpoint, settings: Settings) -> list[Check]:
    """One user joins a room that nobody made."""
    room = f"lk-preflight-{secrets.token_hex(4)}"
    # Its own reads are few; the run's budget would only delay them.
    ground = await break_ground(target, endpoint, settings, SdkPool(lambda pid, ended: None), f"{room}-way")
    try:
        found = ground.found
        if not found.server:
            found = await find_way(ground.surroundings, settings, room)
    except HttpError as exc:
        if exc.status == _NOT_FOUND:
            return [_no_auto_create(settings)]
        return [Check("rooms", Level.FAIL, f"a user could not join a new room: {exc.cause}")]
    except (WireError, EngineCrashed) as exc:
        return [Check("rooms", Level.FAIL, f"a user could not join a new room: {exc}")]
    finally:
        if ground.api is not None:
            with contextlib.suppress(WireError):
                await ground.api.delete_room(room)
        await ground.close()
    checks = [
        Check("server", Level.OK, found.server or "does not say what it is"),
        Check("rooms", Level.OK, "made by joining: a user joined one that did not exist"),
    ]
    failed = "; ".join(f"{way}: {cause}" for way, cause in found.tried.items())
    if found.way in found.tried:
        checks.append(
            Check(
                "media",
                Level.FAIL,
                f"no way to the server ({failed}): every user would be media_failed",
                "let UDP through to the server's media ports, or give the server a TURN server",
            )
        )
    elif found.tried:
        checks.append(Check("media", Level.OK, f"by {found.way} ({failed})"))
    else:
        checks.append(Check("media", Level.OK, "a user's peer connection came up, by host candidates"))
    return checks


def _no_auto_create(settings: Settings) -> Check:
    text = "not made by joining (room.auto_create: false)"
    if settings.dispatch == "room":
        return Check("rooms", Level.OK, f"{text}; --dispatch room makes each by CreateRoom")
    if settings.dispatch == "backend":
        return Check("rooms", Level.WARN, text, "your backend has to make each room before its user joins")
    return Check(
        "rooms", Level.FAIL, f"{text}, and --dispatch {settings.dispatch} makes none: no user would get in",
        "--dispatch room, which makes each by CreateRoom",
    )  # fmt: skip


# The agent.


async def _agent_checks(
    target: Target, settings: Settings, asked: Asked, headers: tuple[tuple[str, str], ...], *, may: bool
) -> list[Check]:
    checks = [_worker_check(url, settings) for url in settings.agent_worker_urls]
    names = {"": "the unnamed agent", ANY_AGENT: "any agent"}
    name = names.get(settings.agent_name, settings.agent_name)
    if not asked.probe:
        return [
            *checks,
            Check(
                "agent", Level.OPEN,
                f"{name}: not asked, since a server tells nobody its agents; --probe sends it a session",
            ),
        ]  # fmt: skip
    if not may:
        return [*checks, Check("agent", Level.OPEN, f"{name}: not probed, see above")]
    return [*checks, await _probe_check(probe.way_of(target, settings, headers), settings, name)]


async def _probe_check(way: probe.Way, settings: Settings, name: str) -> Check:
    probed = await probe.probe(way, settings, PROBE_WAIT_S, PROBE_FOR_S)
    if not probed.came:
        outcome, cause = next(iter(probed.findings.items()))
        return Check(
            "agent", Level.FAIL, f"{name} did not come within {PROBE_WAIT_S:.0f} s: {outcome} ({cause})",
            "`lk-users probe` with the same options says what to check",
        )  # fmt: skip
    marks = probed.seen.marks_ns
    missing = sorted(item for item in settings.welcome if mark_of(item, settings.expect_text) not in marks)
    came_s = marks.get(Mark.AGENT_JOINED, marks[Mark.AGENT_SEEN]) / 1000 / NS_PER_MS
    if missing:
        like = (
            f" like --expect-text {settings.expect_text}"
            if "text" in missing and settings.expect_text
            else ""
        )
        fitting = propose(probed.seen, probed.speech, probed.watched_s)
        return Check(
            "agent", Level.WARN,
            f"{name} came after {came_s:.2f} s, but of --welcome {','.join(sorted(settings.welcome))} it did "
            f"not do {','.join(missing)}{like} in {probed.watched_s:.0f} s: all would be welcome_missing",
            " ".join(f"--{option} {shlex.quote(value)}" for option, value in fitting.options()),
        )  # fmt: skip
    return Check(
        "agent", Level.OK, f"{name} came after {came_s:.2f} s and did all of --welcome "
        f"{','.join(sorted(settings.welcome))}",
    )  # fmt: skip


def _worker_check(url: str, settings: Settings) -> Check:
    told = agent_http.ask(url, SystemClock())
    if told.error:
        return Check("worker", Level.WARN, f"{url}: {told.error}; its load would be missing in the report")
    text = f"{url}: livekit-agents {told.sdk_version}, load {told.load:.2f}, {told.active_jobs} jobs"
    if told.agent_name != settings.agent_name:
        return Check(
            "worker", Level.WARN, f"{text}; it is of agent {told.agent_name or 'without a name'}",
            f"--agent-name {told.agent_name}" if told.agent_name else "no --agent-name",
        )  # fmt: skip
    return Check("worker", Level.OK, text)


# This machine.


def _size_checks(settings: Settings, asked: Asked, target: Target | None) -> list[Check]:
    machine = Machine.here()
    needs = sizing.size(
        settings.users, dispatch=settings.dispatch, mic=settings.mic != "none", witness=settings.witness
    )
    cloud = target is not None and target.cloud
    sessions = sum(round_.users for round_ in BurstCourse(settings).rounds)
    has_key = target is not None and target.has_key
    requests = needs.requests * sessions // settings.users if has_key else 0
    checks = [api_check(settings, requests, cloud=cloud)]
    if cloud:
        checks.append(plan_check(settings))
    if asked.leads:
        text = (
            "a master has no users: ask on each worker's machine, with its share of the users and no --master"
        )
        return [*checks, Check("cores", Level.OPEN, text)]
    here = target is not None and preflight.on_loopback(target)
    if target is not None:
        addresses = preflight.addresses_here(loopback=here)
        checks.append(handles_check(settings.users, asked.processes, addresses, machine))
    checks.append(priority_check(allowed=may_precede(), here=here))
    known = capacity.load(Identity.here(), capacity.path())
    return [*checks, *machine_checks(settings, asked.processes, machine, known)]


def _influx_check(influx: Influx) -> Check:
    cause = preflight.influx_cause(influx)
    where = f"{influx.url}, bucket {influx.bucket} of org {influx.org}"
    if cause:
        return Check(
            "InfluxDB", Level.WARN, f"{where}: {cause}; points would wait in the run folder",
            "`lk-users replay RUN_DIR` sends them later",
        )  # fmt: skip
    return Check("InfluxDB", Level.OK, f"{where}: takes points")


def asked_from(
    options: Mapping[str, Any], users: str, processes: str, *, probe_agent: bool, leads: bool
) -> Asked:
    """``processes``: -1 for as many as there are cores, as Locust has it. Raises Refused with every fault."""
    faults: list[str] = []

    def whole(flag: str, text: str) -> int:
        if not text.strip().isdecimal() or int(text) < 1:
            faults.append(f"{flag} {text}: must be a whole number of at least 1")
            return 1
        return int(text)

    size = whole("--users", users)
    each_core = processes.strip() == "-1"
    many = Machine.here().cores if each_core else whole("--processes", processes)
    found = Asked(options, size, many, probe_agent, leads)
    if faults:
        raise Refused(faults)
    return found


def heading(asked: Asked) -> str:
    """The first line."""
    many = f" in {asked.processes} processes" if asked.processes > 1 else ""
    return f"Preflight of {asked.users:,} users{many}, from this machine:"
