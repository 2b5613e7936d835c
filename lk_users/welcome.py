"""The rules for the welcome: was it heard and read, and how far did it come where it was not? Pure.

The welcome is all that ``--welcome`` lists, of the agent that was asked for; with ``--expect-text`` its text
is one that matches.

``welcome_clipped``: the beginning of the welcome could not be heard. Nobody hears what was never received, so
it has to follow from what is known, and a healthy session must never look like one. All of this holds for one
and the same agent:

1. It said that it was speaking (``lk.agent.state``) before its audio could reach the user: ``CLIPPED_NS``
   or more before the earlier of two moments, that its track was subscribed, and that its first packet came to
   the user's socket. Both are needed. An agent that says ``speaking`` long before its first sound, to a user
   that was subscribed by then, clips nothing. And a busy server starts to send, tells the agent that it has a
   listener, and only then gets to the answer that tells the user which section carries the track (measured at
   600: up to 1.3 s later): that agent waited as it should. Of 3,600 healthy sessions in bursts of 600 the
   largest such lead was 55 ms, where the first packet alone came up to 699 ms after ``speaking``.
2. Its first frame was loud: a sound that begins within what the user received was not cut off.
3. The generator's own lag while the session ran is taken off the lead.

Neither transcripts nor an avatar's audio prove it: some agents send their text before they speak, and an
avatar speaks later than its agent says. What came of the transcript is in the cause.

``welcome_twice``: two of the named agent were heard (or one before and after it came back), or one sent the
words of its welcome as final transcript again, in another segment of the same kind: an agent may send each
transcript as a stream and as an older packet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lk_users.clock import NS_PER_MS, NS_PER_S
from lk_users.evidence import NEVER_NS
from lk_users.masking import masked
from lk_users.outcome import Finding
from lk_users.record import Mark

if TYPE_CHECKING:
    from lk_users.evidence import Observation, Text, Voice

# About the shortest word there is; more than three times the largest lead of a healthy session.
CLIPPED_NS: Final = 200 * NS_PER_MS
QUOTED: Final = 60
_MARKS: Final = {
    "state": Mark.AGENT_SPEAKING,
    "track": Mark.AGENT_TRACK,
    "audio": Mark.FIRST_AUDIO,
    "text": Mark.FIRST_TEXT,
}


def mark_of(item: str, expect_text: str) -> Mark:
    """The mark that meets an item of ``--welcome``."""
    return Mark.TEXT_MATCHED if item == "text" and expect_text else _MARKS[item]


def late(seen: Observation) -> dict[Finding, str]:
    """Welcomed, but after ``--welcome-timeout``."""
    if Mark.WELCOMED not in seen.marks_ns:
        return {}
    joined_ns = seen.marks_ns.get(Mark.AGENT_JOINED, seen.marks_ns.get(Mark.AGENT_SEEN, 0))
    waited_s = (seen.marks_ns[Mark.WELCOMED] - joined_ns) / NS_PER_S
    if waited_s > seen.welcome_timeout_s:
        return {Finding.WELCOME_LATE: f"{waited_s:.1f} s after the agent joined"}
    return {}


def lead_ns(voice: Voice) -> int:
    """How long an agent had been speaking, by its word, when its audio could first reach the user."""
    if voice.speaking_ns is None or voice.track_ns is None:
        return 0
    reach_ns = voice.track_ns if voice.packet_ns is None else min(voice.track_ns, voice.packet_ns)
    return max(0, reach_ns - voice.speaking_ns)


def lost_ns(voice: Voice) -> int:
    """How much of an agent's beginning is known to be lost: its lead, if its audio was loud from its first
    frame."""
    return 0 if voice.onset is None or voice.onset.ms_before else lead_ns(voice)


def clipped(seen: Observation) -> dict[Finding, str]:
    """The first agent that was heard, and not from its beginning."""
    voice = next((item for item in seen.voices if item.onset is not None), None)
    if voice is None or voice.sid not in {sighting.sid for sighting in seen.named}:
        return {}
    clipped_ns = lost_ns(voice) - seen.lag_ns
    if clipped_ns < CLIPPED_NS or seen.marks_ns.get(Mark.FIRST_AUDIO, NEVER_NS) > seen.decided_ns:
        return {}
    text = next((item for item in seen.texts if item.final_ns is not None), None)
    words = "" if text is None else f", and its transcript was complete: {quoted(text.text)}"
    return {
        Finding.WELCOME_CLIPPED: f"it had been speaking for {clipped_ns / NS_PER_MS:.0f} ms before its audio "
        f"could reach the user{words}"
    }


def twice(seen: Observation) -> dict[Finding, str]:
    """Heard from two of the agent, or the same words again."""
    named = {sighting.sid for sighting in seen.named}
    heard = [voice for voice in seen.voices if voice.onset is not None and voice.sid in named]
    if len(heard) > 1:
        both = " and ".join(f"{voice.identity} ({voice.sid})" for voice in heard)
        return {Finding.WELCOME_TWICE: f"{both} were heard"}
    first: dict[tuple[str, str], Text] = {}
    for text in seen.texts:
        if text.kind != "transcription" or text.final_ns is None or not text.text.strip():
            continue
        welcome = first.setdefault((text.sender, text.way), text)
        if welcome is not text and _words(welcome.text) == _words(text.text):
            after_s = (text.at_ns - welcome.at_ns) / NS_PER_S
            return {
                Finding.WELCOME_TWICE: f"{text.sender or 'it'} said {quoted(text.text)} again after "
                f"{after_s:.1f} s"
            }
    return {}


def how_far(seen: Observation) -> str:
    """How far an agent came that was there and whose welcome is not complete."""
    marks = [mark for mark, at_ns in seen.marks_ns.items() if at_ns <= seen.decided_ns]
    missing = sorted(item for item in seen.welcome if mark_of(item, seen.expect_text) not in marks)
    if Mark.FIRST_AUDIO in marks:
        far = "it was heard"
    elif seen.packet_ns is not None and seen.packet_ns <= seen.decided_ns:
        far = "its audio arrived, but silent"
    elif Mark.AGENT_SPEAKING in marks:
        far = "it said that it was speaking, but no audio packet arrived"
    elif Mark.AGENT_TRACK in marks:
        far = "its track was there, but it never spoke"
    elif Mark.AGENT_READY in marks:
        far = "it was ready, but published no track"
    elif Mark.AGENT_ACTIVE in marks:
        far = "it was connected, but never ready"
    else:
        far = "it never became active"
    return f"{far}{_read(seen, marks, missing)}; missing: {', '.join(missing)}{_short_of_time(seen)}"


def _read(seen: Observation, marks: list[str], missing: list[str]) -> str:
    """What came of its text."""
    if Mark.FIRST_TEXT not in marks:
        return "; no text of it came" if Mark.FIRST_AUDIO in marks and "text" in missing else ""
    texts = [text.text for text in seen.texts if text.at_ns <= seen.decided_ns]
    if "text" in missing and texts:
        return f"; its text did not match --expect-text: {quoted(texts[-1])}"
    return f"; its text came: {quoted(texts[0])}" if texts else ""


def _short_of_time(seen: Observation) -> str:
    """An agent that came near the end of the session had no fair chance, and the cause says so."""
    came_ns = [sighting.seen_ns for sighting in seen.named if sighting.seen_ns <= seen.decided_ns]
    left_s = (seen.decided_ns - came_ns[-1]) / NS_PER_S if came_ns else 0.0
    if not came_ns or left_s >= seen.welcome_timeout_s:
        return ""
    return f"; it came {left_s:.1f} s before the session's time was up"


def quoted(text: str) -> str:
    """On one line, and short."""
    words = _words(masked(text))
    return f"'{words}'" if len(words) <= QUOTED else f"'{words[:QUOTED].rstrip()}…'"


def _words(text: str) -> str:
    return " ".join(text.split())
