"""Two agents in one session: who they were, which job, which worker, and whose doing it was."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import virtual as v
from test_session import CAME, JOINED, Played, play, spoke

from lk_users.clock import NS_PER_MS
from lk_users.evidence import DispatchView, JobView, ParticipantView, ServerView
from lk_users.outcome import Finding
from lk_users.record import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from virtual import Step, VirtualClock

JOB_IDENTITY = "agent-AJ_1"


def stamp_ns(after_t0_s: float) -> int:
    return v.wall_ms(after_t0_s) * NS_PER_MS


def job(worker: str = "AW_1", offered_s: float = 5.0, job_id: str = "AJ_1", identity: str = "") -> JobView:
    return JobView(
        job_id, worker, "running", started_at_ns=stamp_ns(offered_s), participant_identity=identity
    )


def listed(*jobs: JobView, dispatch_id: str = "AD_1", agent_name: str = v.AGENT_NAME) -> DispatchView:
    return DispatchView(dispatch_id, agent_name, stamp_ns(0.01), jobs)


def came(sid: str, at_s: float, identity: str = JOB_IDENTITY, **changes: Any) -> Step:
    """Seen 50 ms after it joined; a step of a script is so long after the join's write at 20 ms."""
    view = v.agent(sid, identity, agent_state="listening", joined_at_ms=v.wall_ms(at_s), **changes)
    return (at_s + 0.03, v.participant(view))


def went(sid: str, at_s: float, reason: str, identity: str = JOB_IDENTITY) -> Step:
    return (at_s - 0.02, v.participant(v.gone(reason, sid, identity)))


def watched(
    *steps: Step, views: Sequence[ServerView] = (), identity: str = JOB_IDENTITY, **options: Any
) -> Played:
    """The first agent joins at 5.26 s and welcomes; then ``steps``, under ``--watch 60``. ``views``: what
    the API said, read after read."""

    def script(clock: VirtualClock) -> Sequence[Step]:
        speaks = ((6.0, v.subscribed("PA_1")), (6.5, v.audible(clock, "PA_1")))
        return (*JOINED, came("PA_1", 5.26, identity), *speaks, *steps)

    played = play(script, watch="60", **options)
    for view in views:
        played.view = view.after(played.view)
    return played


FOUNDING = (came("PA_2", 49.21), went("PA_1", 49.22, "duplicate_identity"))


def test_the_founding_case_one_job_on_two_workers_by_two_reads() -> None:
    views = (
        ServerView((listed(job("AW_1", 5.0)),)),
        ServerView((listed(job("AW_2", 48.9)),)),
    )
    played = watched(*FOUNDING, views=views)
    assert played.found == (
        Finding.JOB_RETRIED,
        "job AJ_1 entered at 5.26 s on AW_1 (PA_1, gone at 49.22 s: duplicate_identity) and at 49.21 s on "
        "AW_2 (PA_2)",
    )
    record = played.record
    # The wait for the first agent was its own, whatever happened to the job later.
    assert record.started_at_ns == stamp_ns(5.0)
    assert set(record.findings) == {"job_retried"}
    assert not record.lost
    agents = record.evidence["agents"]
    assert [(item["sid"], item["worker_id"], item["job_id"]) for item in agents] == [
        ("PA_1", "AW_1", "AJ_1"),
        ("PA_2", "AW_2", "AJ_1"),
    ]
    # The server's clock is known to ±15 ms from this one user.
    assert [item["joined_ms"] for item in agents] == pytest.approx([5260, 49_210], abs=15)
    assert [item["seen_ms"] for item in agents] == pytest.approx([5310, 49_260], abs=1)
    assert (agents[0]["gone_ms"], agents[0]["gone_reason"]) == (49_220.0, "duplicate_identity")
    assert (agents[1]["gone_ms"], agents[1]["gone_reason"]) == (None, "")
    offers = record.evidence["offers"]
    assert [(item["job_id"], item["worker_id"]) for item in offers] == [("AJ_1", "AW_1"), ("AJ_1", "AW_2")]
    assert [item["started_ms"] for item in offers] == pytest.approx([5000, 48_900], abs=15)


