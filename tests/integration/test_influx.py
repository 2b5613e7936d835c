"""Points in a real InfluxDB: all of them, whatever becomes of it while a burst goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from builders import RUN_ID, queued_session, write_run
from conftest import Finished, Running, flux
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS
from slow_proxy import SlowProxy

from lk_users.clock import NS_PER_S
from lk_users.local import influxd as influxd_module
from lk_users.local.influxd import Influxd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.real

# Sessions that do nothing: what is tested here comes after them. They stay so long that there is a while.
IDLE = ("--engine", "idle", "--agent-name", "welcome")
USERS = 60
SIZED = ("-u", str(USERS), "-r", str(USERS), *IDLE)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Influxd]:
    """An InfluxDB of the test's own, to be ill-treated."""
    with Influxd(influxd_module.find_or_build(print), tmp_path / "influxd.log") as up:
        yield up


def sessions(database: Influxd, run_id: str) -> int:
    """How many session points of the run the database has."""
    query = (
        'from(bucket: "{bucket}") |> range(start: 0, stop: 2100-01-01T00:00:00Z) |> filter(fn: (r) => '
        f'r._measurement == "lk_session" and r._field == "ordinal" and r.run == "{run_id}")'
        " |> group() |> count()"
    )
    rows = flux(database, query)
    return int(rows[0]["_value"]) if rows else 0


def values(database: Influxd, run_id: str) -> dict[str, tuple[int, float]]:
    """Field → (how many values of it, their sum), over all measurements but the live one."""
    query = (
        'from(bucket: "{bucket}") |> range(start: 0, stop: 2100-01-01T00:00:00Z) |> filter(fn: (r) => '
        f'r.run == "{run_id}" and r._measurement != "lk_live" and r._field =~ /_ms$|ordinal|_s$/)'
        ' |> toFloat() |> group(columns: ["_measurement", "_field"])'
        " |> reduce(identity: {n: 0, sum: 0.0}, "
        "fn: (r, accumulator) => ({n: accumulator.n + 1, sum: accumulator.sum + r._value}))"
    )
    rows = flux(database, query)
    return {f"{row['_measurement']}.{row['_field']}": (row["n"], round(row["sum"], 3)) for row in rows}


def texts(database: Influxd, run_id: str) -> list[str]:
    query = (
        'from(bucket: "{bucket}") |> range(start: 0, stop: 2100-01-01T00:00:00Z) |> filter(fn: (r) => '
        f'r._measurement == "lk_run" and r._field == "text" and r.run == "{run_id}")'
        ' |> group() |> sort(columns: ["_time"])'
    )
    return [str(row["_value"]) for row in flux(database, query)]


