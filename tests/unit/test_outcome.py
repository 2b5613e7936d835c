from __future__ import annotations

import re

import pytest

from lk_users import outcome
from lk_users.outcome import (
    EXIT_CODE_OF,
    ORDER,
    OUTCOMES,
    ExitCode,
    Fault,
    Finding,
    Verdict,
    fault_of,
    is_lost,
    outcome_of,
)


def drawn() -> dict[str, str]:
    """Outcome → fault, in the order that the docstring draws."""
    assert outcome.__doc__
    tree = outcome.__doc__.split("::\n\n", 1)[1].split("\n\nFindings", 1)[0]
    faults: dict[str, str] = {}
    fault = ""
    for line in tree.splitlines():
        match = re.match(r"    (\w*) +(\w+)", line)
        assert match, line
        fault = match[1] or fault
        faults[match[2]] = fault
    return faults


def test_the_docstring_draws_the_order_and_the_faults() -> None:
    faults = drawn()
    assert list(faults) == [finding.value for finding in OUTCOMES]
    assert {name: fault_of(Finding(name)).value for name in faults if name != "ok"} == {
        name: fault for name, fault in faults.items() if name != "ok"
    }


def test_the_docstring_names_the_findings_that_never_are_an_outcome() -> None:
    assert outcome.__doc__
    further = outcome.__doc__.split("Findings that never are an outcome", 1)[1]
    never = [finding for finding in ORDER if finding not in OUTCOMES]
    assert re.findall(r"``(\w+)``", further) == [finding.value for finding in never]
    assert [fault_of(finding) for finding in never] == [Fault.NONE] * len(never)


def test_the_first_in_the_order_decides() -> None:
    for i, first in enumerate(OUTCOMES):
        assert outcome_of(reversed(ORDER[i:])) is first
    assert outcome_of([]) is Finding.OK
    assert outcome_of([Finding.GHOST_DISPATCH, Finding.REARMED]) is Finding.OK


LOST = {
    "client_blind", "media_failed", "dispatch_unclear", "rate_limited", "session_failed",
    "dispatch_failed", "connect_failed",
    "user_dropped", "connection_lost", "room_closed", "never_assigned", "rejected", "assigned_not_joined",
    "welcome_missing",
}  # fmt: skip


@pytest.mark.parametrize("finding", list(Finding))
def test_lost_is_a_literal_list(finding: Finding) -> None:
    assert not is_lost(finding, welcomed=True)
    assert is_lost(finding, welcomed=False) == (finding.value in LOST | {"agent_left", "agent_ended"})


def test_exit_codes() -> None:
    assert [(code.name, code.value) for code in ExitCode] == [
        ("PASS", 0),
        ("SLO_FAILED", 10),
        ("VOID", 11),
        ("REFUSED", 12),
    ]
    assert {verdict: int(EXIT_CODE_OF[verdict]) for verdict in Verdict} == {
        "PASS": 0,
        "SLO_FAILED": 10,
        "VOID": 11,
    }
