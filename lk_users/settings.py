"""All settings as frozen values, read once, every fault listed at once.

Three kinds. *Run settings* come from the master and become one value at each ``test_start``: a Locust
worker overwrites its custom options with the master's at each spawn. *Process settings* are each
process's own. The *target* with its key and secret comes from each process's environment only, and never
is an option, since Locust sends options to workers in the clear.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from lk_users.address import Address
from lk_users.agent_name import ANY_AGENT
from lk_users.errors import Refused
from lk_users.masking import masked
from lk_users.scale import Scale, read_scale, search_faults

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_N = TypeVar("_N", int, float)

DISPATCHES: Final = ("api", "room", "token", "none", "backend")
ORDERS: Final = ("dispatch-first", "join-first", "session-first")
RELEASES: Final = ("barrier", "free")
COURSES: Final = ("bursts", "ladder", "batches")
ENGINES: Final = ("listen", "idle")
MICS: Final = ("silence", "none")
ICES: Final = ("auto", "host", "relay")
WELCOME_ITEMS: Final = ("state", "track", "audio", "text")
PLACEHOLDERS: Final = ("session_id", "engine", "burst", "region")
BODY_PLACEHOLDERS: Final = (*PLACEHOLDERS, "room", "identity", "agent_name")
RESTART_POLICIES: Final = ("", "on-failure", "never")
TEMPLATE_OPTIONS: Final = ("metadata", "attributes", "room-metadata", "session-body")
LIVEKIT_SCHEMES: Final = ("ws", "wss", "http", "https")
# What the session request says by itself.
OWN_HEADERS: Final = ("host", "content-type", "content-length", "transfer-encoding", "connection", "expect")
NOT_SHOWN: Final = "(given, not shown)"
URL_FORMS: Final = "must be ws://, wss://, http:// or https:// and a host, for example wss://lk.example.com"
# LiveKit Cloud's limit on API requests is 1,000 a minute a project; the rest is left to everybody else.
CLOUD_API_BUDGET_PER_MINUTE: Final = 900


@dataclass(frozen=True)
class Option:
    """One Locust option. ``name`` without dashes; its variable is ``LK_`` + the name in capitals."""

    name: str
    default: str
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name

    @property
    def dest(self) -> str:
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        return "LK_" + self.dest.upper()


RUN_OPTIONS: Final = (
    Option("agent-name", "", "Agent to dispatch; empty: the unnamed agent."),
    Option("dispatch", "", "How the agent is asked for: api, room, token or none. Default: api with a name."),
    Option("order", "", "dispatch-first or join-first. Default: dispatch-first where there is a choice."),
    Option("session-url", "", "Your own token endpoint, asked at T0; users join with its tokens."),
    Option("session-body", "", "JSON that it is sent; also {room}, {identity}. Default: LiveKit's standard."),
    Option("release", "barrier", "barrier: all at one T0. free: when Locust spawns a user, then in a loop."),
    Option("engine", "listen", "How a session takes part: listen (hears), idle (does nothing; for benches)."),
    Option("mic", "silence", "Each user's microphone: silence (as a real client's) or none."),
    Option("ice", "auto", "How media gets there: host, relay (TURN), or auto: TURN where host fails."),
    Option("witness", "0", "So many of each burst's sessions by the official SDK, to compare."),
    Option("batch-size", "0", "Sessions a batch inside a burst; 0: all at T0."),
    Option("batch-delay", "1.0", "Seconds between batches."),
    Option("region-users", "", "Users of each region, for example us-east=300,eu=200; default: even."),
    Option("bursts", "1", "How many bursts a run has."),
    Option("burst-interval", "0", "Seconds between the end of a burst and the next."),
    Option(
        "course", "bursts", "What a run is: bursts (with baseline, control), or a search: ladder, batches."
    ),
    Option("ladder-sizes", "auto", "Course ladder: sizes of bursts to climb; auto: 10, 20, 40 … to -u."),
    Option("batch-sizes", "auto", "Course batches: batch sizes to try; auto: 25, 10, 50."),
    Option("batch-delays", "auto", "Course batches: seconds between batches, each tried; auto: searched."),
    Option("repeats", "auto", "Climbs of a ladder, tries of each plan of batches; auto: 3 and 1."),
    Option("baseline", "", "So many sessions one by one before the burst. Default: 1 when headless, else 0."),
    Option("control", "", "The same users once more, after the burst, spread out: spread=60s."),
    Option("session-timeout", "120", "Seconds from the intended start to the latest verdict on a session."),
    Option("welcome", "audio", "All of these make the welcome: state,track,audio,text."),
    Option("expect-text", "", "Regular expression that the welcome's text must match; makes text required."),
    Option("welcome-timeout", "10", "Seconds after the agent joined; a later welcome is late."),
    Option("watch", "0", "Seconds to go on observing after the welcome."),
    Option("metadata", "", "JSON for the job; {session_id} etc. in strings; @file.jsonl cycles by ordinal."),
    Option("attributes", "", "JSON object of strings: the user's participant attributes."),
    Option("room-metadata", "", "JSON for the room."),
    Option("deployment", "", "Deployment of the agent, as in the dispatch API."),
    Option("restart-policy", "", "on-failure or never, as in the dispatch API."),
    Option("api-budget", "", "API requests a minute. Default: 900 on LiveKit Cloud, else no limit."),
    Option("agent-worker-url", "", "The agent's workers by HTTP, comma-separated: reports their load."),
    Option("slo", "count(lost) == 0; count(duplicate) == 0", "What makes the run a pass; ';' separates."),
    Option("project-id", "", "Project of LiveKit Cloud (p_…); its support asks for it first. For reports."),
    Option("park-timeout", "120", "Seconds from all users spawned to all users ready."),
    Option("trailer-timeout", "30", "Seconds to wait for the workers' last word."),
    Option("max-start-error", "50", "Milliseconds, p99; beyond it the run is void."),
    Option("max-stall", "1000", "Milliseconds the generator's loop may stall before the run is void."),
    Option("max-clock-uncertainty", "250", "Milliseconds; beyond it the run is void."),
)
INFLUX_OPTIONS: Final = (
    Option("influx-url", "", "InfluxDB 2 that points go to, as http://127.0.0.1:8086; with INFLUX_TOKEN."),
    Option("influx-org", "lk-users", "Organization in InfluxDB."),
    Option("influx-bucket", "lk-users", "Bucket in InfluxDB."),
)
PROCESS_OPTIONS: Final = (
    Option("region", "local", "Name of this process's region."),
    Option("run-dir", "runs", "Folder for run folders."),
    Option("allow-cloud", "", "yes: really load LiveKit Cloud (billed, and subject to its terms)."),
    *INFLUX_OPTIONS,
)


@dataclass(frozen=True)
class Template:
    """JSON text with placeholders inside string values; of several lines the ordinal picks one."""

    lines: tuple[str, ...] = ()

    def render(self, ordinal: int, values: Mapping[str, str]) -> str:
        """The JSON text for one session; empty where there is no template."""
        if not self.lines:
            return ""
        return json.dumps(_fill(json.loads(self.lines[ordinal % len(self.lines)]), values))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run, as every process of it sees it."""

    users: int
    """Of a burst; 0 in a worker, which does not know."""
    agent_name: str = ""
    dispatch: str = "api"
    order: str = "dispatch-first"
    session_url: Address | None = None
    session_body: Template = Template()
    release: str = "barrier"
    engine: str = "listen"
    mic: str = "silence"
    ice: str = "auto"
    witness: int = 0
    batch_size: int = 0
    batch_delay_s: float = 1.0
    region_users: Mapping[str, int] = field(default_factory=dict)
    bursts: int = 1
    burst_interval_s: float = 0.0
    course: str = "bursts"
    scale: Scale = field(default_factory=Scale)
    baseline: int = 0
    """Sessions one by one before the first burst."""
    control_s: float = 0.0
    """After the last burst its sessions again, spread over so long; 0: not."""
    session_timeout_s: float = 120.0
    welcome: frozenset[str] = frozenset({"audio"})
    expect_text: str = ""
    """Regular expression that a text of the agent has to match; empty: any will do."""
    welcome_timeout_s: float = 10.0
    watch_s: float = 0.0
    metadata: Template = Template()
    attributes: Template = Template()
    room_metadata: Template = Template()
    deployment: str = ""
    restart_policy: str = ""
    api_budget_per_minute: int = 0
    agent_worker_urls: tuple[str, ...] = ()
    slo: str = "count(lost) == 0; count(duplicate) == 0"
    project_id: str = ""
    park_timeout_s: float = 120.0
    trailer_timeout_s: float = 30.0
    max_start_error_ms: float = 50.0
    max_stall_ms: float = 1000.0
    max_clock_uncertainty_ms: float = 250.0
    options: Mapping[str, str] = field(default_factory=dict)
    """The options as they were given, for the report; of a template only that there was one."""

    @classmethod
    def from_options(cls, options: Mapping[str, Any], users: int | None, *, cloud: bool = False) -> Settings:
        """From Locust's parsed options (by ``dest``). ``users``: None in a worker, which does not know how
        large the burst is. Raises Refused with every fault."""
        faults: list[str] = []
        read = _Reader(options, faults)
        if users is not None and users <= 0:
            faults.append(f"--users {users}: a burst needs at least one user, for example -u 50")
        agent_name = read.text("agent-name")
        dispatch, order = read.choice("dispatch", ("", *DISPATCHES)), read.choice("order", ("", *ORDERS))
        session_url, session_body = read.address("session-url"), read.template("session-body")
        if read.text("session-url"):
            faults += _backend_faults(dispatch, order)
            dispatch, order = "backend", "session-first"
        else:
            dispatch = dispatch or ("api" if agent_name else "none")
            faults += _dispatch_faults(agent_name, dispatch, order)
        faults += _body_faults(read)
        expect_text = read.pattern("expect-text")
        batch_size = read.whole("batch-size", least=0)
        if users is not None and batch_size > max(users, 0):
            faults.append(f"--batch-size {batch_size}: larger than the burst of {users} (--users)")
        release = read.choice("release", RELEASES)
        engine = read.choice("engine", ENGINES)
        witness = read.whole("witness", least=0)
        faults += _witness_faults(witness, users, release, engine)
        course, bursts = read.choice("course", COURSES), read.whole("bursts", least=1)
        baseline, control_s = read.baseline(release, engine), read.spread("control")
        faults += _beside_faults(baseline, control_s, users, release)
        faults += search_faults(course, release, bursts, batch_size, control_s)
        settings = cls(
            users=users or 0,
            agent_name=agent_name or (ANY_AGENT if dispatch == "backend" else ""),
            dispatch=dispatch,
            order=order or ("dispatch-first" if dispatch in ("api", "room") else "join-first"),
            session_url=session_url,
            session_body=session_body,
            release=release,
            engine=engine,
            mic=read.choice("mic", MICS),
            ice=read.choice("ice", ICES),
            witness=witness,
            batch_size=batch_size,
            batch_delay_s=read.number("batch-delay"),
            region_users=read.shares("region-users", users),
            bursts=bursts,
            burst_interval_s=read.number("burst-interval"),
            course=course,
            scale=read_scale(read.text, course, users, faults),
            baseline=baseline,
            control_s=control_s,
            session_timeout_s=read.number("session-timeout", least=0.1),
            welcome=read.items("welcome", WELCOME_ITEMS) | ({"text"} if expect_text else set()),
            expect_text=expect_text,
            welcome_timeout_s=read.number("welcome-timeout"),
            watch_s=read.number("watch"),
            metadata=read.template("metadata"),
            attributes=read.template("attributes", strings_only=True),
            room_metadata=read.template("room-metadata"),
            deployment=read.text("deployment"),
            restart_policy=read.choice("restart-policy", RESTART_POLICIES),
            api_budget_per_minute=read.budget("api-budget", CLOUD_API_BUDGET_PER_MINUTE if cloud else 0),
            agent_worker_urls=read.urls("agent-worker-url"),
            slo=read.text("slo"),
            project_id=read.project("project-id"),
            park_timeout_s=read.number("park-timeout", least=0.1),
            trailer_timeout_s=read.number("trailer-timeout", least=0.1),
            max_start_error_ms=read.number("max-start-error"),
            max_stall_ms=read.number("max-stall"),
            max_clock_uncertainty_ms=read.number("max-clock-uncertainty"),
            options={option.name: read.shown(option.name) for option in RUN_OPTIONS},
        )
        if users is not None and witness > (smallest := min(settings.scale.ladder_sizes, default=witness)):
            faults.append(
                f"--witness {witness}: larger than the smallest burst of {smallest} (--ladder-sizes)"
            )
        if settings.region_users and settings.release == "free":
            faults.append("--region-users: for bursts only; with --release free Locust places users")
        if faults:
            raise Refused(faults)
        return settings


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
        read = _Reader(options, faults)
        url = read.text("influx-url").rstrip("/")
        if not url:
            return None
        fault = _http_url_fault(url, "http://127.0.0.1:8086")
        if fault:
            faults.append(f"--influx-url {_shown(url)}: {fault}")
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
        read = _Reader(options, faults)
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


