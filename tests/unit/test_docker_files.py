"""What docker/ says in several places, and what the package says, agree."""

from __future__ import annotations

import re
from pathlib import Path

from lk_users.local.influxd import PROGRAM
from lk_users.local.server import VERSION
from lk_users.settings.options import RUN_OPTIONS

ROOT = Path(__file__).parent.parent.parent
DOCKER = ROOT / "docker"


def text(name: str) -> str:
    return (DOCKER / name).read_text()


def test_every_option_of_a_run_passes_through_compose() -> None:
    master = text("compose.yaml")
    named = set(re.findall(r"^ +(LK_[A-Z_]+):", master, re.MULTILINE))
    # Where points go is said here. Whether LiveKit Cloud may be loaded is no question: the server is its own.
    where = {"LK_INFLUX_URL", "LK_INFLUX_ORG", "LK_INFLUX_BUCKET"}
    assert named - where == {option.variable for option in RUN_OPTIONS}


def test_the_server_is_the_embedded_stack_s() -> None:
    assert re.findall(r"livekit/livekit-server:(\S+)", text("compose.yaml")) == [f"v{VERSION}"]


def test_the_database_is_the_one_of_the_tests() -> None:
    assert re.findall(r"image: influxdb:(\S+)", text("compose.yaml")) == [PROGRAM.version]


def test_grafana_is_given_what_its_data_source_names() -> None:
    source = (ROOT / "grafana" / "provisioning" / "datasources" / "influxdb.yaml").read_text()
    grafana = text("compose.yaml").split("\n  grafana:\n", 1)[1].split("\nnetworks:", 1)[0]
    for variable in re.findall(r"\$\{(\w+)\}", source):
        assert re.search(rf"\b{variable}(:|=)", grafana), variable
    # The one whose schema the dashboards are written in.
    (version,) = re.findall(r"image: grafana/grafana:(\S+)", grafana)
    assert f"docker/compose.yaml pins, {version}." in (ROOT / "pyproject.toml").read_text()


def test_both_stages_stand_on_one_base_that_is_pinned() -> None:
    assert set(re.findall(r"^FROM (\S+)", text("Dockerfile"), re.MULTILINE)) == {"python:3.13-slim-trixie"}


def test_the_lock_pins_one_version_of_each_dependency() -> None:
    lines = [line for line in text("requirements.lock").splitlines() if line and not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines)
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    project = (ROOT / "pyproject.toml").read_text().split("dependencies = [", 1)[1].split("\n]", 1)[0]
    needed = set(re.findall(r'^    "([A-Za-z0-9-]+)', project, re.MULTILINE))
    assert needed
    assert needed <= names


def test_the_builder_gets_what_the_image_is_made_of_and_nothing_else() -> None:
    sent = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", text("Dockerfile"), re.MULTILINE)
    assert sorted(sent) == sorted(name for line in copied for name in line.split())


def test_no_key_is_in_the_files() -> None:
    for path in (*DOCKER.glob("*.yaml"), DOCKER / "Dockerfile"):
        assert re.findall(r"API_(?:KEY|SECRET): (?!/keys/|/run/)\S+", path.read_text()) == [], path


def test_a_region_has_a_default_for_each_secret_and_it_is_empty() -> None:
    """Compose refuses a secret of a variable that is not set."""
    named = re.findall(r"\{environment: (\w+)\}", text("worker.yaml"))
    given = [line for line in text(".env").splitlines() if line and not line.startswith("#")]
    assert given == [f"{name}=" for name in named]
    read = re.search(r"^for name in (.+); do$", text("entrypoint.sh"), re.MULTILINE)
    assert read is not None
    assert read[1].split() == named
