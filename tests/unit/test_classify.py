from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lk_users.classify import classify
from lk_users.clock import NS_PER_S
from lk_users.evidence import (
    NO_KEY,
    DispatchView,
    JobView,
    Observation,
    Offer,
    Onset,
    ParticipantView,
    ServerView,
    Sighting,
    Voice,
)
from lk_users.outcome import OUTCOMES, Finding, outcome_of
from lk_users.record import Mark
from lk_users.steps import Agent, Dispatch, Opening, Transaction, User

NAME = "front-desk"
WAITING = Transaction(Dispatch.STORED, User.LISTENING, Agent.ABSENT)
S = NS_PER_S
# Outcomes that no evidence of one session gives: the report knows a lost worker, and an engine its crash.
NOT_OF_EVIDENCE = {Finding.GENERATOR_LOST, Finding.ENGINE_CRASHED}


def seen(**changes: Any) -> Observation:
    """A user that waited 120 s in its room, for an agent that it never saw."""
    values: dict[str, Any] = {
        "transaction": WAITING,
        "marks_ns": {Mark.FIRED: 0},
        "agent_name": NAME,
        "session_timeout_s": 120.0,
        "welcome": frozenset({"audio"}),
        "welcome_timeout_s": 10.0,
        "dispatch_id": "AD_1",
        **changes,
    }
    return Observation(**values)


def sighting(sid: str = "PA_1", identity: str = "agent-1", seen_s: float = 1.0, **changes: Any) -> Sighting:
    values = {"named": True, "joined_at_ms": 0, **changes}
    return Sighting(sid, identity, seen_ns=round(seen_s * S), **values)


def marks(**at_s: float) -> dict[str, int]:
    return {name: round(at * S) for name, at in at_s.items()}


def listed(*jobs: JobView, dispatch_id: str = "AD_1", agent_name: str = NAME) -> ServerView:
    return ServerView((DispatchView(dispatch_id, agent_name, 1, jobs),))


def job(status: str = "running", **changes: Any) -> JobView:
    return JobView("AJ_1", "AW_1", status, **changes)


def agent(name: str = NAME, **changes: Any) -> ParticipantView:
    values: dict[str, Any] = {
        "agent": True, "state": "active", "joined_at_ms": 0, "attributes": {"lk.agent.name": name}, **changes,
    }  # fmt: skip
    return ParticipantView("PA_1", "agent-1", **values)


def voice(sid: str = "PA_1", identity: str = "agent-1", **changes: Any) -> Voice:
    """Heard as it began to speak, 2 s after the intended start."""
    values: dict[str, Any] = {
        "speaking_ns": 2 * S, "track_ns": round(1.9 * S), "packet_ns": 2 * S,
        "onset": Onset(0, -18.0, -45.0, 0, 0.0), **changes,
    }  # fmt: skip
    return Voice(sid, identity, **values)


CUT_OFF = voice(speaking_ns=round(1.4 * S))
JOB_ENDED = job("success", ended_at_ns=9)
FAILED_DISPATCH = (Finding.DISPATCH_FAILED, "HTTP 503")
# Two agents and one job in all: both are of it.
TWO_AT_ONCE = (
    "agent-1 of job AJ_1 entered at 1.00 s (PA_1) and agent-2 of job AJ_1 entered at 5.00 s (PA_2), "
    "both there at once"
)
WELCOMED = {"sightings": (sighting(),), "marks_ns": marks(agent_joined=1, first_audio=2, welcomed=2)}