@dataclass(frozen=True)
class Target(Address):
    """The LiveKit server, and what opens it. Shown anywhere only by ``shown_url`` and ``shown_key``.

    Where the user's own backend gives the tokens, key and secret may be empty, and the server unknown too.
    """

    key: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, *, needs_key: bool = True) -> Target:
        """From LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET. Raises Refused with every fault.

        ``needs_key``: False where a backend of the user's own makes the tokens; then none of the three is
        needed, but a key needs its secret and a URL all the same.
        """
        faults: list[str] = []
        url = environ.get("LIVEKIT_URL", "").strip()
        given = {name: environ.get(name, "").strip() for name in ("LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")}
        needs_key = needs_key or any(given.values())
        address = Address("", 0, tls=False)
        if url:
            try:
                address = Address.parse(url, LIVEKIT_SCHEMES)
            except ValueError:
                faults.append(f"LIVEKIT_URL {_shown(url)}: {URL_FORMS}")
        elif needs_key:
            faults.append("LIVEKIT_URL is not set: for example ws://127.0.0.1:7880, or run `make burst`")
        if needs_key:
            faults += [
                f"{name} is not set: export it in the environment of this process"
                for name, value in given.items()
                if not value
            ]
        if faults:
            raise Refused(faults)
        key, secret = given.values()
        return cls(address.host, address.port, address.tls, address.path, key, secret)

    @property
    def address(self) -> Address:
        """Without what opens it."""
        return Address(self.host, self.port, self.tls, self.path)

    @property
    def is_known(self) -> bool:
        """Was LIVEKIT_URL given?"""
        return bool(self.host)

    @property
    def has_key(self) -> bool:
        """Can the API be asked?"""
        return bool(self.key)

    @property
    def shown_url(self) -> str:
        """Without user info and query; empty where the server is not known."""
        return super().shown_url if self.host else ""

    @property
    def shown_key(self) -> str:
        """Empty where there is none."""
        return self.key[:4] + "…" if self.key else ""