def replay(run_dir: Path, env: Mapping[str, str], code: int = 0) -> str:
    """Both streams of ``lk-users replay``, which has to end with ``code``."""
    done = subprocess.run(
        [sys.executable, "-m", "lk_users.cli", "replay", str(run_dir)],
        env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def account(done: Finished) -> dict[str, Any]:
    """What became of the run's points, and that it adds up."""
    found: dict[str, Any] = done.summary["sinks"]["influx"]
    assert found["accepted"] == found["written"] + found["spooled"] + sum(found["dropped"].values())
    spool = done.run_dir / "spool"
    on_disk = [line for path in spool.glob("*.lp") for line in path.read_bytes().splitlines()]
    assert len(on_disk) == found["spooled"]
    return found


def shown(database: Influxd, done: Finished) -> list[str]:
    """Where the database's token is shown, of all that the run left and said."""
    token = database.token.encode()
    files = [path for path in done.run_dir.rglob("*") if path.is_file() and token in path.read_bytes()]
    return [*map(str, files), *(text for text in (done.stdout, done.stderr) if database.token in text)]


def test_a_burst_is_in_the_database_as_it_is_in_the_summary(
    burst: Callable[..., Finished], stack: Any, influxd: Influxd
) -> None:
    done = burst(20, "--dispatch", "room", "--region", "eu-west", env={**stack.env(), **influxd.env()})
    assert done.code == 0, done.stdout + done.stderr
    found = account(done)
    assert (found["spooled"], found["dropped"]) == (0, {})
    assert sessions(influxd, done.run_dir.name) == 20
    assert shown(influxd, done) == []
    # Their values too: the nearest-rank p90 of what the summary says.
    query = (
        'from(bucket: "{bucket}") |> range(start: -1h) |> filter(fn: (r) => r._measurement == "lk_session" '
        f'and r._field == "wait_welcomed_ms" and r.run == "{done.run_dir.name}" and r.region == "eu-west") '
        "|> group() |> sort() |> limit(n: 1, offset: 17)"
    )
    [row] = flux(influxd, query)
    assert row["_value"] == pytest.approx(done.summary["marks"]["welcomed"]["p90"], abs=0.001)
    assert texts(influxd, done.run_dir.name) == [
        "20 users for agent welcome", "T0 of burst 1: 20 sessions", "PASS",
    ]  # fmt: skip
    live = flux(
        influxd,
        'from(bucket: "{bucket}") |> range(start: -1h) |> filter(fn: (r) => r._measurement == "lk_live" '
        f'and r.run == "{done.run_dir.name}") |> group(columns: ["_field"]) |> max()',
    )
    most = {row["_field"]: row["_value"] for row in live}
    assert most.keys() == {
        "parked", "in_flight", "joined", "agents", "welcomed", "failed", "lag_ms", "queued", "spooled",
    }  # fmt: skip
    assert (most["parked"], most["joined"], most["failed"]) == (20, 20, 0)


def test_six_hundred_of_one_t0_are_six_hundred_points_and_a_replay_changes_nothing(
    burst: Callable[..., Finished], stack: Any, influxd: Influxd
) -> None:
    options = ("--engine", "idle", "--bursts", "2", "--processes", "2")
    done = burst(600, *options, env={**stack.env(), **influxd.env()})
    assert done.code == 0, done.stdout + done.stderr
    assert account(done)["spooled"] == 0
    run_id = done.run_dir.name
    before = values(influxd, run_id)
    assert before["lk_session.ordinal"] == (1200, float(sum(range(600)) * 2))
    assert before["lk_worker.cpu_s"][0] == 4
    assert "1208 points of run" in replay(done.run_dir, influxd.env())
    assert values(influxd, run_id) == before
    replay(done.run_dir, influxd.env())
    assert values(influxd, run_id) == before
    assert len(texts(influxd, run_id)) == 4


def test_a_database_that_is_down_at_the_start_and_comes_back(
    start: Callable[..., Running], stack: Any, database: Influxd
) -> None:
    database.kill()
    running = start(*SIZED, "--watch", "8", env={**stack.env(), **database.env()})
    running.wait_for_text("takes no points for bucket lk-users of org lk-users: connection refused")
    running.wait_for_text("T0 of burst 1")
    # It goes on failing meanwhile, so that there is something to bring back.
    running.wait_for(lambda: any(running.runs.glob("*/spool/*.lp")), 20)
    database.start()
    done = running.finish()
    assert done.code == 0, done.stdout + done.stderr
    found = account(done)
    assert (found["spooled"], found["dropped"]) == (0, {})
    assert not list(done.run_dir.glob("spool/*"))
    assert sessions(database, done.run_dir.name) == USERS
    assert texts(database, done.run_dir.name)[-1] == "PASS"
    assert "could not be written" not in done.stdout


def test_a_database_that_stays_away_costs_nothing_but_a_replay(
    burst: Callable[..., Finished], stack: Any, database: Influxd
) -> None:
    database.kill()
    done = burst(USERS, *IDLE[:2], env={**stack.env(), **database.env()})
    assert done.code == 0, done.stdout + done.stderr
    found = account(done)
    assert found["written"] == 0
    assert found["dropped"] == {}
    assert found["spooled"] == found["accepted"] > USERS
    assert shown(database, done) == []
    text = (
        f"{found['spooled']} points could not be written to InfluxDB (connection refused) and lie in spool/: "
        "`lk-users replay RUN_DIR` sends them."
    )
    assert text in " ".join(done.stdout.split())
    assert text in (done.run_dir / "summary.md").read_text()
    said = replay(done.run_dir, database.env(), code=1)
    assert "connection refused; nothing is lost, start it again" in said
    assert account(done)["spooled"] == found["spooled"]
    database.start()
    replay(done.run_dir, database.env())
    assert sessions(database, done.run_dir.name) == USERS
    assert not (done.run_dir / "spool").exists()


@pytest.mark.parametrize("wrong", ["token", "bucket", "org"])
def test_one_that_refuses_us_is_said_before_the_burst(
    wrong: str, start: Callable[..., Running], stack: Any, influxd: Influxd
) -> None:
    name, said = {
        "token": ("INFLUX_TOKEN", "HTTP 401: unauthorized access"),
        "bucket": ("LK_INFLUX_BUCKET", 'HTTP 404: bucket "nowhere" not found'),
        "org": ("LK_INFLUX_ORG", 'HTTP 404: organization name "nowhere" not found'),
    }[wrong]
    env = {**influxd.env(), name: "nowhere"}
    done = start(*SIZED, env={**stack.env(), **env}).finish()
    assert done.code == 0, done.stdout + done.stderr
    assert done.stderr.count("takes no points for bucket") == 1
    assert done.stderr.index(f": {said}. The run goes on") < done.stderr.index("T0 of burst 1")
    assert account(done)["spooled"] == account(done)["accepted"]
    assert said in replay(done.run_dir, env, code=1)
    assert sessions(influxd, done.run_dir.name) == 0
    replay(done.run_dir, influxd.env())
    assert sessions(influxd, done.run_dir.name) == USERS
    assert shown(influxd, done) == []


def test_a_database_killed_in_mid_write_has_every_point_in_the_end(
    start: Callable[..., Running], stack: Any, database: Influxd
) -> None:
    with SlowProxy(database.port) as proxy:
        env = {**stack.env(), **database.env(), "LK_INFLUX_URL": proxy.url}
        running = start(*SIZED, "--watch", "6", env=env)
        running.wait_for_text("T0 of burst 1")
        # Answers stay away from here on: each write is one in the middle when it dies.
        proxy.delay_s = 30.0
        asked = len(proxy.began_ns)
        running.wait_for(lambda: len(proxy.began_ns) > asked, 20)
        database.kill()
        done = running.finish()
    assert done.code == 0, done.stdout + done.stderr
    found = account(done)
    assert found["dropped"] == {}
    assert found["spooled"] > USERS
    database.start()
    replay(done.run_dir, database.env())
    assert sessions(database, done.run_dir.name) == USERS


def test_slow_answers_keep_the_end_of_the_run_for_a_bounded_time(
    start: Callable[..., Running], stack: Any, influxd: Influxd
) -> None:
    with SlowProxy(influxd.port, delay_s=10.0) as proxy:
        env = {**stack.env(), **influxd.env(), "LK_INFLUX_URL": proxy.url}
        began_s = time.monotonic()
        done = start(*SIZED, env=env).finish(90)
        took_s = time.monotonic() - began_s
    assert done.code == 0, done.stdout + done.stderr
    # The worker's and the master's last word may wait 15 s each.
    assert took_s < 45
    assert account(done)["dropped"] == {}
    replay(done.run_dir, influxd.env())
    assert sessions(influxd, done.run_dir.name) == USERS


def test_no_request_begins_while_the_bursts_own_may_leave(
    start: Callable[..., Running], stack: Any, influxd: Influxd
) -> None:
    batches = ("--batch-size", "20", "--batch-delay", "2", "--watch", "4", "--bursts", "2")
    with SlowProxy(influxd.port) as proxy:
        env = {**stack.env(), **influxd.env(), "LK_INFLUX_URL": proxy.url}
        done = start(*SIZED, *batches, env=env).finish(90)
        began_ns = sorted(proxy.began_ns)
    assert done.code == 0, done.stdout + done.stderr
    assert account(done)["spooled"] == 0
    lines = map(json.loads, (done.run_dir / "bursts.jsonl").read_text().splitlines())
    bursts = [line for line in lines if line["t0_wall_ns"]]
    assert [line["burst"] for line in bursts] == [1, 2]
    for announced in bursts:
        fired_ns = [
            record["intended_wall_ns"] + record["marks_ns"]["fired"]
            for record in done.records
            if record["burst"] == announced["burst"]
        ]
        t0_ns = announced["t0_wall_ns"]
        assert max(fired_ns) - t0_ns > 4 * NS_PER_S
        within = [at_ns for at_ns in began_ns if t0_ns - NS_PER_S <= at_ns <= max(fired_ns)]
        assert within == []
        # Before it and after it there were some, so that there is something to keep away.
        assert any(at_ns < t0_ns for at_ns in began_ns)
        assert any(at_ns > max(fired_ns) for at_ns in began_ns)


def test_a_wrong_point_costs_no_other(start: Callable[..., Running], stack: Any, database: Influxd) -> None:
    with InfluxDBClient(database.url, database.token, org=database.org) as client:
        line = f'lk_worker,run=another cpu_s="a text" {time.time_ns()}'
        client.write_api(write_options=SYNCHRONOUS).write(database.bucket, record=line)
    done = start(*SIZED, env={**stack.env(), **database.env()}).finish()
    assert done.code == 0, done.stdout + done.stderr
    cause = (
        'HTTP 422: partial write: field type conflict: input field "cpu_s" on measurement "lk_worker" is '
        "type float, already exists as type string"
    )
    found = account(done)
    assert (found["dropped"], found["spooled"]) == ({cause[:160]: 1}, 0)
    assert sessions(database, done.run_dir.name) == USERS
    assert "1 point for InfluxDB was dropped: HTTP 422" in " ".join(done.stdout.split())
    assert "1 refused: HTTP 422" in replay(done.run_dir, database.env(), code=1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[Path, str], None]]:
    """``small_disk(folder, size)`` makes the folder one of its own file system with so much room."""
    mounted: list[Path] = []

    def mount(folder: Path, size: str) -> None:
        if os.geteuid() != 0:
            pytest.fail("mounting a small tmpfs needs root: run the tests as root")
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_the_one_thing_that_drops_points(
    start: Callable[..., Running], stack: Any, database: Influxd, small_disk: Callable[[Path, str], None]
) -> None:
    database.kill()
    running = start(*SIZED, "--watch", "2", env={**stack.env(), **database.env()})
    running.wait_for(lambda: any(running.runs.glob("*/run.json")))
    [run_dir] = (path.parent for path in running.runs.glob("*/run.json"))
    small_disk(run_dir / "spool", "32k")
    done = running.finish()
    assert done.code == 0, done.stdout + done.stderr
    found = account(done)
    # What fitted is there, and the rest is counted.
    assert found["spooled"] > 5
    assert found["dropped"].keys() == {"No space left on device"}
    assert found["dropped"]["No space left on device"] > USERS // 2
    assert "No space left on device" in " ".join(done.stdout.split())
    database.start()
    replay(done.run_dir, database.env())
    assert sessions(database, done.run_dir.name) == USERS


