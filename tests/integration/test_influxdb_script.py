"""The database of docker/compose.yaml: its script around a real influxd, without a container."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT, free_port

from lk_users.local import influxd as influxd_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.real
SCRIPT = str(ROOT / "docker" / "influxdb.sh")


class Service:
    """The script with its own data, token and port."""

    def __init__(self, folder: Path) -> None:
        binary = influxd_module.find_or_build(print)
        (folder / "bin").mkdir()
        (folder / "bin" / "influxd").symlink_to(binary)
        self.token = folder / "token"
        self._folder = folder
        self._env = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder),
            "DATA": str(folder),
            "TOKEN_FILE": str(self.token),
            "PORT": str(free_port()),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(["bash", SCRIPT], env=self._env, stdout=log, stderr=log)

    def is_ready(self) -> bool:
        return subprocess.run(["bash", SCRIPT, "ready"], env=self._env, check=False).returncode == 0

    def wait(self, patience_s: float = 30.0) -> None:
        deadline_s = time.monotonic() + patience_s
        while not self.is_ready():
            assert time.monotonic() < deadline_s, (self._folder / "log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_it_is_set_up_once_and_keeps_its_token(service: Service) -> None:
    assert not service.is_ready()
    service.start()
    service.wait()
    token = service.token.read_text()
    assert len(token) == 64
    # The database is the process that a stop of the container reaches.
    service.stop()
    assert not service.is_ready()
    service.start()
    service.wait()
    assert service.token.read_text() == token


def test_another_token_is_not_ready(service: Service) -> None:
    service.start()
    service.wait()
    service.token.write_text("0" * 64)
    assert not service.is_ready()
