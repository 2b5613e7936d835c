"""docker/: the image, the stack over three region networks, one region of workers for a master elsewhere."""

from __future__ import annotations

import faulthandler
import json
import os
import secrets
import time
import urllib.parse
import urllib.request
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import docker_engine
import pytest
from conftest import flux, free_port
from docker_engine import Project, docker
from token_endpoint import TokenEndpoint

from lk_users.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Running

    from lk_users.local.influxd import Influxd
    from lk_users.local.stack import Stack

pytestmark = pytest.mark.real

REGIONS = ("us-east", "eu", "ap")
IMAGE = "lk-users"
USER = 10001
MARKER = f"marker-{secrets.token_hex(8)}"
WAITING = '{"lk": {"fault": "ignore"}}'


class Docker:
    """Engine, Compose and images, ready."""

    def __init__(self, compose: tuple[str, ...], build_env: dict[str, str]) -> None:
        self._compose = compose
        self._build_env = build_env

    @contextmanager
    def project(self, file: str = "compose.yaml", **env: str) -> Iterator[Project]:
        """Taken down at the end, whatever happened; and then nothing may be left of it."""
        name = f"lk-users-test-{secrets.token_hex(3)}"
        project = Project(self._compose, file, name, {**self._build_env, **env})
        try:
            yield project
        finally:
            project.must("down", "-v", "--timeout", "10")
            left = project.leftovers()
        assert left == []


@pytest.fixture(scope="module")
def dock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    # The first time, all of this is built, which takes longer than any test may.
    faulthandler.cancel_dump_traceback_later()
    folder = tmp_path_factory.mktemp("docker")
    try:
        with docker_engine.engine(folder / "dockerd.log"):
            compose = docker_engine.compose(print)
            docker_engine.base_images()
            made = Docker(compose, docker_engine.pip_settings(folder, MARKER))
            with made.project() as project:
                project.must("build", "--quiet", timeout_s=1_200)
            yield made
    except StackError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of the host that the image's user may write to."""
    folder = tmp_path / "compose-runs"
    folder.mkdir()
    os.chown(folder, USER, USER)
    # pytest's own folders are its user's alone.
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(parent.stat().st_mode | 0o011)
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def inside(project: Project, service: str, program: str) -> str:
    """What a Python program prints in a service's container."""
    return project.must("exec", "-T", service, "python", "-c", program).strip()


