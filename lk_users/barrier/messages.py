"""The messages of the barrier, and who may take part at all. Pure."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from lk_users.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping


class Kind(enum.StrEnum):
    """The messages; Locust names them as they are here."""

    HELLO = "lk_hello"
    PING = "lk_ping"
    PARKED = "lk_parked"
    BUILT = "lk_built"
    DECIDED = "lk_decided"
    RECORDS = "lk_records"
    TRAILER = "lk_trailer"

    WHO = "lk_who"
    REFUSED = "lk_refused"
    PONG = "lk_pong"
    SHARE = "lk_share"
    T0 = "lk_t0"
    ACK = "lk_ack"
    LOOK = "lk_look"
    COLLECT = "lk_collect"
    CANCEL = "lk_cancel"
    FINISH = "lk_finish"


TO_MASTER = (Kind.HELLO, Kind.PING, Kind.PARKED, Kind.BUILT, Kind.DECIDED, Kind.RECORDS, Kind.TRAILER)
TO_WORKER = (
    Kind.WHO, Kind.REFUSED, Kind.PONG, Kind.SHARE, Kind.T0, Kind.ACK, Kind.LOOK, Kind.COLLECT, Kind.CANCEL,
    Kind.FINISH,
)  # fmt: skip


def refusal(worker: str, hello: Mapping[str, Any]) -> str:
    """Why a worker that says hello can't take part; empty where it can."""
    version = hello.get("version")
    if version == VERSION:
        return ""
    return f"worker {worker} runs lk-users {version}, the master {VERSION}: use one version"
