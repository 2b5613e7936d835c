"""What can be known to fail before the first user starts, each as one clear line."""

from __future__ import annotations

import contextlib
import importlib
import logging
import resource
import sys
from typing import TYPE_CHECKING, TypeVar

from lk_users import sizing, slo
from lk_users.errors import HttpError, Refused, WireError
from lk_users.settings.process import ProcessSettings
from lk_users.settings.run import Settings
from lk_users.settings.target import Target
from lk_users.wire.api import Api, Keys
from lk_users.wire.armed import knock
from lk_users.wire.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from lk_users.address import Address
    from lk_users.runtime import Runtime
    from lk_users.settings.process import Influx

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

# macOS calls its hard limit unlimited, and takes no more than some ten thousands.
HANDLES_WHERE_UNLIMITED = 10_240


def check_platform() -> None:
    """Raises Refused on Windows."""
    if sys.platform == "win32":
        raise Refused(["Windows: uvloop has no build for it; use Linux, macOS, WSL or Docker"])


def read_settings(
    options: Mapping[str, Any], users: int | None, target: Target | None, *, own_credentials: bool = False
) -> Settings:
    """The run's settings, SLOs and all. Raises Refused with every fault. ``users``, ``target``: None if not
    known. ``own_credentials``: does the locustfile get its users' tokens by itself?"""
    faults: list[str] = []
    cloud = target is not None and target.cloud
    settings = collect(lambda: Settings.from_options(options, users, cloud=cloud), faults)
    text = str(options.get("slo") or "")
    slos = collect(lambda: slo.parse(text), faults)
    if settings is not None and slos is not None:
        faults += slo.unmeasurable(slos, settings)
    if settings is not None:
        faults += _way_in_faults(settings, target, own_credentials=own_credentials)
    if faults or settings is None:
        raise Refused(faults)
    return settings


def _way_in_faults(settings: Settings, target: Target | None, *, own_credentials: bool) -> list[str]:
    """Who gives the tokens, and what of the rest needs a key of our own?"""
    own = settings.dispatch == "backend"
    faults = []
    if own_credentials and settings.session_url is not None:
        faults.append(
            "--session-url: the locustfile's credentials() gets the tokens already; use one of both"
        )
    elif own_credentials and not own:
        faults.append(
            f"--dispatch {settings.dispatch}: the locustfile's credentials() gets the tokens; your backend "
            "asks for the agent, so leave it out"
        )
    elif own and settings.session_url is None and not own_credentials:
        faults.append("--dispatch backend: needs --session-url, or a locustfile with credentials()")
    if target is not None and not target.has_key:
        if not own:
            faults.append(
                "LIVEKIT_API_KEY is not set: this process can make no tokens; set it, or give --session-url "
                "(LK_SESSION_URL) to every process"
            )
        elif settings.ice == "relay":
            faults.append(
                "--ice relay: without LIVEKIT_API_KEY no TURN server can be tried before T0; use auto"
            )
    return faults


def gets_tokens(options: Mapping[str, Any], *, own_credentials: bool) -> bool:
    """Do the tokens come from a backend of the user's own?"""
    return own_credentials or bool(str(options.get("session_url") or "").strip())


def read_process(
    options: Mapping[str, Any], *, own_credentials: bool = False
) -> tuple[ProcessSettings, Target]:
    """What this process needs of its own. Raises Refused with every fault."""
    faults: list[str] = []
    process = collect(lambda: ProcessSettings.from_options(options), faults)
    needs_key = not gets_tokens(options, own_credentials=own_credentials)
    target = collect(lambda: Target.from_environment(needs_key=needs_key), faults)
    if target is not None and process is not None:
        faults += cloud_faults(target, process)
    if faults or process is None or target is None:
        raise Refused(faults)
    return process, target


def cloud_faults(target: Target, process: ProcessSettings) -> list[str]:
    """LiveKit Cloud costs money, so it has to be meant."""
    if not target.cloud or process.allow_cloud:
        return []
    return [
        f"{target.shown_url}: LiveKit Cloud bills agent minutes and connection minutes of every session, "
        "and its terms restrict load tests. A burst of 600 sessions that stay half a minute costs about "
        "300 agent minutes. If that is meant: --allow-cloud yes"
    ]


def addresses_here(*, loopback: bool) -> int:
    """How many addresses of this machine each user offers to a server, with a socket each."""
    # It imports WebRTC, which not every command needs.
    from lk_users.wire.aioice_seam import host_addresses

    return max(1, len(host_addresses(loopback=loopback)))