class _Reader:
    """Parses option strings; each fault becomes one line that names option, value and what would do."""

    def __init__(self, options: Mapping[str, Any], faults: list[str]) -> None:
        self._options = options
        self._faults = faults
        self._declared = {option.name: option for option in (*RUN_OPTIONS, *PROCESS_OPTIONS)}

    def text(self, name: str) -> str:
        option = self._declared[name]
        value = self._options.get(option.dest)
        return option.default if value is None else str(value).strip()

    def shown(self, name: str) -> str:
        """As a report may have it: what users tell their agents is nobody else's business."""
        value = self.text(name)
        return NOT_SHOWN if value and name in TEMPLATE_OPTIONS else masked(value)

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self.text(name)
        if value not in allowed:
            names = ", ".join(item for item in allowed if item)
            self._faults.append(f"--{name} {value}: unknown; use one of {names}")
            return allowed[0]
        return value

    def number(self, name: str, least: float = 0.0) -> float:
        return self._parsed(name, float, least, "a number")

    def whole(self, name: str, least: int = 0) -> int:
        return self._parsed(name, int, least, "a whole number")

    def budget(self, name: str, default: int) -> int:
        return self.whole(name, least=1) if self.text(name) else default

    def baseline(self, release: str, engine: str) -> int:
        """One session where nobody watches, and where there is a burst of real sessions to compare."""
        if self.text("baseline"):
            return self.whole("baseline")
        return int(bool(self._options.get("headless")) and release == "barrier" and engine != "idle")

    def spread(self, name: str) -> float:
        """``spread=60s``, in seconds; 0 where nothing was given."""
        value = self.text(name)
        if not value:
            return 0.0
        form = re.fullmatch(r"spread\s*=\s*(\d{1,6}(?:\.\d{1,6})?)\s*s?", value)
        length_s = float(form[1]) if form else 0.0
        if not length_s:
            self._faults.append(
                f"--{name} {value}: use spread= and a number of seconds above 0, for example spread=60s"
            )
        return length_s

    def items(self, name: str, allowed: tuple[str, ...]) -> frozenset[str]:
        given = [item.strip() for item in self.text(name).split(",") if item.strip()]
        unknown = [item for item in given if item not in allowed]
        for item in unknown:
            self._faults.append(f"--{name} {item}: unknown item; use any of {', '.join(allowed)}")
        if not given:
            self._faults.append(f"--{name}: empty; use any of {', '.join(allowed)}")
        return frozenset(given)

    def pattern(self, name: str) -> str:
        """A regular expression of Python's ``re``."""
        value = self.text(name)
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as exc:
            self._faults.append(
                f"--{name} {value}: not a regular expression ({exc}); for example 'welcome|how can I help', "
                "with a backslash before a character that is meant as it is"
            )
            return ""
        return value

    def shares(self, name: str, total: int | None) -> dict[str, int]:
        """``name=count,…`` that add up to ``total`` where it is known; empty where nothing was given."""
        value, found = self.text(name), {}
        for part in filter(None, (part.strip() for part in value.split(","))):
            key, _, count = (piece.strip() for piece in part.partition("="))
            if not key or key in found or not re.fullmatch(r"[1-9]\d{0,6}", count):
                self._faults.append(f"--{name} {part}: use REGION=USERS, each region once, as us-east=300")
                return {}
            found[key] = int(count)
        if found and total is not None and sum(found.values()) != total:
            self._faults.append(
                f"--{name} {value}: that is {sum(found.values())} users, and the burst has {total} (--users)"
            )
        return found

    def project(self, name: str) -> str:
        value = self.text(name)
        if value and not re.fullmatch(r"p_[A-Za-z0-9]+", value):
            self._faults.append(
                f"--{name} {value}: must be p_ and letters or digits, as in the address of the project's "
                "dashboard, for example p_4gzq81mx2tk"
            )
        return value

    def urls(self, name: str) -> tuple[str, ...]:
        """Comma-separated HTTP URLs, without a slash at their end, each once."""
        given = dict.fromkeys(item.strip().rstrip("/") for item in self.text(name).split(",") if item.strip())
        for url in given:
            fault = _http_url_fault(url, "http://127.0.0.1:8081")
            if fault:
                self._faults.append(f"--{name} {_shown(url)}: {fault}")
        return tuple(given)

    def address(self, name: str) -> Address | None:
        """Of an HTTP endpoint; None where none was given, or none that will do."""
        url = self.text(name)
        fault = _http_url_fault(url, "https://app.example.com/api/token") if url else ""
        if fault:
            self._faults.append(f"--{name} {_shown(url)}: {fault}")
        if fault or not url:
            return None
        parsed = Address.parse(url, ("http", "https"))
        # A slash at the end of a path is part of it: backends redirect from one to the other.
        address = replace(parsed, path=parsed.path + "/" * (urlsplit(url).path[-1:] == "/"))
        if not address.is_plain:
            self._faults.append(f"--{name} {_shown(url)}: write other characters than ASCII as %XX")
        return address

    def template(self, name: str, *, strings_only: bool = False) -> Template:
        value = self.text(name)
        if not value:
            return Template()
        lines = [value]
        if value.startswith("@"):
            try:
                text = Path(value[1:]).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as exc:
                why = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
                self._faults.append(f"--{name} {value}: cannot be read ({why or exc})")
                return Template()
            lines = [line for line in text.splitlines() if line.strip()]
            if not lines:
                self._faults.append(f"--{name} {value}: the file is empty; use one JSON value a line")
        for number, line in enumerate(lines, 1):
            known = BODY_PLACEHOLDERS if name == "session-body" else PLACEHOLDERS
            fault = _template_fault(line, known, strings_only=strings_only)
            if fault:
                where = f" line {number}" if value.startswith("@") else ""
                self._faults.append(f"--{name} {value}{where}: {fault}")
        return Template(tuple(lines))

    def _parsed(self, name: str, kind: Callable[[str], _N], least: _N, what: str) -> _N:
        value = self.text(name)
        try:
            number = kind(value)
        except ValueError:
            self._faults.append(f"--{name} {value}: not {what}")
            return least
        if not least <= number < float("inf"):
            self._faults.append(f"--{name} {value}: must be {what} of at least {least:g}")
            return least
        return number


