"""Which rooms of a run can be deleted: those whose name and server its journals tell."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from builders import record, welcomed, write_run

from lk_users.cleanup import rooms_of
from lk_users.errors import Refused
from lk_users.report.folder import RUN_FILE
from lk_users.settings.target import Target

if TYPE_CHECKING:
    from pathlib import Path

HERE = Target("lk.example.com", 443, tls=True, key="k", secret="s")
THERE = "wss://other.example.com"


def run(run_dir: Path, url: str) -> None:
    """Of a token endpoint: one session here, one elsewhere, one that was never decided."""
    backed: dict[str, Any] = {"dispatch": "backend", "order": "session-first"}
    records = [
        welcomed(0, room="own-0", evidence={"server_url": HERE.shown_url}, **backed),
        welcomed(1, room="own-1", evidence={"server_url": THERE}, **backed),
        record(2, **backed),
    ]
    write_run(run_dir, records, workers={"w1": ("eu", 0, 3)})
    info = json.loads((run_dir / RUN_FILE).read_text())
    (run_dir / RUN_FILE).write_text(json.dumps({**info, "target": {"url": url, "key": ""}}))


def test_with_livekit_url_all_are_there(tmp_path: Path) -> None:
    run(tmp_path, HERE.shown_url)
    rooms = rooms_of(tmp_path, HERE)
    assert (rooms.names[:2], len(rooms.names), rooms.unsure) == (["own-0", "own-1"], 3, 1)


def test_without_it_those_whose_tokens_named_the_server(tmp_path: Path) -> None:
    run(tmp_path, "")
    rooms = rooms_of(tmp_path, HERE)
    assert (rooms.names, rooms.unsure) == (["own-0"], 1)


def test_a_run_against_another_server_is_left_alone(tmp_path: Path) -> None:
    run(tmp_path, THERE)
    with pytest.raises(Refused, match=r"that run was against wss://other.example.com, but LIVEKIT_URL is"):
        rooms_of(tmp_path, HERE)


def test_of_rooms_that_we_named_nothing_is_unsure(tmp_path: Path) -> None:
    write_run(tmp_path, [welcomed(0), record(1)], workers={"w1": ("eu", 0, 2)})
    assert rooms_of(tmp_path, Target("127.0.0.1", 7880, tls=False)).unsure == 0
