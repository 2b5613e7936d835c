"""Deletes the rooms that a run left open, known from its journals: for a run that died."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lk_users.errors import Refused, WireError
from lk_users.report.folder import RunInfo, merge
from lk_users.wire.api import Api, Keys

if TYPE_CHECKING:
    from pathlib import Path

    from lk_users.settings.target import Target

# So many names fit into one request.
NAMES_A_REQUEST = 200


@dataclass(frozen=True)
class Cleaned:
    """What became of a run's rooms."""

    known: int
    """Rooms that the run may have made."""
    deleted: int
    failed: tuple[str, ...]
    """Rooms that are still open, with why."""


@dataclass(frozen=True)
class Rooms:
    """A run's rooms on one server."""

    names: list[str]
    unsure: int
    """Sessions whose room was named by a backend of the user's own, which the journals do not tell."""


def rooms_of(run_dir: Path, target: Target) -> Rooms:
    """Every room of the run. Raises Refused if the run was against another server, RecordError."""
    info = RunInfo.read(run_dir)
    url = info.target.get("url", "")
    if url and url != target.shown_url:
        raise Refused([f"{run_dir}: that run was against {url}, but LIVEKIT_URL is {target.shown_url}"])
    records = merge(run_dir, info, info.run_settings()).records
    # Without LIVEKIT_URL a run learns its server from each session's token.
    here = [record for record in records if url or record.evidence.get("server_url") == target.shown_url]
    unsure = [record for record in records if record.dispatch == "backend" and not record.decided_ns]
    return Rooms([record.room for record in here], len(unsure))


async def delete_open_rooms(names: list[str], target: Target, budget_per_minute: int) -> Cleaned:
    """Delete those of the rooms that are open. Raises Refused if the server can't be asked at all."""
    api = Api(target.http_url, Keys(target.key, target.secret), budget_per_minute)
    deleted, failed = 0, []
    try:
        for start in range(0, len(names), NAMES_A_REQUEST):
            for room in await api.rooms(names[start : start + NAMES_A_REQUEST]):
                try:
                    await api.delete_room(room)
                    deleted += 1
                except WireError as exc:
                    failed.append(f"{room}: {exc.cause}")
    except WireError as exc:
        raise Refused([f"{target.shown_url}: {exc.cause}"]) from exc
    finally:
        await api.close()
    return Cleaned(len(names), deleted, tuple(failed))
