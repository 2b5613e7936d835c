"""The welcome's own rules: alone, and from what an engine tells a session in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import virtual as v
from test_classify import CUT_OFF, WELCOMED, marks, seen, sighting, voice
from test_session import CAME, JOINED, good, play, script

from lk_users import welcome
from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.evidence import Onset, Text, Voice
from lk_users.outcome import Finding
from lk_users.record import Mark
from lk_users.wire.text_stream import CHAT, TRANSCRIPTION, DataPiece, TextPiece

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtual import Step, VirtualClock

S = NS_PER_S
SPEAKING = v.participant(v.agent(agent_state="speaking"))


def written(text: str, at_s: float = 2.0, final_s: float | None = 2.0, **changes: str) -> Text:
    values = {"kind": "transcription", "sender": "agent-1", "segment": "stream SG_1", **changes}
    final_ns = None if final_s is None else round(final_s * S)
    return Text(text=text, at_ns=round(at_s * S), final_ns=final_ns, **values)


# Clipped.


@pytest.mark.parametrize(
    ("changes", "lead_ms", "lost_ms"),
    [
        ({}, 500, 500),
        ({"speaking_ns": None}, 0, 0),
        ({"track_ns": None}, 0, 0),
        ({"onset": None}, 500, 0),
        # Its sound began within what we received.
        ({"onset": Onset(0, -18.0, -45.0, 3, 60.0)}, 500, 0),
        # We were subscribed before it spoke: it said so long before its first sound.
        ({"track_ns": round(1.3 * S)}, 0, 0),
        # The server sent at once, and told us late which section carries it.
        ({"track_ns": 3 * S, "packet_ns": round(1.41 * S)}, 10, 10),
        ({"track_ns": 3 * S, "packet_ns": round(1.39 * S)}, 0, 0),
        # An engine that does not see packets tells when it was subscribed.
        ({"packet_ns": None}, 500, 500),
    ],
)
def test_how_long_an_agent_spoke_before_it_could_be_heard(
    changes: dict[str, Any], lead_ms: int, lost_ms: int
) -> None:
    late = voice(**{"speaking_ns": round(1.4 * S), "packet_ns": round(1.95 * S), **changes})
    assert (welcome.lead_ns(late), welcome.lost_ns(late)) == (lead_ms * NS_PER_MS, lost_ms * NS_PER_MS)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, True),
        ({"lag_ns": 300 * NS_PER_MS}, True),
        # Our own lag covers the gap.
        ({"lag_ns": 301 * NS_PER_MS}, False),
        ({"voices": (voice(speaking_ns=round(1.71 * S)),)}, False),
        ({"voices": (voice(speaking_ns=round(1.69 * S)),)}, True),
        # An avatar speaks later than its agent says.
        ({"voices": (Voice("PA_7", "face", S, 2 * S, 2 * S, CUT_OFF.onset),)}, False),
        # Of two the first that was heard counts.
        ({"voices": (voice("PA_2", "agent-2"), CUT_OFF)}, False),
        ({"voices": (voice("PA_2", "agent-2", onset=None), CUT_OFF)}, True),
        # Heard only after the decision.
        ({"decided_ns": round(1.9 * S)}, False),
    ],
)
def test_clipped(changes: dict[str, Any], found: bool) -> None:
    observation = seen(**{**WELCOMED, "voices": (CUT_OFF,), **changes})
    assert (Finding.WELCOME_CLIPPED in welcome.clipped(observation)) is found


def test_a_complete_transcript_is_in_the_cause() -> None:
    observation = seen(**WELCOMED, voices=(CUT_OFF,), texts=(written("Welcome, how can I help?"),))
    assert welcome.clipped(observation)[Finding.WELCOME_CLIPPED] == (
        "it had been speaking for 500 ms before its audio could reach the user, and its transcript was "
        "complete: 'Welcome, how can I help?'"
    )


def eager(clock: VirtualClock, track_s: float = 1.5, *, silence_ms: float = 0.0) -> Sequence[Step]:
    """It says that it speaks at 0.7 s; its track comes when it comes."""
    return (
        *JOINED, (0.5, v.participant(v.agent())), (0.7, SPEAKING), (track_s, v.subscribed()),
        (track_s + 0.01, v.packet()), (track_s + 0.01, v.audible(clock, ms_before=silence_ms)),
    )  # fmt: skip


def test_an_agent_that_spoke_before_it_could_be_heard_was_clipped() -> None:
    played = play(eager)
    assert played.found == (
        Finding.WELCOME_CLIPPED,
        "it had been speaking for 800 ms before its audio could reach the user",
    )
    assert played.record.welcomed
    assert not played.record.lost
    assert played.record.evidence["speech_ms_before_us"] == 800.0
    assert played.engine is not None
    assert played.engine.more_wanted == [True]


def test_our_own_lag_is_not_its_fault() -> None:
    played = play(eager)
    played.lag_ns = 700 * NS_PER_MS
    assert list(played.record.findings) == ["ok", "lag_in_window"]


@pytest.mark.parametrize(
    ("track_s", "silence_ms", "lead_ms"), [(0.89, 0.0, 190.0), (0.6, 0.0, None), (1.5, 20.0, 800.0)]
)
def test_not_clipped(track_s: float, silence_ms: float, lead_ms: float | None) -> None:
    played = play(lambda clock: eager(clock, track_s, silence_ms=silence_ms))
    assert played.found == (Finding.OK, "")
    # How near it was, a report may say.
    assert played.record.evidence.get("speech_ms_before_us") == lead_ms
    assert played.engine is not None
    assert played.engine.more_wanted == [False]


def test_packets_that_came_before_the_answer_are_in_the_evidence_and_no_clip() -> None:
    def busy(clock: VirtualClock) -> Sequence[Step]:
        return (
            *JOINED, (0.5, v.participant(v.agent())), (0.7, SPEAKING), (1.5, v.subscribed()),
            (1.5, v.packet(ago_s=0.75)), (1.5, v.audible(clock)),
        )  # fmt: skip

    played = play(busy)
    assert played.found == (Finding.OK, "")
    facts = played.record.evidence
    assert (facts["speech_ms_before_us"], facts["sent_before_answer_ms"]) == (50.0, 750.0)


# Twice.


def again(text: str = "Hi", at_s: float = 5.0, **changes: str) -> Text:
    """In another segment than the first."""
    return written(text, at_s, at_s, **{"segment": "stream SG_2", **changes})


@pytest.mark.parametrize(
    ("texts", "cause"),
    [
        ((written("Hi"), again()), "agent-1 said 'Hi' again after 3.0 s"),
        ((written("Hi"), again(" Hi\n")), "agent-1 said 'Hi' again after 3.0 s"),
        ((written("Hi", sender=""), again(sender="")), "it said 'Hi' again after 3.0 s"),
        # Not the same words, not final, not the welcome's words, nothing said.
        ((written("Hi"), again("Hi there")), None),
        ((written("Hi"), written("Hi", 5.0, None, segment="stream SG_2")), None),
        ((written("Hi"), again("So"), again("So", 6.0, segment="stream SG_3")), None),
        ((written(" "), again(" ")), None),
        # A stream and the older packet of the same words are one.
        ((written("Hi"), again(segment="packet SG_2")), None),
        # What another one says, and what is only written.
        ((written("Hi"), again(sender="agent-2")), None),
        ((written("Hi", kind="chat"), again(kind="chat")), None),
    ],
)
def test_the_same_words_twice(texts: tuple[Text, ...], cause: str | None) -> None:
    found = welcome.twice(seen(**WELCOMED, texts=texts))
    assert found == ({} if cause is None else {Finding.WELCOME_TWICE: cause})


def test_an_avatar_beside_its_agent_is_not_a_second_voice() -> None:
    assert welcome.twice(seen(**WELCOMED, voices=(voice(), voice("PA_7", "face")))) == {}


def test_heard_before_and_after_it_came_back() -> None:
    def back(clock: VirtualClock) -> Sequence[Step]:
        return (
            *good(clock), (2.0, v.participant(v.gone())), (2.5, v.participant(v.agent("PA_2"))),
            (3.0, v.audible(clock, "PA_2")),
        )  # fmt: skip

    findings = play(back, watch="5").record.findings
    assert findings == {
        "agent_rejoined": "agent-1 entered at 0.50 s (PA_1, gone at 2.02 s: signal_close) and came back at "
        "2.52 s (PA_2)",
        "welcome_twice": "agent-1 (PA_1) and agent-1 (PA_2) were heard",
    }


def test_two_agents_that_both_welcome() -> None:
    def two(clock: VirtualClock) -> Sequence[Step]:
        second = v.agent("PA_2", "agent-2", agent_state="speaking")
        return (*good(clock), (2.0, v.participant(second)), (2.1, v.audible(clock, "PA_2")))

    findings = play(two, watch="5").record.findings
    assert list(findings) == ["duplicate_agent", "welcome_twice"]


def test_one_agent_that_says_its_welcome_again() -> None:
    def again(clock: VirtualClock) -> Sequence[Step]:
        return (
            *good(clock), (1.2, v.text(words="Welcome!", final=True)),
            (3.0, v.text(words="Wel", segment="stream SG_2")),
            (3.2, v.text(words="Welcome!", final=True, segment="stream SG_2")),
        )  # fmt: skip

    played = play(again, watch="5")
    assert played.found == (Finding.WELCOME_TWICE, "agent-1 said 'Welcome!' again after 1.9 s")


# What was read.


def test_what_came_first_and_of_which_kind() -> None:
    def chatty(clock: VirtualClock) -> Sequence[Step]:
        return (
            *good(clock), (0.4, v.data("ui", size_bytes=12)), (0.45, v.data("ui", size_bytes=99)),
            (0.5, v.text(topic=CHAT, words="psst", final=True, segment="stream 1")),
            (0.6, v.text("user-0", words="hello?", segment="stream 2")),
            (0.9, v.text(topic="lk.other", words="éé", segment="stream 3")),
            (1.4, v.text(words="Welcome, friend" + "x" * 300)),
            (1.5, v.text(words="Welcome, friend" + "x" * 300, final=True)),
        )  # fmt: skip

    facts = play(chatty, watch="3").record.evidence
    assert facts["texts"] == [
        {"kind": "chat", "sender": "agent-1", "text": "psst", "ms": 520.0, "final_ms": 520.0},
        {"kind": "transcription", "sender": "user-0", "text": "hello?", "ms": 620.0, "final_ms": None},
        {
            "kind": "transcription", "sender": "agent-1", "text": "Welcome, friend" + "x" * 185,
            "ms": 1120.0, "final_ms": 1520.0,
        },
    ]  # fmt: skip
    assert facts["data"] == [
        {"topic": "ui", "sender": "agent-1", "bytes": 12, "count": 2, "ms": 420.0},
        {"topic": "lk.other", "sender": "agent-1", "bytes": 4, "count": 1, "ms": 920.0},
    ]


def test_what_is_told_late_keeps_its_moment() -> None:
    def late(clock: VirtualClock) -> Sequence[Step]:
        def came_ns() -> int:
            return clock.monotonic_ns() - 80 * NS_PER_MS

        begun = TextPiece(TRANSCRIPTION, "agent-1", "Wel", False, "stream 1")
        ended = TextPiece(TRANSCRIPTION, "agent-1", "Welcome", True, "stream 1")
        return (
            *good(clock)[:-1],
            (1.1, lambda to: to.text(begun, came_ns())),
            (1.2, lambda to: to.text(ended, came_ns())),
            (1.3, lambda to: to.data(DataPiece("ui", "agent-1", 7), came_ns())),
        )  # fmt: skip

    played = play(late, watch="3")
    assert played.marks_ms["first_text"] == 1_040
    facts = played.record.evidence
    assert [(text["ms"], text["final_ms"]) for text in facts["texts"]] == [(1_040, 1_140)]
    assert [data["ms"] for data in facts["data"]] == [1_240]


def test_a_flood_of_texts_and_data_is_bounded() -> None:
    def flood(clock: VirtualClock) -> Sequence[Step]:
        many = range(100)
        return (
            *good(clock), *((1.5, v.text(segment=f"stream {n}", words="x" * 4096)) for n in many),
            *((1.5, v.data(f"topic {n}")) for n in many),
            (1.6, v.text(words="at last", segment="stream 99")),
        )  # fmt: skip

    played = play(flood, expect_text="at last", watch="3")
    # Matched although it is not kept.
    assert played.found == (Finding.OK, "")
    facts = played.record.evidence
    assert (len(facts["texts"]), len(facts["data"])) == (6, 6)
    assert len(played.record.to_json()) < 8_000


@pytest.mark.parametrize(
    ("pieces", "matched_ms"),
    [
        ([(1.0, v.text(words="Welcome!", final=True))], 1020),
        # Grown over pieces, be it interim.
        ([(1.0, v.text(words="Wel")), (1.3, v.text(words="Welcome"))], 1320),
        ([(1.0, v.text(topic=CHAT, words="a welcome", segment="stream 9"))], 1020),
        # In its second text.
        ([(1.0, v.text(words="Hm")), (1.5, v.text(words="Welcome", segment="stream 2"))], 1520),
    ],
)
def test_expected_text_is_met_by_the_first_that_matches(pieces: list[Step], matched_ms: float) -> None:
    played = play(lambda clock: (*JOINED, *CAME, (0.8, v.audible(clock)), *pieces), expect_text="(?i)welcome")
    assert played.found == (Finding.OK, "")
    assert played.marks_ms["first_text"] == 1020
    assert played.marks_ms["text_matched"] == played.marks_ms["welcomed"] == matched_ms


@pytest.mark.parametrize(
    ("steps", "cause"),
    [
        (
            lambda clock: [(0.8, v.audible(clock)), (1.0, v.text(words="Please hold the line", final=True))],
            "it was heard; its text did not match --expect-text: 'Please hold the line'; missing: text",
        ),
        (
            lambda clock: [(0.8, v.audible(clock)), (1.0, v.text("user-0", words="Welcome"))],
            "it was heard; no text of it came; missing: text",
        ),
        (
            lambda _: [(1.0, v.text(words="Wrong"))],
            "its track was there, but it never spoke; its text did not match --expect-text: 'Wrong'; "
            "missing: audio, text",
        ),
        (
            lambda _: [(0.8, v.packet()), (1.0, v.text(words="Welcome"))],
            "its audio arrived, but silent; its text came: 'Welcome'; missing: audio",
        ),
    ],
)
def test_what_is_missing_of_a_welcome_with_an_expected_text(steps: Any, cause: str) -> None:
    played = play(lambda clock: (*JOINED, *CAME, *steps(clock)), expect_text="Welcome")
    assert played.found == (Finding.WELCOME_MISSING, cause)
    assert played.decided_s == 120.0


def test_a_text_without_audio_is_dropped_sound() -> None:
    played = play(script(*CAME, (0.8, v.text(words="Welcome, " + "very " * 20 + "much"))))
    assert played.record.cause == (
        "its track was there, but it never spoke; its text came: "
        "'Welcome, very very very very very very very very very very v…'; missing: audio"
    )


def test_a_text_after_the_decision_changes_nothing() -> None:
    observation = seen(
        sightings=(sighting(),), decided_ns=20 * S, texts=(written("Late", 21.0),),
        marks_ns=marks(agent_track=1, first_text=21),
    )  # fmt: skip
    assert welcome.how_far(observation) == "its track was there, but it never spoke; missing: audio"


def test_the_mark_of_each_item() -> None:
    assert [welcome.mark_of(item, "") for item in ("state", "track", "audio", "text")] == [
        Mark.AGENT_SPEAKING, Mark.AGENT_TRACK, Mark.FIRST_AUDIO, Mark.FIRST_TEXT,
    ]  # fmt: skip
    assert welcome.mark_of("text", "x") is Mark.TEXT_MATCHED


def test_a_token_in_a_text_is_shown_nowhere() -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1c2VyIn0.c2lnbmF0dXJl"
    said = play(script(*CAME, (0.8, v.text(words=f"Take {token}!")), (0.9, v.data(token))))
    assert said.record.evidence["texts"][0]["text"] == "Take (token)!"
    assert "its text came: 'Take (token)!'" in said.record.cause
    assert "eyJ" not in said.record.to_json()
