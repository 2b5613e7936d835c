from __future__ import annotations

import pytest
from livekit.protocol import models

from lk_users.wire.api import participant_view
from lk_users.wire.names import connection_quality, disconnect_reason, job_status, participant_state


@pytest.mark.parametrize(
    ("number", "name"), [(0, "joining"), (2, "active"), (3, "disconnected"), (9, "state 9")]
)
def test_states(number: int, name: str) -> None:
    assert participant_state(number) == name


@pytest.mark.parametrize(
    ("number", "name"),
    [(0, "unknown_reason"), (1, "client_initiated"), (5, "room_deleted"), (999, "reason 999")],
)
def test_reasons(number: int, name: str) -> None:
    assert disconnect_reason(number) == name


@pytest.mark.parametrize(("number", "name"), [(0, "poor"), (2, "excellent"), (3, "lost"), (9, "quality 9")])
def test_qualities(number: int, name: str) -> None:
    assert connection_quality(number) == name


@pytest.mark.parametrize(("number", "name"), [(0, "pending"), (1, "running"), (3, "failed"), (9, "status 9")])
def test_job_statuses(number: int, name: str) -> None:
    """One that only a newer server knows must not end the reads, and with them the records."""
    assert job_status(number) == name


def test_a_participant_that_left_for_a_reason_of_a_newer_server_is_seen_all_the_same() -> None:
    # Protobuf keeps numbers that its enums do not have.
    info = models.ParticipantInfo.FromString(
        models.ParticipantInfo(sid="PA_1").SerializeToString() + b"\x80\x01\xe7\x07"
    )
    view = participant_view(info)
    assert (view.sid, view.state, view.disconnect_reason) == ("PA_1", "joining", "reason 999")
