from __future__ import annotations

import pytest

from lk_users.engines.sdk_lines import Lines, from_view, line, shown, to_view
from lk_users.evidence import ParticipantView

VIEW = ParticipantView(
    "PA_1", "agent-1", agent=True, state="active", joined_at_ms=7, attributes={"lk.agent.state": "speaking"},
    microphones=("TR_1", "TR_2"), disconnect_reason="unknown_reason",
)  # fmt: skip


def test_a_participant_survives_the_way() -> None:
    (message,) = Lines().feed(line({"view": from_view(VIEW)}))
    assert to_view(message["view"]) == VIEW


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_lines_come_in_pieces(piece: int) -> None:
    data = b"".join(line({"n": number, "text": "één\n"}) for number in range(3))
    lines = Lines()
    found = [one for start in range(0, len(data), piece) for one in lines.feed(data[start : start + piece])]
    assert found == [{"n": number, "text": "één\n"} for number in range(3)]


@pytest.mark.parametrize("data", [b"no json\n", b"[1]\n", b"\xff\n"])
def test_what_is_no_message_is_said_so(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Lines().feed(data)


def test_no_token_is_shown() -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJ2aWRlbyI6e319.sig_na-ture"
    assert shown(f"cannot join\n with access_token={token}&sdk=rust") == (
        "cannot join with access_token=…&sdk=rust"
    )
    assert len(shown("x" * 1000)) == 300