def test_a_database_whose_disk_is_full_loses_nothing_that_we_do_not_have(
    start: Callable[..., Running], stack: Any, tmp_path: Path, small_disk: Callable[[Path, str], None]
) -> None:
    data = tmp_path / "data"
    small_disk(data, "24m")
    with Influxd(influxd_module.find_or_build(print), tmp_path / "influxd.log", data=data) as database:
        with (data / "ballast").open("wb") as ballast:
            free = shutil.disk_usage(data).free
            ballast.write(b"\0" * (free - 40_000))
        done = start(*SIZED, env={**stack.env(), **database.env()}).finish()
        assert done.code == 0, done.stdout + done.stderr
        found = account(done)
        assert found["dropped"] == {}
        assert found["spooled"] > 0
        (data / "ballast").unlink()
        # As one does after a disk was full.
        database.kill()
        database.start()
        replay(done.run_dir, database.env())
        assert sessions(database, done.run_dir.name) == USERS


def test_a_worker_killed_in_mid_run_has_its_points_too(
    start: Callable[..., Running], stack: Any, influxd: Influxd
) -> None:
    batches = ("--batch-size", "15", "--batch-delay", "3", "--processes", "2", "--trailer-timeout", "5")
    running = start(*SIZED, *batches, env={**stack.env(), **influxd.env()})
    running.wait_for_text("15 heard the welcome")
    psutil.Process(running.process.pid).children()[0].kill()
    done = running.finish()
    assert done.code == 11, done.stdout + done.stderr
    run_id = done.run_dir.name
    assert len(done.records) == 60
    assert sessions(influxd, run_id) == 60
    before = values(influxd, run_id)
    # A line that was cut in the middle, as a kill in mid-write leaves it.
    spool = done.run_dir / "spool"
    spool.mkdir(exist_ok=True)
    (spool / "cut.lp").write_bytes(f'lk_live,run={run_id} parked=1i {time.time_ns()}\nlk_live,run="'.encode())
    replay(done.run_dir, influxd.env())
    assert values(influxd, run_id) == before
    assert not spool.exists()