def test_the_founding_case_by_one_late_read() -> None:
    """The API shows the last worker only; that it was offered long after an agent had joined is enough."""
    played = watched(*FOUNDING, views=[ServerView((listed(job("AW_2", 48.9)),))])
    assert played.found == (
        Finding.JOB_RETRIED,
        "job AJ_1 entered at 5.26 s on a worker not known any more (PA_1, gone at 49.22 s: "
        "duplicate_identity) and at 49.21 s on AW_2 (PA_2)",
    )
    assert [item["worker_id"] for item in played.record.evidence["agents"]] == ["", "AW_2"]
    # When the first worker was offered it is not known, and nothing is made up.
    assert played.record.started_at_ns == 0
    assert Phase.SERVER_QUEUE not in played.record.phases_ns


def test_a_watch_too_short_does_not_see_it() -> None:
    played = play(
        lambda clock: (*JOINED, *CAME, *spoke(clock), came("PA_2", 49.21, "agent-1")),
        watch="40",
        linger_s=0.0,
    )
    assert played.decided[0].outcome is Finding.OK


def test_the_same_worker_means_a_mere_reconnect() -> None:
    same = ServerView((listed(job("AW_1", 5.0)),))
    played = watched(*FOUNDING, views=[same, same])
    assert played.found == (
        Finding.AGENT_REJOINED,
        "agent-AJ_1 entered at 5.26 s (PA_1, gone at 49.22 s: duplicate_identity) and came back at 49.21 s "
        "(PA_2); job AJ_1 is still the one of AW_1",
    )


def test_who_comes_under_the_same_identity_replaces_the_one_before() -> None:
    """The server tells nobody that the first one went; a room has an identity only once."""
    played = watched(came("PA_2", 49.21), views=[ServerView((listed(job("AW_1", 5.0)),))])
    assert played.found == (
        Finding.AGENT_REJOINED,
        "agent-AJ_1 entered at 5.26 s (PA_1, replaced at 49.26 s: duplicate_identity (inferred)) and came "
        "back at 49.21 s (PA_2); job AJ_1 is still the one of AW_1",
    )
    first, second = played.record.evidence["agents"]
    assert (first["gone_ms"], first["gone_reason"], first["replaced_by"]) == (
        second["seen_ms"], "duplicate_identity (inferred)", "PA_2",
    )  # fmt: skip


def test_what_the_server_says_of_a_replaced_one_counts() -> None:
    played = watched(came("PA_2", 49.21), went("PA_1", 50, "connection_timeout"))
    (first, _) = played.record.evidence["agents"]
    assert (first["gone_ms"], first["gone_reason"]) == (49_260.0, "connection_timeout")


@pytest.mark.parametrize("views", [[], [ServerView(unread="timeout")], [ServerView((listed(),))]])
def test_where_no_read_names_a_worker_nothing_is_said_of_one(views: list[ServerView]) -> None:
    played = watched(*FOUNDING, views=views)
    assert played.record.outcome is Finding.AGENT_REJOINED
    assert "AW_" not in played.record.cause


def test_a_retry_that_sends_nobody_is_seen_by_two_reads() -> None:
    views = [ServerView((listed(job("AW_1", 5.0)),)), ServerView((listed(job("AW_2", 30.0)),))]
    played = watched(went("PA_1", 20, "signal_close"), views=views)
    assert played.record.outcome is Finding.JOB_RETRIED
    cause = played.record.cause
    assert cause.startswith("job AJ_1 was given to AW_1 at 5.0")
    assert cause.endswith("; its agent PA_1 entered at 5.26 s, gone at 20.00 s: signal_close")


def test_a_worker_offered_a_second_time_before_anyone_came_is_no_retry() -> None:
    """Others that refused lie before the offer that counts; only one agent ever was."""
    views = [ServerView((listed(job("AW_1", 5.2)),))] * 2
    assert watched(views=views).found == (Finding.OK, "")


