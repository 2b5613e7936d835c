"""One line a check: what was looked at, how it is, and what would do. Pure."""

from __future__ import annotations

import enum
import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lk_users import sizing
from lk_users.settings.run import CLOUD_API_BUDGET_PER_MINUTE
from lk_users.sizing import CLOUD_API_LIMIT_PER_MINUTE
from lk_users.tools.timeline import LINE_CHARS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lk_users.capacity import Known
    from lk_users.machine import ClockState, Machine
    from lk_users.settings.run import Settings
    from lk_users.settings.target import Target
    from lk_users.wire.reach import Reached

# A server takes tokens of a machine that is up to a minute off (go-jose's leeway).
TOKEN_LEEWAY_S: Final = 60.0
# An HTTP date has whole seconds, and the answer was on its way for some time.
DATE_RESOLUTION_S: Final = 2.0
CERTIFICATE_DAYS: Final = 14.0
SLOW_TRIP_MS: Final = 250.0
_NAME_CHARS: Final = 9


class Level(enum.StrEnum):
    """``OPEN``: nothing can be said, and nothing is wrong by that."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    OPEN = "-"


@dataclass(frozen=True)
class Check:
    """``remedy``: what would do, where something is to be done."""

    name: str
    level: Level
    text: str
    remedy: str = ""


def lines(checks: Iterable[Check]) -> list[str]:
    """As a terminal shows them."""
    shown = []
    for check in checks:
        head = f"  {check.level:<4}  {check.name:<{_NAME_CHARS}}  "
        indent = " " * len(head)
        shown += _wrapped(check.text, head, indent)
        if check.remedy:
            shown += _wrapped(check.remedy, f"{indent}what would do: ", f"{indent}  ")
    return shown


def ending(checks: Sequence[Check]) -> str:
    """The last line."""
    count = {level: sum(check.level is level for check in checks) for level in Level}
    counted = ", ".join(f"{count[level]} {level.lower()}" for level in (Level.OK, Level.WARN, Level.FAIL))
    if count[Level.OPEN]:
        counted += f", {count[Level.OPEN]} not known"
    if count[Level.FAIL]:
        return f"{counted}. This run would not do."
    if count[Level.WARN]:
        return f"{counted}. The run can start; read the warnings first."
    return f"{counted}. The run can start."


def failed(checks: Iterable[Check]) -> bool:
    return any(check.level is Level.FAIL for check in checks)


def reach_check(reached: Reached, target: Target) -> Check:
    """How the server is reached; see ``wire.reach``."""
    addresses = ", ".join(reached.addresses[:3])
    name = addresses if target.host in reached.addresses else f"{target.host} is {addresses}"
    text = f"{name}: TCP in {_ms(reached.tcp_ms)}"
    if reached.tls_version:
        text += f", {reached.tls_version} in {_ms(reached.tls_ms)}"
    text += f", HTTP {reached.status} in {_ms(reached.http_ms)}"
    if reached.certificate_days is not None and reached.certificate_days < CERTIFICATE_DAYS:
        return Check(
            "reach", Level.WARN, f"{text}; its certificate ends in {reached.certificate_days:.0f} days",
            "renew it before the run",
        )  # fmt: skip
    if reached.tcp_ms > SLOW_TRIP_MS:
        return Check(
            "reach", Level.WARN, f"{text}: far away, and every step of a session takes such trips",
            "a worker in the users' own region (docs/regions.md)",
        )  # fmt: skip
    return Check("reach", Level.OK, text)


def clock_check(ahead_s: float | None, state: ClockState, stepped_ms: float) -> Check:
    """``ahead_s``: the server's clock less ours, to about ``DATE_RESOLUTION_S``; None if it does not tell.
    ``stepped_ms``: by how much ours was set while we looked."""
    kernel = {
        True: "NTP keeps it",
        False: "nothing keeps it, says the kernel",
        None: "what keeps it is not known",
    }[state.synchronised]
    if ahead_s is None:
        return Check("clock", Level.OPEN, f"the server tells no time to compare with; {kernel}")
    apart = f"{abs(ahead_s):.0f} s {'behind' if ahead_s > 0 else 'ahead of'} the server's"
    if abs(ahead_s) >= TOKEN_LEEWAY_S - DATE_RESOLUTION_S:
        return Check(
            "clock", Level.FAIL, f"this machine's is {apart}, and tokens may be a minute off ({kernel})",
            "set it: `chronyc makestep` or `timedatectl set-ntp true`",
        )  # fmt: skip
    if stepped_ms:
        return Check(
            "clock", Level.WARN, f"it was set by {stepped_ms:+.0f} ms while this looked; that voids a run",
            "let NTP settle first",
        )  # fmt: skip
    if abs(ahead_s) > DATE_RESOLUTION_S:
        return Check(
            "clock", Level.WARN,
            f"this machine's is {apart}: times of day will be off, durations are not ({kernel})",
            "NTP, as chrony or systemd-timesyncd",
        )  # fmt: skip
    return Check("clock", Level.OK, f"within {DATE_RESOLUTION_S:.0f} s of the server's ({kernel})")


def api_check(settings: Settings, requests: int, *, cloud: bool) -> Check:
    """``requests``: of the whole run."""
    if not requests:
        return Check("API", Level.OK, "no requests: without a key nothing is asked")
    at_t0 = settings.users if settings.dispatch in ("api", "room") else 0
    asked = {"api": "CreateDispatch", "room": "CreateRoom"}.get(settings.dispatch, "")
    first = f", {at_t0:,} of them {asked} at T0" if at_t0 else ", none of them at T0"
    text = f"up to {requests:,} requests{first}"
    budget = settings.api_budget_per_minute
    if budget:
        minutes = math.ceil(requests / budget)
        text += f"; with --api-budget {budget} the reads after the burst take about {minutes} min"
    if not cloud:
        return Check("API", Level.OK, f"{text}; an open-source server has no limit")
    limit = CLOUD_API_LIMIT_PER_MINUTE
    if at_t0 > limit:
        return Check(
            "API", Level.WARN, f"{text}; LiveKit Cloud takes {limit:,} a minute: the rest are rate_limited",
            f"--dispatch token, which asks by the join, or at most {limit:,} users a minute",
        )  # fmt: skip
    if budget > CLOUD_API_BUDGET_PER_MINUTE:
        return Check(
            "API", Level.WARN, f"{text}; LiveKit Cloud takes {limit:,} a minute, of all that you do",
            f"--api-budget {CLOUD_API_BUDGET_PER_MINUTE}",
        )  # fmt: skip
    return Check("API", Level.OK, f"{text}; LiveKit Cloud takes {limit:,} a minute")


def plan_check(settings: Settings) -> Check:
    """LiveKit Cloud's limit on agent sessions at once, which no API tells."""
    return Check(
        "plan", Level.WARN,
        f"{settings.users:,} agent sessions at once have to be within your project's plan, and no API tells "
        "it: 5 on Build, 20 on the next, up to 600 on Scale were reported",
        "look at the project's settings, or ask LiveKit before the run",
    )  # fmt: skip