@pytest.mark.parametrize("how", ["-t", "SIGINT", "SIGTERM"])
@pytest.mark.parametrize("there", [True, False], ids=["there", "away"])
def test_a_run_that_is_stopped_has_its_points(
    how: str, there: bool, start: Callable[..., Running], stack: Any, influxd: Influxd
) -> None:
    env = {**stack.env(), **influxd.env(), **({} if there else {"LK_INFLUX_URL": "http://127.0.0.1:9"})}
    running = start(*SIZED, "--watch", "30", *(("-t", "4s") if how == "-t" else ()), env=env)
    if how != "-t":
        running.wait_for_text(f"{USERS} wait")
        running.signal(signal.Signals[how])
    done = running.finish()
    assert done.code == 11, done.stdout + done.stderr
    assert done.outcomes == {"cancelled": USERS}
    found = account(done)
    assert (found["accepted"] > USERS, found["spooled"] == 0, found["dropped"]) == (True, there, {})
    assert sessions(influxd, done.run_dir.name) == (USERS if there else 0)


def test_users_that_start_as_they_are_spawned_have_their_points(
    start: Callable[..., Running], stack: Any, influxd: Influxd
) -> None:
    options = ("-u", "3", "-r", "3", *IDLE, "--release", "free", "--watch", "1", "-t", "5s")
    done = start(*options, env={**stack.env(), **influxd.env()}).finish()
    assert done.code == 0, done.stdout + done.stderr
    assert account(done)["spooled"] == 0
    run_id = done.run_dir.name
    assert len(done.records) > 3
    assert sessions(influxd, run_id) == len(done.records)
    before = values(influxd, run_id)
    replay(done.run_dir, influxd.env())
    assert values(influxd, run_id) == before


