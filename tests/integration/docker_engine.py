"""Docker for tests: an engine that answers, else one of our own; Compose, found or built; the images.

Each part that cannot be had is a StackError, which says what is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conftest import FOREIGN, ROOT

from lk_users.errors import StackError
from lk_users.local import process
from lk_users.local.golang import Program, cached_or_built

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lk_users.local.cache import Say

# `up --exit-code-from` with `attach: false`, and secrets from the environment.
_OLDEST_COMPOSE = (2, 30)
COMPOSE = Program(
    name="docker-compose",
    title="Docker Compose",
    version="2.40.3",
    package="github.com/docker/compose/v2/cmd",
    takes="about 4 minutes",
    otherwise=f"make Compose {'.'.join(map(str, _OLDEST_COMPOSE))} or newer a plugin of docker",
    module=Path(__file__).parent / "compose-tool",
)
_ENGINE_READY_S = 60.0
_BRIDGE = Path("/sys/class/net/docker0")
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
# What iptables-save says of a table that nobody has used yet is nothing.
_EMPTY = {
    "filter": "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n",
    "nat": "*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\nCOMMIT\n",
}


def _output(command: list[str], **more: Any) -> str | None:
    """What it prints; None when it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **more)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def _answers() -> bool:
    return _output(["docker", "version", "--format", "{{.Server.Version}}"]) is not None


@contextmanager
def engine(log: Path) -> Iterator[None]:
    """An engine that answers. One of our own is stopped again, and leaves the machine's network as it was."""
    if shutil.which("docker") is None:
        raise StackError("no docker: on Debian `apt install docker.io debootstrap`, as .ci/run does")
    if _answers():
        yield
        return
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        raise StackError(
            "no Docker engine answers, and none can be started: that takes root and dockerd "
            "(on Debian `apt install docker.io debootstrap`)"
        )
    with _network_as_before():
        daemon = process.spawn(["dockerd"], env=os.environ, log=log, many_files=True)
        try:
            started_s = time.monotonic()
            while not _answers():
                code = process.ended(daemon)
                if code is not None or time.monotonic() - started_s > _ENGINE_READY_S:
                    how = "gave no answer" if code is None else process.how_it_ended(code)
                    raise StackError(f"dockerd {how}; {process.tail_in_words(log)}")
                time.sleep(0.2)
            yield
        finally:
            process.stop(daemon, deadline_s=30)


@contextmanager
def _network_as_before() -> Iterator[None]:
    """An engine leaves its bridge behind, and a firewall that forwards nothing: the namespaces of other tests
    would feel it."""
    had_bridge, forwarded = _BRIDGE.exists(), _FORWARDING.read_text()
    rules = "".join(_output(["iptables-save", "-t", table]) or empty for table, empty in _EMPTY.items())
    try:
        yield
    finally:
        subprocess.run(["iptables-restore"], input=rules, text=True, timeout=30, check=True)
        _FORWARDING.write_text(forwarded)
        if not had_bridge:
            subprocess.run(["ip", "link", "del", _BRIDGE.name], timeout=30, check=False)


def compose(say: Say) -> tuple[str, ...]:
    """The command of Docker Compose: the CLI's own, or one built once and kept in the cache."""
    found = re.search(r"(\d+)\.(\d+)", _output(["docker", "compose", "version", "--short"]) or "")
    if found and (int(found[1]), int(found[2])) >= _OLDEST_COMPOSE:
        return ("docker", "compose")
    return (str(cached_or_built(COMPOSE, say)),)


def pip_settings(folder: Path, marker: str) -> dict[str, str]:
    """The variables by which the build asks what this machine's pip asks; ``marker`` is a comment in it."""
    listed = _output([sys.executable, "-m", "pip", "config", "list"]) or ""
    given = dict(re.findall(r"^\S+\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
    names = [name for name in ("index-url", "extra-index-url", "trusted-host", "timeout") if name in given]
    conf = folder / "pip.conf"
    conf.write_text(
        "\n".join([f"# {marker}", "[global]", *(f"{name} = {given[name]}" for name in names), ""])
    )
    named = (given.get("cert"), os.environ.get("SSL_CERT_FILE"), os.environ.get("REQUESTS_CA_BUNDLE"))
    bundle = next((name for name in named if name), "/dev/null")
    return {"LK_PIP_CONF": str(conf), "LK_CA_BUNDLE": bundle}


def base_images() -> None:
    """Those that Dockerfile and compose.yaml start from; made where there is no registry."""
    command = [str(ROOT / "docker" / "base-images.sh")]
    env = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1_200, check=False)
    if done.returncode != 0:
        raise StackError(
            f"docker/base-images.sh: {done.stderr.strip() or process.how_it_ended(done.returncode)}"
        )


class Project:
    """One compose file under a project name of its own."""

    def __init__(self, compose: tuple[str, ...], file: str, name: str, env: Mapping[str, str]) -> None:
        """``env``: added to ours, of which nothing goes along that steers a run."""
        self.name = name
        ours = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        self.env = {**ours, **env}
        self._command = [*compose, "-f", str(ROOT / "docker" / file), "-p", name]

    def run(
        self, *arguments: str, timeout_s: float = 120.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments], env={**self.env, **(env or {})}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def must(self, *arguments: str, timeout_s: float = 120.0, env: Mapping[str, str] | None = None) -> str:
        """Its stdout; fails unless it ends with 0."""
        done = self.run(*arguments, timeout_s=timeout_s, env=env)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def leftovers(self) -> list[str]:
        """What the engine still has of it: containers, networks, volumes."""
        label = f"label=com.docker.compose.project={self.name}"
        kinds = {"container": ["ls", "-a"], "network": ["ls"], "volume": ["ls"]}
        found = []
        for kind, how in kinds.items():
            listed = _output(["docker", kind, *how, "--quiet", "--filter", label])
            assert listed is not None, f"docker {kind} ls failed"
            found += [f"{kind} {line}" for line in listed.split()]
        return found


def docker(*arguments: str) -> str:
    """The stdout of a docker command; fails unless it ends with 0."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"docker {arguments}: {done.stderr}"
    return done.stdout
