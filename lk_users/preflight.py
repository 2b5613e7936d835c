"""What can be known to fail before the first user starts, each as one clear line."""

from __future__ import annotations

import contextlib
import importlib
import logging
import resource
import sys
from typing import TYPE_CHECKING, TypeVar

from lk_users import slo
from lk_users.errors import HttpError, Refused, WireError
from lk_users.settings import ProcessSettings, Settings, Target
from lk_users.wire.api import Api, Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from lk_users.runtime import Runtime
    from lk_users.settings import Influx

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

# A session holds a UDP socket, a WebSocket and, until it is answered, its dispatch's connection.
HANDLES_PER_SESSION = 3
HANDLES_BESIDE = 256
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
    if target is not None and target.cloud and process is not None and not process.allow_cloud:
        faults.append(
            f"{target.shown_url}: LiveKit Cloud bills agent minutes and connection minutes of every session, "
            "and its terms restrict load tests. A burst of 600 sessions that stay half a minute costs about "
            "300 agent minutes. If that is meant: --allow-cloud yes"
        )
    if faults or process is None or target is None:
        raise Refused(faults)
    return process, target


def raise_handle_limit(sessions: int) -> None:
    """Make all the room for sockets that this process may have. Raises Refused if so many sessions need more.

    A worker does not know how many it will get: it asks for one.
    """
    needed = sessions * HANDLES_PER_SESSION + HANDLES_BESIDE
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
    try:
        runtime.call(_ask(target))
    except HttpError as exc:
        if exc.status in (401, 403):
            fault = (
                f"{target.shown_url} does not take LIVEKIT_API_KEY {target.shown_key} with this "
                "LIVEKIT_API_SECRET: check that both belong to this server"
            )
        else:
            fault = f"{target.shown_url} answered {exc.cause}: is this a LiveKit server?"
        raise Refused([fault]) from exc
    except WireError as exc:
        raise Refused(
            [f"LIVEKIT_URL {target.shown_url}: {exc.cause}; is a LiveKit server listening there?"]
        ) from exc


def load_influx() -> None:
    """Import the client library, which takes half a second: at the start, where nothing waits for us."""
    importlib.import_module("lk_users.sinks.influx")


def ask_influx(influx: Influx, *, aloud: bool) -> None:
    """Ask InfluxDB whether it would take our points, and say where not: a burst does not need it."""
    from lk_users.sinks.influx import Database

    database = Database(influx)
    answer = database.write(b"")
    database.close()
    if aloud and not answer.is_taken:
        logger.warning(
            "InfluxDB %s takes no points for bucket %s of org %s: %s. The run goes on, and they wait in its "
            "folder",
            influx.url, influx.bucket, influx.org, answer.cause,
        )  # fmt: skip


async def _ask(target: Target) -> None:
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
