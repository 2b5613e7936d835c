"""A real InfluxDB 2.7: find or build ``influxd``, start one, stop it.

It listens on loopback only, with a token of its own, and keeps its data in a folder that goes with it.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from lk_users.errors import StackError
from lk_users.local import golang, process
from lk_users.local.server import HOST, free_tcp_port

if TYPE_CHECKING:
    from lk_users.local.cache import Say
    from lk_users.local.process import Child, Pause

ORG: Final = "lk-users"
BUCKET: Final = "lk-users"
READY_S: Final = 30.0
PORT_TRIES: Final = 4
# Flux is written in Rust; this is the oldest that its own files allow.
NEEDED_RUST: Final = (1, 72)
RUST_HOW: Final = (
    "on Debian: apt install cargo-web gcc, or cargo where that is new enough; or https://rustup.rs"
)


def _prepare(builder: golang.Builder) -> golang.Surroundings:
    """What Flux needs: its own pkg-config, which has cargo build the part of it that is Rust."""
    variables = {"CGO_ENABLED": "1", "GO": builder.go, **_rust()}
    tool = builder.work / "pkg-config"
    builder.build("github.com/influxdata/pkg-config", tool)
    # Lints that this Rust has newly made errors of are none of our business.
    wrapper = builder.work / "rustc-lenient"
    wrapper.write_text('#!/bin/sh\nexec "$@" --cap-lints warn\n', encoding="utf-8")
    wrapper.chmod(0o755)
    return golang.Surroundings(
        ("-tags", "sqlite_foreign_keys,sqlite_json"),
        {**variables, "PKG_CONFIG": str(tool), "RUSTC_WRAPPER": str(wrapper)},
    )


def _rust() -> dict[str, str]:
    """Variables by which cargo uses the Rust that is here. Raises StackError where there is none."""
    lacking = [tool for tool in ("cargo", "rustc", "cc") if shutil.which(tool) is None]
    if lacking:
        raise StackError(_no_rust(f"there is no {' and no '.join(lacking)} on PATH"))
    variables = {}
    # Flux's own toolchain file would have rustup fetch an old one for five platforms.
    active = os.environ.get("RUSTUP_TOOLCHAIN") or golang.output_of(
        ["rustup", "show", "active-toolchain"], os.environ
    )
    if active.split():
        variables["RUSTUP_TOOLCHAIN"] = active.split()[0]
    told = golang.output_of(["rustc", "--version"], {**os.environ, **variables})
    found = re.search(r"rustc (\d+(?:\.\d+)+)", told)
    if not found or golang.numbers(found[1]) < NEEDED_RUST:
        raise StackError(_no_rust(f"Rust is {found[1] if found else 'of unknown version'}"))
    return variables


def _no_rust(why: str) -> str:
    return (
        f"no InfluxDB here, and none can be built ({why}; it takes Rust >= {golang.dotted(NEEDED_RUST)} and "
        f"a C compiler). Do one of: put {PROGRAM.name} on PATH or name it with {PROGRAM.named_by}; "
        f"install them ({RUST_HOW})"
    )


PROGRAM: Final = golang.Program(
    name="influxd",
    title="InfluxDB",
    version="2.7.12",
    package="github.com/influxdata/influxdb/v2/cmd/influxd",
    takes="about 4 to 8 minutes",
    named_by="LK_INFLUXD_BINARY",
    prepare=_prepare,
)


def find_or_build(say: Say, *, pause: Pause = time.sleep) -> Path:
    """The path of an ``influxd``: named by LK_INFLUXD_BINARY, on PATH, in the cache, or else built there."""
    return golang.find_or_build(PROGRAM, os.environ.get("LK_INFLUXD_BINARY"), say, pause=pause)


class Influxd:
    """One InfluxDB on loopback, set up with ``org``, ``bucket`` and ``token``. Start it from a thread that
    lives as long as it shall.

    ``data``: the folder of its data, which stays; without one it has a temporary one, gone when it is
    stopped.
    """

    def __init__(
        self, binary: Path, log: Path, *, data: Path | None = None, pause: Pause = time.sleep
    ) -> None:
        self.org = ORG
        self.bucket = BUCKET
        self.token = secrets.token_urlsafe(36)
        self.log = log
        self.port = 0
        self._binary = binary
        self._own_data = data
        self._data: Path | None = data
        self._pause = pause
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """For clients: ``http://127.0.0.1:PORT``."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process id; None when it was not started or was stopped."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Return when it takes our token; raise StackError, with nothing left running, when it does not in
        30 s. After ``kill``: with the same data on the same port."""
        again = self.port != 0
        if self._data is None:
            self._data = Path(tempfile.mkdtemp(prefix="lk-users-influxd-"))
        try:
            for _ in range(1 if again else PORT_TRIES):
                self._launch(self.port if again else free_tcp_port())
                if self._is_ready():
                    return
                self._end()
        except BaseException:
            self.stop()
            raise
        self.stop()
        raise StackError(f"InfluxDB found its port taken{'' if again else f' {PORT_TRIES} times'}")

    def kill(self) -> None:
        """SIGKILL, as a crash would. Its data stay, for another ``start``."""
        if self._child:
            process.signal_group(self._child, signal.SIGKILL)
            self._child.wait()
            self._child = None

    def stop(self) -> None:
        """End it and remove what it wrote, but for a folder that was given. Harmless when it does not run."""
        self._end()
        self.port = 0
        if self._own_data is None and self._data is not None:
            shutil.rmtree(self._data, ignore_errors=True)
            self._data = None

    def death(self) -> int | None:
        """Its return code when it ended by itself; None when it runs, was stopped or never started."""
        return process.ended(self._child) if self._child else None

    def env(self) -> dict[str, str]:
        """The variables by which a run finds this database."""
        return {
            "LK_INFLUX_URL": self.url,
            "LK_INFLUX_ORG": self.org,
            "LK_INFLUX_BUCKET": self.bucket,
            "INFLUX_TOKEN": self.token,
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end(self) -> None:
        child, self._child = self._child, None
        if child:
            process.stop(child)

    def _launch(self, port: int) -> None:
        assert self._data is not None
        self.port = port
        # Its variables are options by other names; the caller's may be meant for another database.
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("INFLUX", "LIVEKIT_"))
        }
        # It would read a config file of the folder that it starts in.
        env["INFLUXD_CONFIG_PATH"] = str(self._data)
        command = [
            str(self._binary),
            "--reporting-disabled",
            "--ui-disabled",
            "--log-level=warn",
            f"--http-bind-address={HOST}:{port}",
            f"--engine-path={self._data / 'engine'}",
            f"--bolt-path={self._data / 'influxd.bolt'}",
            f"--sqlite-path={self._data / 'influxd.sqlite'}",
        ]
        self._child = process.spawn(command, env=env, log=self.log, cwd=self._data, many_files=True)

    def _is_ready(self) -> bool:
        """Wait for its answer. False: another program has its port, choose one anew."""
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s:
            code = self.death()
            if code is not None:
                if "address already in use" in "\n".join(process.tail(self.log, 20)):
                    return False
                raise StackError(self._failed(process.how_it_ended(code)))
            status, _ = self._call("GET", "/health")
            if status == 200:
                return self._is_ours()
            self._pause(process.POLL_S)
        raise StackError(self._failed(f"gave no answer within {READY_S:.0f} s"))

    def _is_ours(self) -> bool:
        """Set it up where that is to be done. False: what answers is another database."""
        _, found = self._call("GET", "/api/v2/setup")
        if found.get("allowed"):
            setup = {"username": ORG, "password": secrets.token_urlsafe(24), "org": self.org}
            setup |= {"bucket": self.bucket, "token": self.token}
            status, answer = self._call("POST", "/api/v2/setup", setup)
            if status != 201:
                raise StackError(self._failed(f"refused its setup: {answer.get('message', status)}"))
        return self._call("GET", f"/api/v2/buckets?name={self.bucket}")[0] == 200

    def _call(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Status and JSON of one request; status 0 when nothing answers. Never by a proxy."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        headers = {"Authorization": f"Token {self.token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            found = json.loads(answer.read() or b"{}")
        except (OSError, ValueError, http.client.HTTPException):
            return 0, {}
        finally:
            connection.close()
        return answer.status, found if isinstance(found, dict) else {}

    def _failed(self, how: str) -> str:
        return f"InfluxDB ({self._binary}) {how}; {process.tail_in_words(self.log)}"