def test_nodes_whose_clocks_differ_by_less_than_a_second_make_no_retry() -> None:
    assert watched(views=[ServerView((listed(job("AW_1", 6.2)),))]).found == (Finding.OK, "")


def test_a_failed_last_read_takes_nothing_from_those_before() -> None:
    views = [
        ServerView((listed(job("AW_1", 5.0)),)),
        ServerView((listed(job("AW_2", 48.9)),)),
        ServerView(unread="connection refused"),
    ]
    played = watched(*FOUNDING, views=views)
    assert played.record.outcome is Finding.JOB_RETRIED
    assert (played.record.worker_id, len(played.record.evidence["offers"])) == ("AW_2", 2)


# Two of it at once.


SECOND = came("PA_2", 49.21, "agent-AJ_2")


def test_two_jobs_of_one_dispatch_are_a_duplicate() -> None:
    jobs = (job("AW_1", 5.0), job("AW_2", 48.9, "AJ_2"))
    played = watched(SECOND, views=[ServerView((listed(*jobs),))])
    assert played.found == (
        Finding.DUPLICATE_AGENT,
        "agent-AJ_1 of job AJ_1 entered at 5.26 s on AW_1 (PA_1) and agent-AJ_2 of job AJ_2 entered at "
        "49.21 s on AW_2 (PA_2), both there at once",
    )


def test_identities_of_their_own_are_one_job_s_where_there_is_but_one() -> None:
    """Both workers still speak: two at once, and the second offer proves the retry."""
    played = watched(
        came("PA_2", 49.21, "clara-2"), views=[ServerView((listed(job("AW_2", 48.9)),))], identity="clara-1"
    )
    assert set(played.record.findings) == {"duplicate_agent", "job_retried"}
    assert "job AJ_1 entered at 5.26 s" in played.record.findings["job_retried"]


def test_two_dispatches_make_two_agents_and_no_duplicate() -> None:
    twice = (
        listed(job("AW_1", 5.0)),
        listed(job("AW_2", 48.9, "AJ_2"), dispatch_id="AD_2"),
        listed(dispatch_id="AD_9", agent_name=""),
    )
    played = watched(SECOND, views=[ServerView(twice)])
    assert played.record.findings == {
        "ok": "",
        "ghost_dispatch": "dispatch AD_9 for the unnamed agent, no job",
        "double_dispatch": "AD_1 and AD_2 both ask for front-desk",
    }
    assert len(played.record.evidence["agents"]) == 2


def speaks(clock: VirtualClock, sid: str, at_s: float) -> Sequence[Step]:
    return (at_s, v.subscribed(sid)), (at_s + 0.5, v.audible(clock, sid))


def test_each_of_two_that_were_asked_for_may_welcome_its_user() -> None:
    def both(clock: VirtualClock) -> Sequence[Step]:
        first = (came("PA_1", 5.26), *speaks(clock, "PA_1", 6.0))
        return (*JOINED, *first, SECOND, *speaks(clock, "PA_2", 50.0))

    played = play(both, watch="60")
    assert played.record.outcome is Finding.DUPLICATE_AGENT
    assert Finding.WELCOME_TWICE in played.record.findings
    played.view = ServerView((listed(job()), listed(job("AW_2", 48.9, "AJ_2"), dispatch_id="AD_2")))
    assert played.record.findings == {
        "ok": "",
        "double_dispatch": "AD_1 and AD_2 both ask for front-desk; agent-AJ_1 (PA_1) and agent-AJ_2 (PA_2) "
        "were heard",
    }
    played.view = ServerView((listed(job(), job("AW_2", 48.9, "AJ_2")),))
    assert set(played.record.findings) == {"duplicate_agent", "welcome_twice"}


