"""Two LiveKit servers that share their rooms by Redis, as a real deployment has them: users come in by one of
them, and each room is on either."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import pytest
from conftest import free_port, open_rooms

from lk_users.local import process
from lk_users.local.server import HOST, Server, find_or_build
from lk_users.local.stack import AGENT_NAME
from lk_users.record import Record
from lk_users.report.clocks import contradictions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Finished, Running

    from lk_users.local.process import Child

pytestmark = pytest.mark.real

USERS = 30
START_S = 20.0
SESSION_TIMEOUT_S = 20
# Two timeouts of the server's API for rooms of a node that is gone, and what an end takes beside that: jobs
# that may be listed late, agents that leave, the report.
END_S = 6 + 20


class Cluster:
    """The nodes and, on the first of them, the reference agent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        binary = find_or_build(None, print)
        redis = {"redis": {"address": f"{HOST}:{self._port}"}}
        self.nodes = [Server(binary, folder / f"node{number}.log", extra=redis) for number in range(2)]
        first, second = self.nodes
        second.api_key, second.api_secret = first.api_key, first.api_secret
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        try:
            redis = ["redis-server", "--port", str(self._port), "--bind", HOST, "--save", ""]
            self._start(redis, "redis.log", "Ready to accept connections")
            for node in self.nodes:
                node.start()
            agent = [sys.executable, "-m", "lk_users.local.agent", "--url", self.nodes[0].url]
            self._start([*agent, "--agent-name", AGENT_NAME], "agent.log", "ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # A node does not end without its Redis, which is the first of the children.
        for child in self._children[1:]:
            process.stop(child)
        for node in self.nodes:
            node.stop()
        for child in self._children[:1]:
            process.stop(child)

    def env(self) -> dict[str, str]:
        """For users: they come in by the first node."""
        return self.nodes[0].env()

    def _start(self, command: list[str], name: str, ready: str) -> None:
        log = self._folder / name
        env = os.environ | self.env() | {"PYTHONUNBUFFERED": "1"}
        self._children.append(process.spawn(command, env=env, log=log, cwd=self._folder))
        otherwise = f"{command[0]} was not ready"
        process.wait_until(lambda: ready in log.read_text(), START_S, otherwise, log, time.sleep)


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Cluster]:
    """``with clusters() as cluster``: one of its own."""
    if shutil.which("redis-server") is None:
        pytest.fail("a cluster shares its rooms by Redis; on Debian: apt install redis-server", pytrace=False)
    return lambda: Cluster(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def cluster(clusters: Callable[[], Cluster]) -> Iterator[Cluster]:
    with clusters() as up:
        yield up


def node_of(record: dict[str, Any]) -> str:
    found = re.search(r" node (ND_\w+) ", record["evidence"]["server"])
    assert found is not None
    return found[1]


@pytest.mark.parametrize("way", ["api", "room", "token"])
def test_users_of_both_nodes_are_heard_and_their_rooms_deleted(
    way: str, cluster: Cluster, burst: Callable[..., Finished]
) -> None:
    done = burst(USERS, "--dispatch", way, env=cluster.env())
    assert (done.code, done.outcomes) == (0, {"ok": USERS}), done.stdout
    assert len({node_of(record) for record in done.records}) == 2
    assert done.summary["server_clock"]["nodes"] == 2
    for record in done.records:
        assert record["worker_id"]
        assert contradictions(Record.from_dict(record)) == []
    assert open_rooms(cluster, [record["room"] for record in done.records]) == ()


def test_a_node_that_is_killed_costs_its_own_rooms_and_the_run_ends_soon(
    clusters: Callable[[], Cluster], start: Callable[..., Running]
) -> None:
    slow = json.dumps({"lk": {"fault": "slow_welcome", "delay_ms": 5000}})
    with clusters() as cluster:
        running = start(
            "-u", str(USERS), "-r", str(USERS), "--agent-name", AGENT_NAME, "--dispatch", "room",
            "--metadata", slow, "--session-timeout", str(SESSION_TIMEOUT_S), env=cluster.env(),
        )  # fmt: skip
        running.wait_for_text(f"{USERS} wait")
        pid = cluster.nodes[1].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        began_s = time.monotonic()
        done = running.finish()
        assert time.monotonic() - began_s < SESSION_TIMEOUT_S + END_S
    assert (done.code, done.summary["sessions"]["recorded"]) == (10, USERS), done.stdout
    assert done.outcomes.keys() == {"ok", "connection_lost"}, done.stdout
    # Each user was on one of them, and the survivor lost nobody.
    nodes: dict[bool, set[str]] = {True: set(), False: set()}
    for record in done.records:
        nodes["connection_lost" in record["findings"]].add(node_of(record))
    assert (len(nodes[True]), len(nodes[False]), nodes[True] & nodes[False]) == (1, 1, set())
    for text in ("Traceback", "on the sessions' loop"):
        assert text not in done.stdout + done.stderr
