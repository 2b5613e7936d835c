"""The web UI: a start that can't be is answered with the reason; a burst can be started again."""

from __future__ import annotations

import json
import signal
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from conftest import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Finished, Running

pytestmark = pytest.mark.real

WAITING = {"metadata": '{"lk": {"fault": "ignore"}}'}


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

    def stop(self) -> None:
        with urllib.request.urlopen(f"{self._url}/stop", data=b"", timeout=30) as response:
            assert json.loads(response.read())["success"] is True

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
    port = free_port()
    running = start("--web-host", "127.0.0.1", "--web-port", str(port), headless=False)
    made = Ui(running, port)
    made.wait_until_up()
    return made


def end(ui: Ui) -> Finished:
    ui.running.signal(signal.SIGTERM)
    done = ui.running.finish(20)
    assert "Traceback" not in done.stderr + done.stdout
    return done


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"batch_size": "99"}, "--batch-size 99: larger than the burst of 5 (--users)"),
        ({"user_count": "0"}, "--users 0: a burst needs at least one user, for example -u 50"),
        ({"user_count": "many"}, "users 'many': not a whole number"),
        ({"watch": "soon", "welcome": "smell"}, "--welcome smell: unknown item"),
        ({"watch": "soon", "welcome": "smell"}, "--watch soon: not a number"),
        ({"slo": "nonsense"}, "--slo 'nonsense': character 1: unknown function nonsense()"),
        (
            {"slo": "count(lost) == 0;\n p95(agent_joind) <= 3s"},
            "--slo 'p95(agent_joind) <= 3s': character 5: unknown name agent_joind; nearest: agent_joined",
        ),
        ({"slo": " "}, "--slo: empty, so nothing would say what a pass is"),
    ],
    ids=["batch", "no user", "no number", "two: one", "two: other", "slo", "one of two slos", "no slo"],
)
def test_a_start_that_cannot_be_says_why(ui: Ui, fields: dict[str, str], line: str) -> None:
    answer = ui.start(**fields)
    assert answer["success"] is False
    assert line in answer["message"]
    assert "\n" not in answer["message"]
    assert ui.stats()["state"] == "ready"
    assert list(ui.running.runs.glob("*")) == []


def test_bursts_one_after_another(ui: Ui) -> None:
    assert ui.start(batch_size="99")["success"] is False
    for number in (1, 2):
        assert ui.start(slo="count(lost) == 0; max(welcomed) by region <= 60s")["success"] is True
        ui.wait_for_summaries(number)
        ui.wait_until_stopped()
        assert ui.requests("session") == 5
        assert ui.requests("dispatch_api") == ui.requests("server_queue") == ui.requests("welcomed") == 5
    done = end(ui)
    assert done.code == 0, done.stderr
    assert len(done.run_dirs) == 2
    assert done.outcomes == {"ok": 5}
    assert done.stdout.count("PASS: ") == 2
    assert [slo["worst"] for slo in done.summary["slo"]] == ["", "region=local"]


def test_a_burst_under_way_is_not_changed(ui: Ui) -> None:
    ui.start(**WAITING, session_timeout="6")
    ui.running.wait_for_text("5 wait")
    refused = ui.start(user_count="9")
    assert refused["success"] is False
    assert "a run is under way" in refused["message"]
    ui.wait_until_stopped()
    done = end(ui)
    assert done.code == 10
    assert done.outcomes == {"never_assigned": 5}


def test_the_stop_button_cancels_and_the_worst_run_is_the_exit_code(ui: Ui) -> None:
    ui.start(**WAITING)
    ui.running.wait_for_text("5 wait")
    ui.stop()
    ui.wait_until_stopped()
    stopped = json.loads(next(ui.running.runs.glob("*/summary.json")).read_text())
    assert (stopped["verdict"], stopped["outcomes"]) == ("VOID", {"cancelled": 5})

    ui.start(metadata="")
    ui.wait_for_summaries(2)
    ui.wait_until_stopped()
    done = end(ui)
    assert (done.summary["verdict"], done.outcomes) == ("PASS", {"ok": 5})
    assert done.code == 11


def test_sigterm_in_mid_burst_cancels_what_is_open(ui: Ui) -> None:
    ui.start(**WAITING)
    ui.running.wait_for_text("5 wait")
    done = end(ui)
    assert done.code == 11
    assert done.outcomes == {"cancelled": 5}
    assert done.stdout.count("VOID: ") == 1