def on_loopback(target: Target) -> bool:
    """Is the target on this machine, and only there?"""
    if target.is_known:
        with contextlib.suppress(WireError):
            return Endpoint.resolve(target.host, target.port, target.authority, tls=False).loopback
    return False


def raise_handle_limit(sessions: int, addresses: int) -> None:
    """Make all the room for sockets that this process may have. Raises Refused if so many sessions need more.

    A worker does not know how many it will get: it asks for one. ``addresses``: those that each user offers.
    """
    needed = sizing.handles(sessions, addresses)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if hard != unlimited and hard < needed:
        raise Refused(
            [
                f"too few file handles: {sessions} sessions in one process need {needed}, the hard limit is "
                f"{hard}; raise it (ulimit -Hn {needed}) or use more processes (--processes)"
            ]
        )
    wanted = max(needed, HANDLES_WHERE_UNLIMITED) if hard == unlimited else hard
    if soft != unlimited and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_target(target: Target, runtime: Runtime) -> None:
    """Ask the server whether it is there and takes our key; without one only whether something is there.
    Raises Refused."""
    if not target.is_known:
        return
    runtime.start()
    if not target.has_key:
        _knock(target, runtime, f"LIVEKIT_URL {target.shown_url}", "a LiveKit server")
        return
    runtime.call(check(target))


async def check(target: Target) -> None:
    """Of a target with a key, on the loop that calls. Raises Refused."""
    try:
        await ask(target)
    except WireError as exc:
        raise Refused([target_fault(target, exc)]) from exc


def target_fault(target: Target, error: WireError) -> str:
    """What is wrong with a server that answered ``ask`` so, and what would do."""
    if not isinstance(error, HttpError):
        return f"LIVEKIT_URL {target.shown_url}: {error.cause}; is a LiveKit server listening there?"
    if error.status in (401, 403):
        return (
            f"{target.shown_url} does not take LIVEKIT_API_KEY {target.shown_key} with this "
            "LIVEKIT_API_SECRET: check that both belong to this server"
        )
    return f"{target.shown_url} answered {error.cause}: is this a LiveKit server?"


def check_backend(options: Mapping[str, Any], runtime: Runtime) -> None:
    """Is something there at --session-url? No request is sent: it would start a session. Raises Refused."""
    try:
        url = Settings.from_options({"session_url": options.get("session_url")}, None).session_url
    except Refused:
        # Said with all that is wrong with the settings.
        return
    if url is not None:
        runtime.start()
        _knock(url, runtime, f"--session-url {url.http_url}", "your backend")


def _knock(address: Address, runtime: Runtime, name: str, what: str) -> None:
    """Connect, with TLS where that is spoken. Raises Refused."""
    try:
        endpoint = Endpoint.resolve(address.host, address.port, address.authority, tls=address.tls)
        runtime.call(knock(endpoint))
    except WireError as exc:
        raise Refused([knock_fault(name, exc, what)]) from exc


def knock_fault(name: str, error: WireError, what: str) -> str:
    """That nobody opened."""
    return f"{name}: {error.cause}; is {what} listening there?"


def load_influx() -> None:
    """Import the client library, which takes half a second: at the start, where nothing waits for us."""
    importlib.import_module("lk_users.sinks.influx")


def influx_cause(influx: Influx) -> str:
    """Why InfluxDB would not take our points; empty if it would."""
    from lk_users.sinks.influx import Database

    database = Database(influx)
    answer = database.write(b"")
    database.close()
    return "" if answer.is_taken else answer.cause


def ask_influx(influx: Influx, *, aloud: bool) -> None:
    """Ask InfluxDB, and say where it would not: a burst does not need it."""
    cause = influx_cause(influx)
    if aloud and cause:
        logger.warning(
            "InfluxDB %s takes no points for bucket %s of org %s: %s. The run goes on, and they wait in its "
            "folder",
            influx.url, influx.bucket, influx.org, cause,
        )  # fmt: skip


async def ask(target: Target) -> None:
    """A read of the API that changes nothing. Raises WireError."""
    api = Api(target.http_url, Keys(target.key, target.secret))
    try:
        await api.rooms(["lk-preflight"])
    finally:
        await api.close()


def collect(read: Callable[[], _T], faults: list[str]) -> _T | None:
    """What ``read`` gives; None where it refuses, its faults then added to ``faults``."""
    try:
        return read()
    except Refused as exc:
        faults.extend(exc.faults)
        return None