def _dispatch_faults(agent_name: str, dispatch: str, order: str) -> list[str]:
    faults = []
    if dispatch in ("api", "room", "token") and not agent_name:
        faults.append(f"--dispatch {dispatch}: needs --agent-name; without a name use --dispatch none")
    if dispatch == "none" and agent_name:
        faults.append(
            f"--dispatch none: asks for the unnamed agent, but --agent-name is {agent_name}; "
            "use api, room or token"
        )
    if order == "session-first":
        faults.append("--order session-first: needs --session-url")
    if dispatch in ("token", "none", "backend") and order == "dispatch-first":
        faults.append(
            f"--order dispatch-first: with --dispatch {dispatch} there is no request to write; use join-first"
        )
    if dispatch == "room" and order == "join-first":
        faults.append(
            "--order join-first: with --dispatch room the room must not exist before; use dispatch-first"
        )
    return faults


def _backend_faults(dispatch: str, order: str) -> list[str]:
    """With ``--session-url``."""
    faults = []
    if dispatch not in ("", "backend"):
        faults.append(
            f"--dispatch {dispatch}: with --session-url your backend asks for the agent, so leave it out"
        )
    if order not in ("", "session-first"):
        faults.append(f"--order {order}: with --session-url its request comes first; leave it out")
    return faults


