"""What a probe concludes from what one session saw, in words. Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from builders import settings

from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.evidence import Observation, Sighting, Text
from lk_users.outcome import Finding
from lk_users.record import Mark
from lk_users.slo import parse
from lk_users.steps import Transaction
from lk_users.tools.hints import hints
from lk_users.tools.probe import Probed
from lk_users.tools.probe_words import command, told
from lk_users.tools.probing import OPTIONS, given
from lk_users.tools.proposal import Proposal, pattern, propose, welcome_text
from lk_users.tools.speech import PAUSE_NS, Speech, Utterance
from lk_users.tools.timeline import LINES_SHOWN, Timeline, excerpt, points

if TYPE_CHECKING:
    from collections.abc import Mapping

AGENT = Sighting(
    sid="PA_1", identity="agent-AJ_1", named=True, seen_ns=300 * NS_PER_MS, joined_at_ms=0
)  # fmt: skip
CAME: Mapping[str, float] = {Mark.AGENT_JOINED: 200, Mark.AGENT_SEEN: 300}
SPOKEN = (Utterance(0, 2 * NS_PER_S, -15.2),)
TEXT = Text("transcription", "agent-AJ_1", "stream SG_1", "Welcome, how can I help?", 600 * NS_PER_MS, 1)


def observation(marks_ms: Mapping[str, float], **changes: Any) -> Observation:
    seen = Observation(
        transaction=Transaction(),
        marks_ns={mark: round(ms * NS_PER_MS) for mark, ms in marks_ms.items()},
        agent_name="front-desk",
        session_timeout_s=30,
        welcome=frozenset({"audio"}),
        welcome_timeout_s=10,
        sightings=(AGENT,),
    )
    return replace(seen, **changes)


def test_one_that_is_heard_and_read() -> None:
    seen = observation({**CAME, Mark.FIRST_AUDIO: 280, Mark.FIRST_TEXT: 600}, texts=(TEXT,))
    found = propose(seen, SPOKEN, 6)
    assert found.options() == [("welcome", "audio,text"), ("expect-text", "Welcome, how can I help")]
    assert found.reasons == (
        "It was heard 0.08 s after it joined, for 2.0 s, at up to -15 dBFS: audio.",
        "Its words came as a transcript, 'Welcome, how can I help?': text, and what it says.",
    )
    assert len(found.warnings) == 1


def test_one_that_is_heard_only() -> None:
    found = propose(observation({**CAME, Mark.FIRST_AUDIO: 265}), SPOKEN, 6)
    assert found.options() == [("welcome", "audio")]
    assert found.warnings == ()


def test_one_that_writes_only() -> None:
    chat = replace(TEXT, kind="chat", text="Hello. (beta)")
    found = propose(observation({**CAME, Mark.FIRST_TEXT: 600}, texts=(chat,)), (), 20)
    assert found.options() == [("welcome", "text"), ("expect-text", r"Hello\. \(beta\)")]
    assert "as a chat message: text." in found.reasons[0]


@pytest.mark.parametrize(
    ("marks", "packet_ns", "options", "said"),
    [
        ({Mark.AGENT_SPEAKING: 250, Mark.AGENT_TRACK: 260}, 1, [("welcome", "state,track")], "and is silent"),
        ({Mark.AGENT_TRACK: 260, Mark.AGENT_READY: 240}, None, [("welcome", "track")], "in 20 s."),
        ({Mark.AGENT_SPEAKING: 250}, None, [("welcome", "state")], "in 20 s."),
        ({Mark.AGENT_READY: 250}, None, [("slo", "p95(agent_joined) <= 3 s")], "in 20 s."),
    ],
    ids=["says that it speaks", "a track", "a state", "nothing"],
)
def test_one_that_is_silent(
    marks: Mapping[str, float], packet_ns: int | None, options: list[tuple[str, str]], said: str
) -> None:
    found = propose(observation({**CAME, **marks}, packet_ns=packet_ns), (), 20)
    assert found.options() == options
    assert said in found.reasons[0]
    assert found.warnings[0].startswith("Silent by design?")
    assert ("looks like a fault" in " ".join(found.warnings)) == (Mark.AGENT_SPEAKING in marks)


def test_the_slo_that_is_proposed_is_one() -> None:
    ((_, text),) = propose(observation(CAME), (), 20).options()
    (slo,) = parse(text)
    assert slo.text == text


@pytest.mark.parametrize(("ms", "timeout"), [(5200, 0), (5300, 11), (12_000, 24)])
def test_one_that_takes_its_time(ms: float, timeout: int) -> None:
    """Half of the default, counted from its join at 200 ms."""
    found = propose(observation({**CAME, Mark.FIRST_AUDIO: ms}), SPOKEN, 20)
    assert found.welcome_timeout_s == timeout
    assert (("welcome-timeout", str(timeout)) in found.options()) == bool(timeout)


def test_one_that_left() -> None:
    gone = replace(AGENT, gone_ns=NS_PER_S, gone_reason="client_initiated")
    found = propose(observation({**CAME, Mark.FIRST_AUDIO: 265}, sightings=(gone,)), SPOKEN, 6)
    assert found.warnings == ("It left the room while its user was still there (client_initiated).",)


@pytest.mark.parametrize(
    "text",
    [
        "Welcome, how can I help?",
        "a.b*c (d) [e] {f} g|h ^i$ j+k?",
        "Olá! Tudo bem?",
        "x" * 300,
        "!",
        "C:\\temp",
    ],
)
def test_a_pattern_finds_its_own_text(text: str) -> None:
    assert re.search(pattern(text), text) is not None


def test_the_welcome_is_the_first_text_that_was_finished() -> None:
    begun, empty = replace(TEXT, text="Wel", final_ns=None), replace(TEXT, text=" ")
    assert welcome_text((empty, begun, TEXT)) is TEXT
    assert welcome_text((empty, begun)) is begun
    assert welcome_text((empty,)) is None


def spoken(*frames: tuple[float, float]) -> Speech:
    """Frames of 20 ms: at so many ms, so loud."""
    speech = Speech()
    for at_ms, level in frames:
        speech.add(level, 0.02, round(at_ms * NS_PER_MS))
    return speech


def test_speech_has_an_end_after_a_pause() -> None:
    loud = [(ms, -20.0 - ms / 1000) for ms in range(100, 1100, 20)]
    speech = spoken((0, -90.0), *loud, (1100, -80.0))
    end_ns = 1100 * NS_PER_MS
    assert speech.over(end_ns + PAUSE_NS - 1) == ()
    assert speech.all(end_ns)[0].ended_ns == end_ns
    (said,) = speech.over(end_ns + PAUSE_NS)
    assert (said.length_s, said.loudest_dbfs) == (1.0, -20.1)


def test_speech_over_a_short_pause_is_one_and_a_click_is_none() -> None:
    one = spoken(*[(ms, -20.0) for ms in (0, 20, 40, 900, 920)]).over(5 * NS_PER_S)
    assert [round(item.length_s, 3) for item in one] == [0.94]
    two = spoken(*[(ms, -20.0) for ms in (0, 20, 40, 1100, 1120)]).over(5 * NS_PER_S)
    assert [round(item.length_s, 3) for item in two] == [0.06, 0.04]
    assert spoken((0, -20.0)).over(5 * NS_PER_S) == ()


def test_a_timeline_is_by_time_and_bounded() -> None:
    timeline = Timeline()
    timeline.add(3 * NS_PER_S, "late")
    timeline.add(NS_PER_S, "first")
    timeline.add(NS_PER_S, "second")
    assert timeline.lines(NS_PER_S) == ["   0.000 s  first", "   0.000 s  second", "   2.000 s  late"]
    assert timeline.last_ns == 3 * NS_PER_S
    for _ in range(LINES_SHOWN):
        timeline.add(4 * NS_PER_S, "again")
    assert len(timeline.lines(0)) == LINES_SHOWN + 1
    assert timeline.lines(0)[-1].strip() == "…  and 3 more"


def test_foreign_text_stays_on_its_line_and_tokens_out() -> None:
    assert excerpt("one\ntwo   three") == "'one two three'"
    assert excerpt("eyJhbGciOiJIUzI1NiJ9.e30.abc") == "'(token)'"
    assert len(excerpt("x" * 500)) < 80
    assert points(["a " * 100])[1].startswith("    a")


def test_the_options_that_were_given() -> None:
    plain = dict.fromkeys(OPTIONS, "") | {"mic": "silence", "ice": "auto"}
    assert given(plain) == []
    asked = {**plain, "agent-name": "a b", "dispatch": "token", "metadata": '{"a": "it\'s"}', "mic": "none"}
    line = command(Proposal(("audio",), "how can"), given(asked))
    assert line == (
        "locust -f locustfiles/burst.py --headless -u 50 -r 50 --agent-name 'a b' --dispatch token "
        "--mic none --metadata '{\"a\": \"it'\"'\"'s\"}' --welcome audio --expect-text 'how can'"
    )


def test_what_is_said_where_no_agent_came() -> None:
    other = replace(
        AGENT, named=False, attributes={"lk.agent.name": "backdesk"}
    )  # fmt: skip
    probed = Probed(
        seen=observation({}, sightings=(other,)),
        findings={
            Finding.NEVER_ASSIGNED: "the API lists no job for it",
            Finding.BYSTANDER_AGENT: "x",
        },
        timeline=("   0.000 s  begin",),
        speech=(),
        watched_s=5,
        room="lk-probe-1",
    )
    text = told(probed, settings(1), 5, [])
    assert text[0] == 'Agent "front-desk", one session in room lk-probe-1, dispatch by api, dispatch-first:'
    said = " ".join(text)
    assert (
        "No agent came within 5 s: no agent worker got the job (never_assigned: the API lists no job for it)."
        in said
    )
    assert "An agent of another name was there: backdesk." in said
    assert "a longer --wait (now 5 s)" in said
    assert not any("Proposal" in line for line in text)


def test_every_failure_has_something_to_check() -> None:
    chosen = settings(1)
    assert all(len(hints([finding], chosen, 30)) >= 1 for finding in Finding)
    for finding in (
        Finding.NEVER_ASSIGNED,
        Finding.REJECTED,
        Finding.ASSIGNED_NOT_JOINED,
        Finding.MEDIA_FAILED,
    ):
        assert len(hints([finding], chosen, 30)) >= 2
    unnamed = hints([Finding.NEVER_ASSIGNED], replace(chosen, agent_name="", dispatch="none"), 30)
    assert unnamed[0].startswith("without --agent-name the unnamed agent is asked for")
    assert "under no name" in unnamed[1]