def sessions_in_the_database(project: Project) -> int:
    """Asked with the token of the volume, by whoever has Python and the network."""
    program = """
import pathlib, time, urllib.error, urllib.request
token = pathlib.Path("/influx/token").read_text()
flux = 'from(bucket: "lk-users") |> range(start: -1h) |> filter(fn: (r) => '
flux += 'r._measurement == "lk_session" and r._field == "ordinal") |> group() |> count()'
headers = {"Authorization": "Token " + token, "Content-Type": "application/vnd.flux"}
url = "http://influxdb:8086/api/v2/query?org=lk-users"
for attempt in range(60):
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, flux.encode(), headers), timeout=10)
        break
    except urllib.error.HTTPError:
        raise
    except OSError:
        time.sleep(0.5)
print(answer.read().decode().split()[1].rsplit(",", 1)[1])
"""
    done = project.must("run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "eu", "-c", program)
    return int(done.split()[-1])


def test_the_base_images_are_made_once(dock: Docker) -> None:
    names = ("python:3.13-slim-trixie", "livekit/livekit-server:v1.13.5", "influxdb:2.7.12")
    ids = [docker("image", "inspect", "--format", "{{.Id}}", name) for name in names]
    started_s = time.monotonic()
    docker_engine.base_images()
    assert time.monotonic() - started_s < 5
    assert [docker("image", "inspect", "--format", "{{.Id}}", name) for name in names] == ids


def test_the_image_is_nobody_s_small_and_knows_no_secret(dock: Docker) -> None:
    facts = json.loads(docker("image", "inspect", IMAGE))[0]
    assert facts["Config"]["User"] == f"{USER}:{USER}"
    assert facts["Config"].get("Volumes") is None
    assert facts["Size"] < 500_000_000
    shown = docker("history", "--no-trunc", IMAGE) + json.dumps(facts)
    for secret in (MARKER, "LIVEKIT_API", "index-url", "PIP_"):
        assert secret not in shown
    look = (
        f"id -u; ls /run/secrets 2>/dev/null; grep -rl {MARKER} /etc /opt /app /root /tmp 2>/dev/null; true"
    )
    assert docker("run", "--rm", "--entrypoint", "sh", IMAGE, "-c", look).split() == [str(USER)]


def test_a_headless_burst_over_three_regions(dock: Docker, runs: Path) -> None:
    env = {"LOCUST_HEADLESS": "true", "LK_RUNS": str(runs), "LK_WEB_PORT": str(free_port())}
    with dock.project(**env) as project:
        done = project.run("up", "--exit-code-from", "master", "--no-color", "master", timeout_s=300)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "PASS: every SLO was met" in said
        # The database outlives the run, and has each of its sessions: the burst's, and the one before it.
        project.must("start", "influxdb")
        assert sessions_in_the_database(project) == 301
    (run,) = runs.iterdir()
    every, summary = lines(run / "records.jsonl"), json.loads((run / "summary.json").read_text())
    records = [record for record in every if record["role"] == "burst"]
    assert len(every) == len(records) + 1
    assert (summary["verdict"], summary["exit_code"]) == ("PASS", 0)
    assert summary["sessions"] == {"intended": 300, "recorded": 300, "unrecorded": 0, "uncounted": 0}
    assert Counter(record["region"] for record in records) == dict.fromkeys(REGIONS, 100)
    assert len({record["session_id"] for record in records}) == 300
    # What the workers wrote, of three file systems that are gone by now.
    assert len(list((run / "workers").glob("*.jsonl"))) == 3
    # One of them also had the user who was alone.
    assert sorted(worker["sessions"] for worker in summary["workers"]) == [100, 100, 101]
    assert {worker["region"] for worker in summary["workers"]} == set(REGIONS)
    assert summary["start_error_ms"]["p99"] <= 50
    # Late welcomes are the two cores', on which all of this runs.
    assert set(summary["outcomes"]) <= {"ok", "welcome_late"}
    assert summary["outcomes"]["ok"] >= 150
    assert [rule["ok"] for rule in summary["slo"]] == [True, True]
    for path in run.rglob("*"):
        assert path.is_dir() or path.stat().st_uid == USER


def test_the_web_ui_and_the_end_in_mid_burst(dock: Docker, runs: Path) -> None:
    port = free_port()
    with dock.project(LK_RUNS=str(runs), LK_WEB_PORT=str(port)) as project:
        project.must("up", "--detach", "master")

        def wait(seen: Callable[[], bool], timeout_s: float = 60) -> None:
            deadline_s = time.monotonic() + timeout_s
            while not seen():
                assert time.monotonic() < deadline_s, project.run("logs").stdout
                time.sleep(0.2)

        def call(path: str, **form: str) -> dict[str, Any]:
            data = urllib.parse.urlencode(form).encode() if form else None
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data=data, timeout=10) as response:
                return dict(json.loads(response.read()))

        def ready() -> bool:
            try:
                return len(call("/stats/requests")["workers"]) == 3
            except OSError:
                return False

        wait(ready)
        for service in ("master", "agent", *REGIONS):
            assert inside(project, service, "import os; print(os.getuid())") == str(USER)
        regions_are_apart(project)

        for number in (1, 2):
            assert call("/swarm", user_count="12", spawn_rate="12")["success"] is True
            wait(lambda: len(list(runs.glob("*/summary.json"))) == number)  # noqa: B023
            wait(lambda: call("/stats/requests")["state"] == "stopped")
        for run in runs.iterdir():
            summary = json.loads((run / "summary.json").read_text())
            assert (summary["verdict"], summary["outcomes"]) == ("PASS", {"ok": 12})
            assert Counter(r["region"] for r in lines(run / "records.jsonl")) == dict.fromkeys(REGIONS, 4)

        assert call("/swarm", user_count="12", spawn_rate="12", metadata=WAITING)["success"] is True
        wait(lambda: len(list(runs.glob("*/bursts.jsonl"))) == 3)
        project.must("stop")
        state = json.loads(project.must("ps", "--all", "--format", "json", "master").splitlines()[0])
        assert state["ExitCode"] == 11
    void = max(runs.iterdir())
    summary = json.loads((void / "summary.json").read_text())
    assert (summary["verdict"], summary["exit_code"]) == ("VOID", 11)
    assert summary["outcomes"] == {"cancelled": 12}
    assert Counter(r["region"] for r in lines(void / "records.jsonl")) == dict.fromkeys(REGIONS, 4)


