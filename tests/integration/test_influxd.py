"""The InfluxDB of tests and benches: one of our own, gone without a trace."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from conftest import flux
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS

from lk_users.errors import StackError
from lk_users.local import influxd as influxd_module
from lk_users.local import process
from lk_users.local.influxd import Influxd

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.real

NOW_NS = time.time_ns()
ALL = 'from(bucket: "{bucket}") |> range(start: -1h) |> group() |> count()'


@pytest.fixture(scope="module")
def binary() -> Path:
    return influxd_module.find_or_build(print)


def write(database: Influxd, lines: str) -> None:
    with InfluxDBClient(database.url, database.token, org=database.org) as client:
        client.write_api(write_options=SYNCHRONOUS).write(database.bucket, record=lines)


def test_two_beside_each_other_share_nothing(binary: Path, tmp_path: Path) -> None:
    with Influxd(binary, tmp_path / "1.log") as one, Influxd(binary, tmp_path / "2.log") as other:
        write(one, f"m,t=a f=1 {NOW_NS}\nm,t=b f=1 {NOW_NS}")
        assert [row["_value"] for row in flux(one, ALL)] == [2]
        assert flux(other, ALL) == []
        assert one.token != other.token
        assert {connection.laddr.ip for connection in psutil.Process(one.pid).net_connections()} == {
            "127.0.0.1"
        }


def test_what_it_acknowledged_survives_a_kill_and_nothing_survives_a_stop(
    binary: Path, tmp_path: Path
) -> None:
    database = Influxd(binary, tmp_path / "log")
    database.start()
    url, pid = database.url, database.pid
    assert pid is not None
    folder = psutil.Process(pid).cwd()
    try:
        write(database, "\n".join(f"m,t=a f={n} {NOW_NS + n}" for n in range(500)))
        database.kill()
        assert not psutil.pid_exists(pid)
        database.start()
        assert database.url == url
        assert [row["_value"] for row in flux(database, ALL)] == [500]
    finally:
        database.stop()
    assert database.pid is None
    assert not os.path.exists(folder)  # noqa: PTH110
    assert folder.startswith("/")


def test_its_token_is_in_no_command_line_and_no_log(binary: Path, tmp_path: Path) -> None:
    with Influxd(binary, tmp_path / "log") as database:
        command = " ".join(psutil.Process(database.pid).cmdline())
        assert f"--http-bind-address=127.0.0.1:{database.port}" in command
        assert database.token not in command
        assert database.env()["INFLUX_TOKEN"] == database.token
    assert database.token not in database.log.read_text()


def test_one_that_dies_says_how(binary: Path, tmp_path: Path) -> None:
    database = Influxd(binary, tmp_path / "log", data=tmp_path)
    (tmp_path / "influxd.bolt").mkdir()
    with pytest.raises(StackError, match=r"InfluxDB .* ended with code 1; the end of its log: "):
        database.start()
    assert database.pid is None


def test_one_that_ended_by_itself_is_known_to_have(binary: Path, tmp_path: Path) -> None:
    with Influxd(binary, tmp_path / "log") as database:
        assert database.death() is None
        assert database.pid is not None
        os.kill(database.pid, signal.SIGKILL)
        deadline_s = time.monotonic() + 5
        while database.death() is None and time.monotonic() < deadline_s:
            time.sleep(process.POLL_S)
        assert database.death() == -signal.SIGKILL
