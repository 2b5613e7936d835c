"""What a report says of a run whose tokens came from the user's own backend."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from builders import RUN_ID, never_assigned, welcomed, write_run

from lk_users.report.folder import RUN_FILE
from lk_users.report.make import ending, make_report

if TYPE_CHECKING:
    from pathlib import Path

    from lk_users.record import Record

URL = "https://app.example.com/api/token"
SERVER = "wss://lk.example.com"
NO_KEY = (
    "The server's clock phases (server_queue, accept_to_join) and what became of jobs are not known: no API "
    "key. With LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET they are read afterwards."
)


def backed(ordinal: int, **evidence: Any) -> Record:
    marks = {
        "fired": 1_000_000,
        "session_created": 41_000_000,
        "connected": 51_000_000,
        "welcomed": 90_000_000,
    }
    return welcomed(
        ordinal, 90, marks_ns=marks, order="session-first", dispatch="backend", evidence=evidence
    )  # fmt: skip


def told(run_dir: Path, records: list[Record], target: dict[str, str], **options: Any) -> tuple[str, Any]:
    """The console's ending as one line, and the summary."""
    options = {"session-url": URL, **options}
    write_run(run_dir, records, workers={"w1": ("eu", 0, len(records))}, **options)
    info = json.loads((run_dir / RUN_FILE).read_text())
    (run_dir / RUN_FILE).write_text(json.dumps({**info, "target": target}))
    make_report(run_dir)
    return " ".join(ending(run_dir).split()), json.loads((run_dir / "summary.json").read_text())


def test_without_a_key(tmp_path: Path) -> None:
    text, summary = told(tmp_path, [backed(0), backed(1)], {"url": SERVER, "key": ""})
    assert NO_KEY in text
    assert f"Run {RUN_ID} on {SERVER}: 1 burst, agent front-desk, dispatch by backend, session-first" in text
    assert "session created 41 ms" in text
    assert "44 % of the wait was in the answer of your own backend (session_api:" in text
    assert summary["phases"]["user_join"]["p50"] == 10
    assert NO_KEY in " ".join((tmp_path / "summary.md").read_text().split())


def test_with_a_key(tmp_path: Path) -> None:
    text, summary = told(tmp_path, [backed(0)], {"url": SERVER, "key": "APIa…"})
    assert "not known: no API" not in text
    assert summary["backend"] == {
        "asked": "session-url", "api_key": True, "servers": {},
        "connect_ms": {"n": 0, "p50": None, "p99": None, "max": None},
    }  # fmt: skip


def test_who_comes_to_another_server_than_livekit_url(tmp_path: Path) -> None:
    records = [backed(n, server_url="wss://other.example.com", connect_ms=70.0 + n) for n in range(3)]
    text, summary = told(tmp_path, [*records, backed(3)], {"url": SERVER, "key": "APIa…"})
    assert (
        "3 users opened the connection to the server only once your backend had named it, p50 71 ms, p99 "
        "72 ms of user_join. Where LIVEKIT_URL is that server, it is open before T0."
    ) in text
    assert (
        f"Tokens were for wss://other.example.com (3), while LIVEKIT_URL is {SERVER}, and what the API said "
        "is of the latter."
    ) in text
    assert summary["backend"]["servers"] == {"wss://other.example.com": 3}


@pytest.mark.parametrize("key", ["", "APIa…"])
def test_no_agent_came_is_all_that_is_known_without_a_key(tmp_path: Path, key: str) -> None:
    lost = [never_assigned(n, order="session-first", dispatch="backend") for n in range(2)]
    text, _ = told(tmp_path, lost, {"url": SERVER, "key": key})
    claims = ("no agent worker got the job", "taken by no agent worker")
    assert [claim in text for claim in claims] == [bool(key)] * 2
    assert ("No agent came to 2 of 2 users; their jobs are not known." in text) is not bool(key)
    support = (tmp_path / "support.md").read_text()
    assert ("no agent came; what became of the job is not known" in support) is not bool(key)


def test_without_a_name_any_agent_was_waited_for(tmp_path: Path) -> None:
    text, _ = told(tmp_path, [backed(0)], {"url": "", "key": ""}, **{"agent-name": ""})
    assert f"Run {RUN_ID}: 1 burst, agent any, dispatch by backend" in text


def test_tokens_of_our_own_making_are_not_mentioned(tmp_path: Path) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)})
    make_report(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["backend"] is None
    assert "backend" not in ending(tmp_path)
