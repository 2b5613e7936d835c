"""What is each process's own: its region, its folder, its database, what opens the user's backend."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lk_users.address import http_url_fault, safely_shown
from lk_users.errors import Refused
from lk_users.settings.reader import OptionReader

if TYPE_CHECKING:
    from collections.abc import Mapping

# What the session request says by itself.
OWN_HEADERS: Final = ("host", "content-type", "content-length", "transfer-encoding", "connection", "expect")


@dataclass(frozen=True)
class Influx:
    """The InfluxDB that points go to. Its token is shown nowhere."""

    url: str
    org: str
    bucket: str
    token: str = field(default="", repr=False)

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], environ: Mapping[str, str] = os.environ
    ) -> Influx | None:
        """From options (by ``dest``) and INFLUX_TOKEN; None where no URL is given. Raises Refused with every
        fault."""
        faults: list[str] = []
        read = OptionReader(options, faults)
        url = read.text("influx-url").rstrip("/")
        if not url:
            return None
        fault = http_url_fault(url, "http://127.0.0.1:8086")
        if fault:
            faults.append(f"--influx-url {safely_shown(url)}: {fault}")
        org, bucket = read.text("influx-org"), read.text("influx-bucket")
        faults += [
            f"--influx-{name}: empty" for name, value in (("org", org), ("bucket", bucket)) if not value
        ]
        token = environ.get("INFLUX_TOKEN", "").strip()
        if not token:
            faults.append(
                "INFLUX_TOKEN is not set: --influx-url needs a token that may write to the bucket, in the "
                "environment of this process"
            )
        elif not re.fullmatch(r"[!-~]+", token):
            faults.append(
                "INFLUX_TOKEN has characters that no token has: copy it anew (its value is not shown)"
            )
        if faults:
            raise Refused(faults)
        return cls(url, org, bucket, token)


@dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """What is this process's own, read once at ``init``."""

    region: str = "local"
    run_dir: Path = Path("runs")
    allow_cloud: bool = False
    influx: Influx | None = None
    session_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """What opens the user's own backend (``--session-url``). Shown nowhere."""

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], environ: Mapping[str, str] = os.environ
    ) -> ProcessSettings:
        """From Locust's parsed options (by ``dest``). Raises Refused with every fault."""
        faults: list[str] = []
        read = OptionReader(options, faults)
        region = read.text("region")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", region):
            faults.append(f"--region {region!r}: use letters, digits, '.', '_' and '-', for example eu-west")
        allow_cloud = read.choice("allow-cloud", ("", "no", "yes")) == "yes"
        run_dir = Path(read.text("run-dir") or "runs")
        fault = _folder_fault(run_dir)
        if fault:
            faults.append(fault)
        influx = None
        try:
            influx = Influx.from_options(options, environ)
        except Refused as exc:
            faults += exc.faults
        headers = session_headers(environ, faults)
        if faults:
            raise Refused(faults)
        return cls(
            region=region, run_dir=run_dir, allow_cloud=allow_cloud, influx=influx,
            session_headers=headers,
        )  # fmt: skip


def session_headers(environ: Mapping[str, str], faults: list[str]) -> tuple[tuple[str, str], ...]:
    """From LK_SESSION_AUTHORIZATION and LK_SESSION_HEADERS; values are in no fault."""
    found: dict[str, str] = {}
    text = environ.get("LK_SESSION_HEADERS", "").strip()
    if text:
        try:
            given = json.loads(text)
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
            faults.append(
                'LK_SESSION_HEADERS: must be a JSON object of strings, as {"X-Api-Key": "…"} '
                "(its value is not shown)"
            )
        else:
            found = {str(name): value.strip() for name, value in given.items()}
    authorization = environ.get("LK_SESSION_AUTHORIZATION", "").strip()
    if authorization:
        found = {name: value for name, value in found.items() if name.lower() != "authorization"}
        found["Authorization"] = authorization
    for name, value in found.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or name.lower() in OWN_HEADERS:
            faults.append(f"LK_SESSION_HEADERS: {name[:40]!r} can't be a header of the session request")
        elif not re.fullmatch(r"[ -~]+", value):
            faults.append(f"the value of {name} (LK_SESSION_…) has characters that no header has; not shown")
    return tuple(found.items())


def _folder_fault(folder: Path) -> str:
    """Why ``folder`` can't hold run folders; empty if it can. Makes it."""
    probe = folder / f".lk-users-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as exc:
        return f"--run-dir {folder}: cannot be written ({exc.strerror or exc}); name a folder that can"
    return ""