def _body_faults(read: _Reader) -> list[str]:
    if not read.text("session-body"):
        return []
    if not read.text("session-url"):
        return ["--session-body: goes nowhere without --session-url"]
    names = ("metadata", "attributes", "room-metadata", "deployment", "restart-policy")
    return [
        f"--{name}: goes nowhere with --session-body; write it into that body"
        for name in names
        if read.text(name)
    ]


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


def _witness_faults(witness: int, users: int | None, release: str, engine: str) -> list[str]:
    faults = []
    if users is not None and witness > max(users, 0):
        faults.append(f"--witness {witness}: larger than the burst of {users} (--users)")
    if witness and release == "free":
        faults.append(f"--witness {witness}: compares sessions of one burst; use --release barrier")
    if witness and engine == "idle":
        faults.append(f"--witness {witness}: engine idle does nothing to compare with; use --engine listen")
    return faults


def _beside_faults(baseline: int, control_s: float, users: int | None, release: str) -> list[str]:
    faults = []
    if users is not None and baseline > max(users, 0):
        faults.append(f"--baseline {baseline}: larger than the burst of {users} (--users)")
    if release == "free":
        given = [*(["--baseline"] if baseline else []), *(["--control"] if control_s else [])]
        faults += [f"{name}: is compared with a burst; use --release barrier" for name in given]
    return faults


