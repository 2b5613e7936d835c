"""The web UI: a start that can't be is answered with the reason; a burst can be started again."""

from __future__ import annotations

import json
import signal
import socket
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Running

pytestmark = pytest.mark.real


class Ui:
    """The web UI of a run, by HTTP."""

    def __init__(self, running: Running, port: int) -> None:
        self.running = running
        self._url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self._url + path, timeout=10) as response:
            return bytes(response.read())

    def start(self, **fields: str) -> dict[str, Any]:
        form = {"user_count": "5", "spawn_rate": "5", "agent_name": "welcome", **fields}
        data = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(f"{self._url}/swarm", data=data, timeout=10) as response:
            return dict(json.loads(response.read()))

    def stats(self) -> dict[str, Any]:
        return dict(json.loads(self.get("/stats/requests")))

    def requests(self, name: str) -> int:
        return sum(item["num_requests"] for item in self.stats()["stats"] if item["name"] == name)

    def wait_until_stopped(self) -> None:
        self.running.wait_for(lambda: self.stats()["state"] == "stopped", 60)

    def wait_for_summaries(self, number: int) -> None:
        self.running.wait_for(lambda: len(list(self.running.runs.glob("*/summary.json"))) == number, 60)

    def wait_until_up(self) -> None:
        def up() -> bool:
            try:
                return bool(self.get("/"))
            except OSError:
                return False

        self.running.wait_for(up)


@pytest.fixture
def ui(start: Callable[..., Running]) -> Ui:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = start("--web-host", "127.0.0.1", "--web-port", str(port), headless=False)
    made = Ui(running, port)
    made.wait_until_up()
    return made


def test_bursts_one_after_another(ui: Ui) -> None:
    refused = ui.start(batch_size="99")
    assert refused["success"] is False
    assert "--batch-size 99: larger than the burst of 5" in refused["message"]

    for number in (1, 2):
        assert ui.start()["success"] is True
        ui.wait_for_summaries(number)
        ui.wait_until_stopped()
        assert ui.requests("session") == 5
        assert ui.requests("dispatch_api") == ui.requests("server_queue") == ui.requests("welcomed") == 5

    ui.running.signal(signal.SIGTERM)
    done = ui.running.finish()
    assert done.code == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.outcomes == {"ok": 5}


def test_a_burst_under_way_is_not_changed(ui: Ui) -> None:
    ui.start(metadata='{"lk": {"fault": "ignore"}}', session_timeout="6")
    ui.running.wait_for_text("5 wait")
    refused = ui.start(user_count="9")
    assert refused["success"] is False
    assert "a run is under way" in refused["message"]
    ui.wait_until_stopped()
    ui.running.signal(signal.SIGTERM)
    assert ui.running.finish().code == 10
