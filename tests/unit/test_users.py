from __future__ import annotations

from typing import Any

from builders import marks_ns, record

from lk_users.record import Mark, Record
from lk_users.report import words
from lk_users.report.users import users


def facts(**changes: Any) -> dict[str, Any]:
    ice = {"local": "host", "remote": "host", "rtt_ms": 1.5, "gather_ms": 0.25}
    return {"mic": "silence", "ice": ice, **changes}


def section(*evidence: dict[str, Any], mic: str = "silence") -> dict[str, Any]:
    return users([record(number, evidence=item) for number, item in enumerate(evidence)], mic)


def said(part: dict[str, Any]) -> list[str]:
    return words.user_lines({"users": part})


def test_a_plain_burst() -> None:
    slower = {"local": "host", "remote": "host", "rtt_ms": 4.0, "gather_ms": 0.5}
    part = section(facts(), facts(worst_quality="excellent"), facts(ice=slower))
    assert part == {
        "mic": "silence",
        "published": 3,
        "unpublished": 0,
        "ice": {"host": 3},
        "rtt_ms": {"n": 3, "p50": 1.5, "max": 4.0},
        "gather_ms": {"n": 3, "p50": 0.25, "max": 0.5},
        "worst_quality": {"excellent": 1},
    }
    assert said(part) == []
    assert words.way_line({"users": part}) == (
        "Media of the users by candidate type: host 3, round trip p50 1.5 ms, max 4.0 ms."
    )


def test_what_a_reader_has_to_know() -> None:
    relayed = facts(mic="none", ice={"local": "relay", "remote": "host"}, worst_quality="poor")
    part = section(relayed, relayed, facts(mic="none", worst_quality="lost"), mic="none")
    assert (part["published"], part["ice"], part["rtt_ms"]["n"]) == (0, {"relay": 2, "host": 1}, 1)
    mic, score, way = said(part)
    assert mic.startswith("The users had no microphone (--mic none)")
    assert "lost for 1 user and poor for 2 users" in score
    assert way == "Media of the users by candidate type: relay 2, host 1, round trip p50 1.5 ms, max 1.5 ms."


def up(number: int, **evidence: Any) -> Record:
    return record(number, marks_ns=marks_ns({Mark.MEDIA_UP: 60}), evidence=evidence)


def test_what_is_said_of_microphones_rests_on_what_was_published() -> None:
    asked = users([up(0, mic="silence"), up(1, mic="none"), up(2, mic="not published: timeout")], "silence")
    assert (asked["published"], asked["unpublished"]) == (1, 2)
    assert said(asked) == [
        "2 of 3 users with media published no microphone, although --mic silence asked for one: agents had "
        "nothing to listen to there, so what they can bear is overstated."
    ]
    assert said(users([up(0, mic="silence")], "none")) == [
        "1 user published a microphone in spite of --mic none."
    ]


def test_who_never_had_media_or_tells_nothing_lacks_no_microphone() -> None:
    part = users([record(0, evidence={"mic": "none"}), up(1)], "silence")
    assert (part["published"], part["unpublished"]) == (0, 0)
    assert said(part) == []


def test_nothing_is_known_of_sessions_that_never_came_that_far() -> None:
    part = section({}, {"ice": {}, "mic": "none"})
    assert part["ice"] == {}
    assert part["rtt_ms"] == {"n": 0, "p50": None, "max": None}
    assert words.way_line({"users": part}) == "Media of the users by candidate type: none."