REACH = """
import socket, sys
for host, port in (("livekit", 7880), ("master", 5557), *((ip, 5557) for ip in sys.argv[1:])):
    try:
        socket.create_connection((host, port), timeout=1).close()
        print("yes")
    except OSError:
        print("no")
"""


NAMES = f"""
import socket
for name in {REGIONS!r}:
    try:
        socket.gethostbyname(name)
        print(name)
    except OSError:
        pass
"""


def regions_are_apart(project: Project) -> None:
    """Each reaches server and master over its own network, and nothing on another region's."""
    networks = json.loads(docker("inspect", f"{project.name}-master-1"))[0]["NetworkSettings"]["Networks"]
    addresses = {region: networks[f"{project.name}_{region}"]["IPAddress"] for region in REGIONS}
    for region in REGIONS:
        own = addresses[region]
        others = [address for name, address in addresses.items() if name != region]
        program = f"import sys; sys.argv[1:] = {[own, *others]!r}{REACH}"
        assert inside(project, region, program).split() == ["yes", "yes", "yes", "no", "no"]
        assert inside(project, region, NAMES).split() == [region]


def test_one_region_for_a_master_elsewhere(
    dock: Docker, stack: Stack, start: Callable[..., Running], runs: Path
) -> None:
    port = str(free_port())
    sized = ("-u", "20", "-r", "20", "--expect-workers", "2", "--agent-name", "welcome")
    master = start("--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port, *sized)
    here = {"LK_MASTER_HOST": "127.0.0.1", "LK_MASTER_PORT": port, "LK_REGION": "eu", "LK_WORKERS": "2"}
    with dock.project("worker.yaml", **stack.env(), **here, LK_RUNS=str(runs)) as project:
        project.must("up", "--detach")
        done = master.finish(90)
        assert (done.code, done.outcomes) == (0, {"ok": 20}), done.stdout + done.stderr
        (container,) = project.must("ps", "--all", "--quiet").split()
        shown = docker("inspect", container)
        assert stack.env()["LIVEKIT_API_SECRET"] not in shown
        assert docker("wait", container).strip() == "0"
        # Each worker keeps on its own machine what it told the master.
        (kept,) = runs.iterdir()
        assert kept.name == done.run_dir.name
        journals = [line for path in (kept / "workers").iterdir() for line in lines(path)]
        told = [line["record"]["session_id"] for line in journals if line["kind"] == "record"]
        assert sorted(told) == sorted(record["session_id"] for record in done.records)
    assert {record["region"] for record in done.records} == {"eu"}
    assert len({record["worker"] for record in done.records}) == 2


def test_one_region_by_the_user_s_own_backend_and_with_points(
    dock: Docker, stack: Stack, influxd: Influxd, start: Callable[..., Running], runs: Path
) -> None:
    """No API key anywhere; the region has its own secrets, and writes its own points."""
    port = str(free_port())
    opens = f"Bearer {MARKER}"
    with TokenEndpoint(stack.env()) as endpoint:
        sized = ("-u", "20", "-r", "20", "--expect-workers", "1", "--agent-name", "welcome")
        without_key = {"LIVEKIT_URL": stack.env()["LIVEKIT_URL"], "LK_SESSION_AUTHORIZATION": opens}
        bound = ("--master-bind-host", "127.0.0.1", "--master-bind-port", port)
        master = start(
            "--master", *bound, *sized, "--session-url", endpoint.url, "--baseline", "0", env=without_key
        )
        here = {"LK_MASTER_HOST": "127.0.0.1", "LK_MASTER_PORT": port, "LK_REGION": "eu", **influxd.env()}
        here["LK_SESSION_URL"] = endpoint.url
        with dock.project("worker.yaml", **without_key, **here, LK_RUNS=str(runs)) as project:
            project.must("up", "--detach")
            done = master.finish(90)
            (container,) = project.must("ps", "--all", "--quiet").split()
            shown = docker("inspect", container)
            assert docker("wait", container).strip() == "0", project.run("logs").stdout
    assert (done.code, done.outcomes) == (0, {"ok": 20}), done.stdout + done.stderr
    assert [headers["Authorization"] for headers, _ in endpoint.requests] == [opens] * 20
    for secret in (MARKER, influxd.token):
        assert secret not in shown
    written = flux(
        influxd,
        'from(bucket: "{bucket}") |> range(start: -1h) |> filter(fn: (r) => r._measurement == "lk_session" '
        f'and r._field == "ordinal" and r.run == "{done.run_dir.name}") |> group() |> count()',
    )
    assert [row["_value"] for row in written] == [20]
