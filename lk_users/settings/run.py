"""One run's settings: options read together, and what of them does not go together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from lk_users.agent_name import ANY_AGENT
from lk_users.errors import Refused
from lk_users.settings.options import (
    COURSES,
    DISPATCHES,
    ENGINES,
    ICES,
    MICS,
    ORDERS,
    RELEASES,
    RESTART_POLICIES,
    RUN_OPTIONS,
    WELCOME_ITEMS,
)
from lk_users.settings.reader import OptionReader
from lk_users.settings.scale import Scale, read_scale, search_faults
from lk_users.settings.template import NO_TEMPLATE, Template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lk_users.address import Address

# LiveKit Cloud's limit on API requests is 1,000 a minute a project; the rest is left to everybody else.
CLOUD_API_BUDGET_PER_MINUTE: Final = 900


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run, as every process of it sees it."""

    users: int
    """Of a burst; 0 in a worker, which does not know."""
    agent_name: str = ""
    dispatch: str = "api"
    order: str = "dispatch-first"
    session_url: Address | None = None
    session_body: Template = NO_TEMPLATE
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
    metadata: Template = NO_TEMPLATE
    attributes: Template = NO_TEMPLATE
    room_metadata: Template = NO_TEMPLATE
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
        read = OptionReader(options, faults)
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


def _body_faults(read: OptionReader) -> list[str]:
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