def test_a_run_that_was_killed_replays_whole(
    start: Callable[..., Running], stack: Any, influxd: Influxd
) -> None:
    batches = ("--batch-size", "20", "--batch-delay", "4")
    running = start(*SIZED, *batches, env={**stack.env(), **influxd.env()})
    running.wait_for_text("20 heard the welcome")
    running.signal(signal.SIGKILL)
    running.process.wait()
    [run_dir] = (path.parent for path in running.runs.glob("*/run.json"))
    assert not (run_dir / "summary.json").exists()
    # As a kill in mid-write leaves it.
    with (run_dir / "workers" / "local.jsonl").open("ab") as journal:
        journal.write(b'{"kind":"decided","record":{"run_id":"')
    replay(run_dir, influxd.env())
    assert sessions(influxd, run_dir.name) == USERS
    assert texts(influxd, run_dir.name)[-1].startswith("VOID; ")


def test_five_thousand_records_are_five_thousand_points(influxd: Influxd, tmp_path: Path) -> None:
    rng = random.Random(1)
    records = [queued_session(rng, ordinal) for ordinal in range(5000)]
    write_run(tmp_path / "run", records, workers={"w1": ("eu", 0, 5000)})
    for _ in range(2):
        assert "5004 points of run" in replay(tmp_path / "run", influxd.env())
        assert sessions(influxd, RUN_ID) == 5000
        assert values(influxd, RUN_ID)["lk_session.ordinal"] == (5000, sum(range(5000)))