def _template_fault(text: str, known: Sequence[str], *, strings_only: bool) -> str:
    try:
        value = json.loads(text)
    except ValueError as exc:
        return f"not valid JSON ({exc})"
    if strings_only and not (
        isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    ):
        return 'must be an object of strings, for example {"plan": "scale"}'
    for name in sorted(set(_placeholders(value))):
        if name not in known:
            names = ", ".join("{" + item + "}" for item in known)
            return f"unknown placeholder {{{name}}}; known are {names}"
    return ""


def _placeholders(value: object) -> list[str]:
    if isinstance(value, str):
        return re.findall(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", value)
    if isinstance(value, dict):
        return [name for item in value.values() for name in _placeholders(item)]
    if isinstance(value, list):
        return [name for item in value for name in _placeholders(item)]
    return []


def _fill(value: object, values: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return re.sub(r"\{(" + "|".join(values) + r")\}", lambda m: values[m.group(1)], value)
    if isinstance(value, dict):
        return {key: _fill(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, values) for item in value]
    return value


def _http_url_fault(url: str, like: str) -> str:
    """Why ``url`` is not the address of an HTTP endpoint; empty if it is. ``like``: one that would do."""
    example = f"for example {like}"
    try:
        parts = urlsplit(url)
        named = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and " " not in url
        )
    except ValueError:
        named = False  # no such port, or a bracket that never closes
    if not named:
        return f"must be http:// or https://, a host and a port, {example}"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return f"must be without user, password and query, {example}"
    return ""


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


def _shown(url: str) -> str:
    """A URL that cannot be read, as it may be shown: without what may be user info or query."""
    head = re.split(r"[?#]", url, maxsplit=1)[0]
    if "@" in url[len(head) :]:
        return "…"  # where its password ends is anybody's guess
    return re.sub(r"^(.*//)?.*@", r"\1", head)
