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
from lk_users.settings import ProcessSettings, Settings, Target
from lk_users.wire.api import Api, Keys
from lk_users.wire.armed import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from lk_users.runtime import Runtime
    from lk_users.settings import Influx

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

# macOS calls its hard limit unlimited, and takes no more than some ten thousands.
HANDLES_WHERE_UNLIMITED = 10_240


def check_platform() -> None:
    """Raises Refused on Windows."""
    if sys.platform == "win32":
        raise Refused(["Windows: uvloop has no build for it; use Linux, macOS, WSL or Docker"])


def read_settings(options: Mapping[str, Any], users: int | None, target: Target | None) -> Settings:
    """The run's settings, SLOs and all. Raises Refused with every fault. ``users``, ``target``: None if not
    known."""
    faults: list[str] = []
    cloud = target is not None and target.cloud
    settings = collect(lambda: Settings.from_options(options, users, cloud=cloud), faults)
    text = str(options.get("slo") or "")
    slos = collect(lambda: slo.parse(text), faults)
    if settings is not None and slos is not None:
        faults += slo.unmeasurable(slos, settings)
    if faults or settings is None:
        raise Refused(faults)
    return settings


def read_process(options: Mapping[str, Any]) -> tuple[ProcessSettings, Target]:
    """What this process needs of its own. Raises Refused with every fault."""
    faults: list[str] = []
    process = collect(lambda: ProcessSettings.from_options(options), faults)
    target = collect(Target.from_environment, faults)
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


def addresses_here(target: Target) -> int:
    """How many addresses of this machine each user offers to the target, with a socket each."""
    # It imports WebRTC, which not every command needs.
    from lk_users.wire.seams import host_addresses

    try:
        loopback = Endpoint.resolve(target.host, target.port, target.authority, tls=False).loopback
    except WireError:
        loopback = False
    return max(1, len(host_addresses(loopback=loopback)))


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
    """Ask the server whether it is there and takes our key. Raises Refused."""
    runtime.start()
    runtime.call(check(target))


async def check(target: Target) -> None:
    """The same, on the loop that calls."""
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