TABLE: list[tuple[str, dict[str, Any], ServerView | None, dict[Finding, str]]] = [
    ("welcomed", WELCOMED, None, {Finding.OK: ""}),
    (
        "welcomed in time",
        {**WELCOMED, "marks_ns": marks(agent_joined=1, welcomed=11)},
        None,
        {Finding.OK: ""},
    ),
    (
        "welcomed too late",
        {**WELCOMED, "marks_ns": marks(agent_joined=1, welcomed=11.5)},
        None,
        {Finding.WELCOME_LATE: "10.5 s after the agent joined"},
    ),
    (
        "late from when it was seen, where the join is not known",
        {**WELCOMED, "marks_ns": marks(agent_seen=3, welcomed=13.3)},
        None,
        {Finding.WELCOME_LATE: "10.3 s after the agent joined"},
    ),
    (
        "welcomed although the dispatch was not answered yet",
        {**WELCOMED, "transaction": Transaction(Dispatch.ASKED, User.LISTENING, Agent.WELCOMED)},
        listed(job()),
        {Finding.OK: ""},
    ),
    (
        "welcomed by state before media was up, then left",
        {**WELCOMED, "transaction": Transaction(Dispatch.STORED, User.IN_ROOM, Agent.LEFT)},
        listed(job()),
        {Finding.OK: ""},
    ),
    ("cancelled", {"cancelled": "stopped"}, listed(), {Finding.CANCELLED: "stopped"}),
    (
        "cancelled in the middle of the dispatch",
        {"cancelled": "stopped", "transaction": Transaction(Dispatch.ASKED)},
        None,
        {Finding.CANCELLED: "stopped"},
    ),
    (
        "the user's own backend never answered",
        {"transaction": Transaction(opening=Opening.ASKED)},
        None,
        {Finding.SESSION_FAILED: "no answer within 120 s"},
    ),
    (
        "no agent, and no key to ask with",
        {},
        ServerView(unread=NO_KEY),
        {Finding.NEVER_ASSIGNED: f"no agent came; whether a worker took a job is {NO_KEY}"},
    ),
    (
        "dispatch never answered",
        {"transaction": Transaction(Dispatch.ASKED)},
        None,
        {Finding.DISPATCH_FAILED: "no answer within 120 s"},
    ),
    (
        "join never answered",
        {"transaction": Transaction(Dispatch.STORED, User.JOINING)},
        None,
        {Finding.CONNECT_FAILED: "no answer within 120 s"},
    ),
    (
        "media never up",
        {
            "transaction": Transaction(Dispatch.STORED, User.IN_ROOM, Agent.PRESENT),
            "sightings": (sighting(),),
        },
        None,
        {Finding.MEDIA_FAILED: "the peer connection was not up within 120 s"},
    ),
    (
        "a refused dispatch is just that",
        {"failure": (Finding.RATE_LIMITED, "HTTP 429"), "failure_status": 429},
        listed(job()),
        {Finding.RATE_LIMITED: "HTTP 429"},
    ),
    (
        "a clear no stays one, whatever the API lists",
        {"failure": (Finding.DISPATCH_FAILED, "HTTP 401"), "failure_status": 401},
        listed(job()),
        {Finding.DISPATCH_FAILED: "HTTP 401"},
    ),
    (
        "a failure of the server, and yet a job",
        {"failure": FAILED_DISPATCH, "failure_status": 503, "dispatch_id": ""},
        listed(job(), dispatch_id="AD_7"),
        {
            Finding.DISPATCH_UNCLEAR: "HTTP 503, and yet the API lists job AJ_1",
            Finding.DISPATCH_FAILED: "HTTP 503",
        },
    ),
    (
        "a cut connection, and yet a job",
        {"failure": (Finding.DISPATCH_FAILED, "connection reset"), "dispatch_id": ""},
        listed(job()),
        {
            Finding.DISPATCH_UNCLEAR: "connection reset, and yet the API lists job AJ_1",
            Finding.DISPATCH_FAILED: "connection reset",
        },
    ),
    (
        "a failure of the server, a dispatch, no job",
        {"failure": FAILED_DISPATCH, "failure_status": 503, "dispatch_id": ""},
        listed(),
        {Finding.DISPATCH_FAILED: "HTTP 503"},
    ),
    (
        "a failure of the server, and the API is not there either",
        {"failure": FAILED_DISPATCH, "failure_status": 503},
        ServerView(unread="connection refused"),
        {Finding.DISPATCH_FAILED: "HTTP 503"},
    ),
    *(
        (str(finding), {"failure": (finding, "why")}, listed(job()), {finding: "why"})
        for finding in (
            Finding.CONNECT_FAILED,
            Finding.USER_DROPPED,
            Finding.CONNECTION_LOST,
            Finding.ROOM_CLOSED,
            Finding.MEDIA_FAILED,
        )
    ),
    *(
        (
            f"sent away without media: {reason}",
            {"failure": (Finding.USER_DROPPED, reason)},
            listed(job()),
            {
                Finding.MEDIA_FAILED: "the peer connection never came up; "
                f"the server then sent the user away: {reason}",
                Finding.USER_DROPPED: reason,
            },
        )
        for reason in ("connection_timeout", "join_failure")
    ),
    (
        "sent away once media was up",
        {"failure": (Finding.USER_DROPPED, "connection_timeout"), "marks_ns": marks(fired=0, media_up=1)},
        listed(job()),
        {Finding.USER_DROPPED: "connection_timeout"},
    ),
    (
        "put out by the second of two joins that a slow server made of one",
        {
            "failure": (Finding.USER_DROPPED, "duplicate_identity"),
            "marks_ns": marks(fired=0, dispatched=0.5, connected=3.75),
        },
        listed(job()),
        {
            Finding.USER_DROPPED: "duplicate_identity: its join was answered after 3.25 s, and a server "
            "that waits longer than 3 s for its own node lets the user join a second time"
        },
    ),
    (
        "put out by a join that was answered in time, and so by somebody else",
        {
            "failure": (Finding.USER_DROPPED, "duplicate_identity"),
            "marks_ns": marks(fired=0, dispatched=0.5, connected=3.25),
        },
        listed(job()),
        {Finding.USER_DROPPED: "duplicate_identity"},
    ),
    (
        "put out by our own request that went out again",
        {
            "failure": (Finding.USER_DROPPED, "duplicate_identity"),
            "marks_ns": marks(fired=0, dispatched=0.5, connected=0.75),
            "rearmed": True,
        },
        listed(job()),
        {
            Finding.USER_DROPPED: "duplicate_identity: a request of ours went out again after its "
            "connection was cut",
            Finding.REARMED: "its connection was made again",
        },
    ),
    ("API not asked yet", {}, None, {Finding.NEVER_ASSIGNED: "no agent came; the API was not asked yet"}),
    (
        "API unread",
        {},
        ServerView(unread="connection refused"),
        {Finding.NEVER_ASSIGNED: "no agent came, and the API could not be asked: connection refused"},
    ),
    ("no dispatch", {}, ServerView(), {Finding.NEVER_ASSIGNED: "the API lists no such dispatch"}),
    ("no job", {}, listed(), {Finding.NEVER_ASSIGNED: "the API lists no job for the dispatch"}),
    ("pending job", {}, listed(job("pending")), {Finding.NEVER_ASSIGNED: "job AJ_1 is pending"}),
    (
        "cancelled job",
        {},
        listed(job("cancelled", error="no worker")),
        {Finding.NEVER_ASSIGNED: "job AJ_1 is cancelled: no worker"},
    ),
    (
        "rejected, which shows as success without a participant",
        {},
        listed(JOB_ENDED),
        {Finding.REJECTED: "job AJ_1 ended as success without an agent"},
    ),
    (
        "rejected, its end not stamped",
        {},
        listed(job("success")),
        {Finding.REJECTED: "job AJ_1 ended as success without an agent"},
    ),
    (
        "failed job",
        {},
        listed(job("failed", ended_at_ns=9, error="boom")),
        {Finding.REJECTED: "job AJ_1 ended as failed without an agent: boom"},
    ),
    (
        "taken, nobody came",
        {},
        listed(job(started_at_ns=5)),
        {Finding.ASSIGNED_NOT_JOINED: "job AJ_1 is running on AW_1"},
    ),
    (
        "an agent came and went unseen",
        {},
        listed(job("success", ended_at_ns=9, participant_identity="agent-1")),
        {Finding.ASSIGNED_NOT_JOINED: "job AJ_1 is success on AW_1"},
    ),
    (
        "the last job counts",
        {},
        listed(JOB_ENDED, JobView("AJ_2", "AW_2", "running")),
        {Finding.ASSIGNED_NOT_JOINED: "job AJ_2 is running on AW_2"},
    ),
    (
        "the API lists the agent that we do not see",
        {},
        ServerView(listed(job()).dispatches, (agent(),)),
        {Finding.CLIENT_BLIND: "the API lists agent-1 (PA_1), the user never saw it"},
    ),
    (
        "the API lists another agent",
        {},
        ServerView(listed().dispatches, (agent("back-office"), agent(agent=False))),
        {Finding.NEVER_ASSIGNED: "the API lists no job for the dispatch"},
    ),
    (
        "left",
        {"sightings": (sighting(gone_ns=2 * S, gone_reason="signal_close"),)},
        listed(job()),
        {Finding.AGENT_LEFT: "it left before the welcome: signal_close"},
    ),
    (
        "left, whatever its job says",
        {"sightings": (sighting(gone_ns=2 * S, gone_reason="state_mismatch"),)},
        listed(job("success", ended_at_ns=9, participant_identity="agent-1")),
        {Finding.AGENT_LEFT: "it left before the welcome: state_mismatch"},
    ),
    (
        "ended on purpose, its job still running",
        {"sightings": (sighting(gone_ns=2 * S, gone_reason="client_initiated"),)},
        listed(job()),
        {Finding.AGENT_ENDED: "it left on purpose before the welcome: client_initiated"},
    ),
    (
        "ended on purpose, API unread",
        {"sightings": (sighting(gone_ns=2 * S, gone_reason="client_initiated"),)},
        ServerView(unread="timeout"),
        {Finding.AGENT_ENDED: "it left on purpose before the welcome: client_initiated"},
    ),
    (
        "silent",
        {"sightings": (sighting(),), "marks_ns": marks(agent_active=1)},
        listed(job()),
        {Finding.WELCOME_MISSING: "it was connected, but never ready; missing: audio"},
    ),
    (
        "silent, and left only after the decision",
        {"sightings": (sighting(gone_ns=121 * S, gone_reason="x"),), "decided_ns": 120 * S},
        listed(job()),
        {Finding.WELCOME_MISSING: "it never became active; missing: audio"},
    ),
    (
        "heard only after the decision",
        {
            "sightings": (sighting(),),
            "decided_ns": 120 * S,
            "marks_ns": marks(agent_active=1, agent_ready=121, agent_track=121, first_audio=121),
        },
        listed(job()),
        {Finding.WELCOME_MISSING: "it was connected, but never ready; missing: audio"},
    ),
    (
        "came only after the decision",
        {"sightings": (sighting(seen_s=121),), "decided_ns": 120 * S},
        listed(job(participant_identity="agent-1")),
        {Finding.ASSIGNED_NOT_JOINED: "job AJ_1 is running on AW_1"},
    ),
    (
        "two at once",
        {**WELCOMED, "sightings": (sighting(), sighting("PA_2", "agent-2", 5))},
        listed(job()),
        {Finding.DUPLICATE_AGENT: TWO_AT_ONCE},
    ),
    (
        "a second one after the first had gone",
        {**WELCOMED, "sightings": (sighting(gone_ns=3 * S), sighting("PA_2", "agent-2", 5))},
        listed(job()),
        {Finding.OK: ""},
    ),
    (
        "come back",
        {**WELCOMED, "sightings": (sighting(gone_ns=3 * S), sighting("PA_2", "agent-1", 5))},
        listed(job()),
        {
            Finding.AGENT_REJOINED: "agent-1 entered at 1.00 s (PA_1, gone at 3.00 s: ) and came back at "
            "5.00 s (PA_2)"
        },
    ),
    (
        "come back before it was seen to go",
        {**WELCOMED, "sightings": (sighting(gone_ns=6 * S), sighting("PA_2", "agent-1", 5))},
        listed(job()),
        {
            Finding.AGENT_REJOINED: "agent-1 entered at 1.00 s (PA_1, gone at 6.00 s: ) and came back at "
            "5.00 s (PA_2)"
        },
    ),
    (
        "on two workers, as two reads of the API show",
        {
            **WELCOMED,
            "sightings": (
                sighting(gone_ns=3 * S, gone_reason="x", joined_at_ms=1_000),
                sighting("PA_2", seen_s=5, joined_at_ms=5_500),
            ),
        },
        replace(
            listed(JobView("AJ_1", "AW_2", "running", started_at_ns=4 * S)),
            earlier=(Offer("AD_1", "AJ_1", "AW_1", S // 2),),
        ),
        {
            Finding.JOB_RETRIED: "job AJ_1 entered at 1.00 s on AW_1 (PA_1, gone at 3.00 s: x) and at 5.00 s "
            "on AW_2 (PA_2)"
        },
    ),
    (
        "two at once, and silent",
        {"sightings": (sighting(), sighting("PA_2", "agent-2", 5))},
        listed(job()),
        {
            Finding.DUPLICATE_AGENT: TWO_AT_ONCE,
            Finding.WELCOME_MISSING: "it never became active; missing: audio",
        },
    ),
    (
        "heard from its middle on",
        {**WELCOMED, "voices": (CUT_OFF,)},
        None,
        {
            Finding.WELCOME_CLIPPED: "it had been speaking for 500 ms before its audio could reach the user",
        },
    ),
    (
        "one after the other, both heard",
        {
            **WELCOMED,
            "sightings": (sighting(gone_ns=3 * S), sighting("PA_2", "agent-2", 5)),
            "voices": (voice(), voice("PA_2", "agent-2")),
        },
        None,
        {Finding.WELCOME_TWICE: "agent-1 (PA_1) and agent-2 (PA_2) were heard"},
    ),
    (
        "a bystander beside the agent",
        {**WELCOMED, "sightings": (sighting(), sighting("PA_9", "other", named=False))},
        listed(job()),
        {Finding.OK: "", Finding.BYSTANDER_AGENT: "other"},
    ),
    (
        "a bystander is not the agent",
        {"sightings": (sighting("PA_9", "other", named=False),)},
        listed(),
        {Finding.NEVER_ASSIGNED: "the API lists no job for the dispatch", Finding.BYSTANDER_AGENT: "other"},
    ),
    (
        "a ghost dispatch",
        WELCOMED,
        ServerView((*listed(job()).dispatches, DispatchView("AD_0", ""))),
        {Finding.OK: "", Finding.GHOST_DISPATCH: "dispatch AD_0 for the unnamed agent, no job"},
    ),
    (
        "an unnamed dispatch that somebody serves is no ghost",
        WELCOMED,
        ServerView((*listed(job()).dispatches, DispatchView("AD_0", "", 1, (job(),)))),
        {Finding.OK: ""},
    ),
    (
        "no ghost where the unnamed agent is the one asked for",
        {"agent_name": "", "dispatch_id": ""},
        ServerView((DispatchView("AD_0", ""),)),
        {Finding.NEVER_ASSIGNED: "the API lists no job for the dispatch"},
    ),
    (
        "made again",
        {**WELCOMED, "rearmed": True},
        None,
        {Finding.OK: "", Finding.REARMED: "its connection was made again"},
    ),
]


@pytest.mark.parametrize(
    ("changes", "view", "found"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_findings(changes: dict[str, Any], view: ServerView | None, found: dict[Finding, str]) -> None:
    result = classify(seen(**changes), view)
    assert result == found
    # In outcome order, and one of them is an outcome.
    assert list(result) == [finding for finding in Finding if finding in result]
    assert outcome_of(result) == next(iter(found))


def test_the_table_has_every_outcome_that_evidence_can_give() -> None:
    outcomes = {next(iter(found)) for *_, found in TABLE}
    assert outcomes == set(OUTCOMES) - NOT_OF_EVIDENCE


ITEM_MARK = {"state": "agent_speaking", "track": "agent_track", "audio": "first_audio", "text": "first_text"}


@pytest.mark.parametrize(
    ("names", "packets", "far"),
    [
        ([], False, "it never became active"),
        (["agent_active"], False, "it was connected, but never ready"),
        (["agent_active", "agent_ready"], False, "it was ready, but published no track"),
        (["agent_active", "agent_track"], False, "its track was there, but it never spoke"),
        (
            ["agent_track", "agent_speaking"],
            False,
            "it said that it was speaking, but no audio packet arrived",
        ),
        (["agent_active"], True, "its audio arrived, but silent"),
    ],
)
def test_how_far_it_came(names: list[str], packets: bool, far: str) -> None:
    at = dict.fromkeys(names, 1.0)
    observation = seen(
        sightings=(sighting(),),
        marks_ns=marks(**at),
        packet_ns=S if packets else None,
        welcome=frozenset({"text", "audio"}),
    )
    assert classify(observation, None) == {Finding.WELCOME_MISSING: f"{far}; missing: audio, text"}


@pytest.mark.parametrize("there", ITEM_MARK)
def test_only_what_is_missing_is_named(there: str) -> None:
    observation = seen(
        sightings=(sighting(),), marks_ns=marks(**{ITEM_MARK[there]: 1.0}), welcome=frozenset(ITEM_MARK)
    )
    missing = sorted(item for item in ITEM_MARK if item != there)
    assert classify(observation, None)[Finding.WELCOME_MISSING].endswith(f"; missing: {', '.join(missing)}")


def test_the_own_dispatch_is_found_by_id_before_name() -> None:
    older = DispatchView("AD_0", NAME, 1, (JobView("AJ_0", "AW_0", "pending"),))
    own = DispatchView("AD_1", NAME, 2, (JobView("AJ_1", "AW_1", "running"),))
    view = ServerView((older, own))
    twice = {Finding.DOUBLE_DISPATCH: f"AD_0 and AD_1 both ask for {NAME}"}
    assert classify(seen(), view) == {Finding.ASSIGNED_NOT_JOINED: "job AJ_1 is running on AW_1", **twice}
    assert classify(seen(dispatch_id=""), view) == {Finding.NEVER_ASSIGNED: "job AJ_0 is pending", **twice}


def test_a_dispatch_of_another_name_is_not_our_own() -> None:
    view = listed(job(), dispatch_id="AD_5", agent_name="back-office")
    assert classify(seen(dispatch_id=""), view) == {Finding.NEVER_ASSIGNED: "the API lists no such dispatch"}


def test_names_of_agents() -> None:
    assert agent().is_named(NAME)
    assert agent(attributes={"lk.agent_name": NAME}).is_named(NAME)
    assert agent(attributes={}).is_named(NAME)
    assert not agent("other").is_named(NAME)
    assert not agent(agent=False).is_named(NAME)
    assert not agent(attributes={"lk.publish_on_behalf": "agent-1"}).is_named(NAME)


def test_audio_after_the_decision_is_not_called_silent() -> None:
    observation = seen(sightings=(sighting(),), decided_ns=20 * S, packet_ns=21 * S)
    assert classify(observation, None)[Finding.WELCOME_MISSING] == "it never became active; missing: audio"


def test_an_agent_that_came_at_the_very_end_had_no_fair_chance() -> None:
    observation = seen(sightings=(sighting(seen_s=118.0),), decided_ns=120 * S)
    assert classify(observation, None)[Finding.WELCOME_MISSING] == (
        "it never became active; missing: audio; it came 2.0 s before the session's time was up"
    )
