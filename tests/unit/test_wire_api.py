from __future__ import annotations

import pytest
from livekit.protocol import agent as agent_messages
from livekit.protocol import agent_dispatch, models

from lk_users.wire.api import participant_view, read_dispatch

Info = models.ParticipantInfo


@pytest.mark.parametrize(
    ("details", "hosted"),
    [([], False), ([Info.KindDetail.FORWARDED], False), ([Info.KindDetail.CLOUD_AGENT], True)],
)
def test_an_agent_that_the_cloud_runs(details: list[models.ParticipantInfo.KindDetail], hosted: bool) -> None:
    assert participant_view(Info(kind=Info.Kind.AGENT, kind_details=details)).hosted is hosted


def test_a_jobs_error_is_kept_without_a_token_that_it_names() -> None:
    state = agent_messages.JobState(error="join refused: eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJrIn0.sig")
    found = agent_dispatch.AgentDispatch(id="AD_1")
    found.state.jobs.append(agent_messages.Job(id="AJ_1", state=state))
    (job,) = read_dispatch(found.SerializeToString()).jobs
    assert (job.job_id, job.error) == ("AJ_1", "join refused: (token)")