def test_a_request_of_ours_that_went_out_again_is_named_as_the_reason() -> None:
    twice = (listed(job()), listed(job("AW_2", 48.9, "AJ_2"), dispatch_id="AD_2"))
    played = watched(SECOND, views=[ServerView(twice)], facts={"rearmed": True})
    assert played.record.findings["double_dispatch"] == (
        "AD_1 and AD_2 both ask for front-desk: our request went out again after its connection was cut"
    )
    assert played.record.outcome is Finding.OK


def test_identities_that_tell_no_job_are_counted_against_the_dispatches() -> None:
    twice = (listed(job()), listed(job("AW_2", 48.9, "AJ_2"), dispatch_id="AD_2"))
    third = came("PA_3", 51, "clara-3")
    one = watched(came("PA_2", 49.21, "clara-2"), views=[ServerView(twice)], identity="clara-1")
    assert one.record.outcome is Finding.OK
    two = watched(
        came("PA_2", 49.21, "clara-2"), third, views=[ServerView(twice)], identity="clara-1"
    )  # fmt: skip
    assert two.record.outcome is Finding.DUPLICATE_AGENT


def test_two_of_the_same_dispatch_beside_one_of_another_are_a_duplicate() -> None:
    twice = (
        listed(job(), job("AW_2", 48.9, "AJ_2")),
        listed(job("AW_3", 5, "AJ_3"), dispatch_id="AD_2"),
    )
    assert watched(SECOND, views=[ServerView(twice)]).record.outcome is Finding.DUPLICATE_AGENT


def other_than_a_second_agent() -> list[tuple[str, ParticipantView]]:
    behalf = {"lk.publish_on_behalf": JOB_IDENTITY}
    human = ParticipantView("PA_8", "guest", agent=False, state="active", joined_at_ms=v.wall_ms(20))
    return [
        ("avatar", v.agent("PA_7", "face", attributes=behalf)),
        ("avatar that names no agent", v.agent("PA_7", "face", name="", attributes=behalf)),
        ("note taker", v.agent("PA_9", "notes", name="note-taker")),
        ("human", human),
        ("human of the agent's name", replace(human, attributes={"lk.agent.name": v.AGENT_NAME})),
    ]


@pytest.mark.parametrize(
    "view",
    [row[1] for row in other_than_a_second_agent()],
    ids=[row[0] for row in other_than_a_second_agent()],
)
def test_who_is_no_second_agent(view: ParticipantView) -> None:
    step: Callable[..., None] = v.participant(view)
    back: Callable[..., None] = v.participant(replace(view, sid="PA_99"))
    played = watched((20.0, step), (30.0, back), views=[ServerView((listed(job()),))])
    assert played.record.outcome is Finding.OK
    assert set(played.record.findings) <= {"ok", "bystander_agent"}


# What the API lists and the user does not see.


def test_what_a_blind_client_did_not_see_is_in_its_record() -> None:
    played = play(lambda _: JOINED)
    unseen = v.agent("PA_5", "agent-AJ_1", joined_at_ms=v.wall_ms(3.0), region="eu")
    played.view = ServerView((listed(job()),), (v.user(), unseen))
    outcome, cause = played.found
    assert outcome is Finding.CLIENT_BLIND
    assert cause.startswith("the API lists agent-AJ_1 (PA_5) since 3.0")
    (fact,) = played.record.evidence["listed_agents"]
    assert fact.pop("joined_ms") == pytest.approx(3000, abs=15)
    assert fact == {
        "sid": "PA_5", "identity": "agent-AJ_1", "named": True, "state": "active", "region": "eu",
    }  # fmt: skip


def test_where_an_agent_runs_is_in_the_record() -> None:
    view = v.agent(
        joined_at_ms=v.wall_ms(0.5), region="us-west", hosted=True,
        attributes={"lk.agent.inputs": "audio", "mood": "private"},
    )  # fmt: skip
    played = play(lambda _: (*JOINED, (0.5, v.participant(view))))
    assert played.record.evidence["agent"] == {
        "region": "us-west",
        "hosted_by_livekit": True,
        "attributes": {"lk.agent.inputs": "audio", "lk.agent.name": v.AGENT_NAME},
    }
    assert "agents" not in played.record.evidence