def handles_check(users: int, processes: int, addresses: int, machine: Machine) -> Check:
    each = math.ceil(users / processes)
    needed = sizing.handles(each, addresses)
    text = f"{each:,} users in a process need {needed:,}, the hard limit is {machine.handles:,}"
    if needed <= machine.handles:
        return Check("handles", Level.OK, text)
    text = f"too few: {text}"
    return Check("handles", Level.FAIL, text, f"`ulimit -Hn {needed}`, or more --processes")


def priority_check(*, allowed: bool, here: bool) -> Check:
    """``here``: is the server on this machine?"""
    if allowed:
        return Check("priority", Level.OK, "requests leave at T0 before this machine does anything else")
    return Check(
        "priority",
        Level.WARN if here else Level.OPEN,
        "whatever else this machine does at T0 may delay the requests"
        + (", and the server is on it" if here else ""),
        "real-time priority for this user: `ulimit -r 1`, CAP_SYS_NICE or root",
    )


def machine_checks(settings: Settings, processes: int, machine: Machine, known: Known) -> list[Check]:
    """Cores and memory, by what was calibrated here, or else by what is planned for."""
    each = math.ceil(settings.users / processes)
    planned, by = sizing.USERS_A_PROCESS, f"planned for {sizing.USERS_A_PROCESS:,}"
    if known.capacity is not None:
        planned = max(1, known.capacity.users_a_process(planned))
        by = f"calibrated to {known.capacity.told}"
    found = sizing.size(
        settings.users,
        dispatch=settings.dispatch,
        mic=settings.mic != "none",
        witness=settings.witness,
        users_a_process=planned,
    )
    (part,) = found.regions
    here = "1 core" if machine.cores == 1 else f"{machine.cores} cores"
    own = "1 process" if processes == 1 else f"{processes} processes"
    text = f"{own} on {here}, each with {each:,} users ({by})"
    note = f". {known.ignored}" if known.ignored else ""
    enough = math.ceil(settings.users / planned)
    if each > planned and enough > machine.cores:
        check = Check(
            "cores", Level.WARN, f"{text}: its loop may lag{note}",
            f"--processes {enough} on as many cores, or fewer users from this machine",
        )  # fmt: skip
    elif each > planned:
        check = Check("cores", Level.WARN, f"{text}: its loop may lag{note}", f"--processes {enough}")
    elif processes + part.witness_processes > machine.cores:
        with_sdk = f", and {part.witness_processes} for --witness" if part.witness_processes else ""
        check = Check(
            "cores", Level.WARN, f"{text}{with_sdk}: each needs a core to itself at T0{note}",
            "fewer processes, or more machines",
        )  # fmt: skip
    else:
        check = Check("cores", Level.OK, f"{text}{note}")
    needed_mb = sum(item.memory_mb for item in (found.master, part))
    memory = f"needs up to {needed_mb / 1000:.1f} GB of this machine's {machine.memory_mb / 1000:.1f} GB"
    if needed_mb > machine.memory_mb:
        return [check, Check("memory", Level.WARN, memory, "fewer users from this machine")]
    return [check, Check("memory", Level.OK, memory)]


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text, LINE_CHARS, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def _ms(ms: float) -> str:
    return f"{ms:.1f} ms" if ms < 10 else f"{ms:.0f} ms"
