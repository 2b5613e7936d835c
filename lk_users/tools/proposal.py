"""What one session saw of an agent → the ``--welcome`` that fits it, and why. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lk_users.clock import NS_PER_S
from lk_users.record import Mark
from lk_users.welcome import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lk_users.evidence import Observation, Text
    from lk_users.tools.speech import Utterance

# Words of the pattern: enough to tell this welcome from another, few enough to survive a new ending.
PATTERN_WORDS: Final = 5
PATTERN_CHARS: Final = 60
# A burst slows an agent down: a wait that came near the default is proposed twofold.
DEFAULT_TIMEOUT_S: Final = 10.0
NEAR: Final = 0.5


@dataclass(frozen=True)
class Proposal:
    """``welcome``: items of ``--welcome``, empty where nothing that can be waited for came. ``reasons`` and
    ``warnings``: a sentence each."""

    welcome: tuple[str, ...]
    expect_text: str = ""
    welcome_timeout_s: int = 0
    """0: the default will do."""
    slo: str = ""
    """In place of a welcome."""
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def options(self) -> list[tuple[str, str]]:
        """Option and value, as for a run."""
        found = [("welcome", ",".join(self.welcome))] if self.welcome else []
        if self.expect_text:
            found.append(("expect-text", self.expect_text))
        if self.welcome_timeout_s:
            found.append(("welcome-timeout", str(self.welcome_timeout_s)))
        if self.slo:
            found.append(("slo", self.slo))
        return found


def propose(seen: Observation, speech: Sequence[Utterance], watched_s: float) -> Proposal:
    """``seen``: of a session whose agent came. ``speech``: of the agent's microphone. ``watched_s``: for how
    long it was observed."""
    text = welcome_text(seen.texts)
    if Mark.FIRST_AUDIO in seen.marks_ns:
        return _heard(seen, speech, text)
    if text is not None:
        return _written(seen, text)
    return _silent(seen, watched_s)


def welcome_text(texts: Sequence[Text]) -> Text | None:
    """The first that came to its end, else the first."""
    whole = [text for text in texts if text.final_ns is not None and text.text.strip()]
    begun = [text for text in texts if text.text.strip()]
    return next(iter(whole or begun), None)


def pattern(text: str) -> str:
    """A regular expression of Python's ``re`` that finds the first words of ``text``, and is readable."""
    words = text.split()[:PATTERN_WORDS]
    while len(words) > 1 and len(" ".join(words)) > PATTERN_CHARS:
        words.pop()
    head = " ".join(words)[:PATTERN_CHARS].rstrip(".,;:!?… ")
    # re.escape would do so to every space, too.
    return re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", head)


def _heard(seen: Observation, speech: Sequence[Utterance], text: Text | None) -> Proposal:
    first = f"It was heard {_after_join(seen, Mark.FIRST_AUDIO)}"
    if speech:
        first += f", for {speech[0].length_s:.1f} s, at up to {speech[0].loudest_dbfs:.0f} dBFS"
    reasons, warnings = [f"{first}: audio."], []
    if text is None:
        reasons.append("No text of it came, so none is asked for.")
        marks: tuple[Mark, ...] = (Mark.FIRST_AUDIO,)
    else:
        reasons.append(f"Its words came as {_kind(text)}, {quoted(text.text)}: text, and what it says.")
        warnings.append(
            "One session cannot tell whether it says the same each time: probe again, and leave "
            "--expect-text out if a language model words it."
        )
        marks = (Mark.FIRST_AUDIO, Mark.FIRST_TEXT)
    return Proposal(
        ("audio",) if text is None else ("audio", "text"),
        "" if text is None else pattern(text.text),
        _timeout_s(seen, marks),
        "",
        tuple(reasons),
        (*warnings, *_gone(seen)),
    )


def _written(seen: Observation, text: Text) -> Proposal:
    return Proposal(
        ("text",),
        pattern(text.text),
        _timeout_s(seen, (Mark.FIRST_TEXT,)),
        "",
        (
            f"Nothing of it was heard, but it wrote {_after_join(seen, Mark.FIRST_TEXT)}: "
            f"{quoted(text.text)}, as {_kind(text)}: text.",
        ),
        (
            "If it was to be heard, that is a fault of the agent, and the default --welcome audio finds it.",
            *_gone(seen),
        ),
    )


def _silent(seen: Observation, watched_s: float) -> Proposal:
    """It came and neither spoke nor wrote: what else shows that it is ready?"""
    items: list[tuple[str, Mark, str]] = []
    if Mark.AGENT_SPEAKING in seen.marks_ns:
        items.append(("state", Mark.AGENT_SPEAKING, "It said that it was speaking"))
    if Mark.AGENT_TRACK in seen.marks_ns:
        items.append(("track", Mark.AGENT_TRACK, "Its microphone track reached the user"))
    quiet = f"It was neither heard nor read in {watched_s:.0f} s"
    if seen.packet_ns is not None:
        quiet += ": its audio came, and is silent"
    reasons = [
        f"{quiet}. With the default --welcome audio every user of a burst would be welcome_missing.",
        *(f"{told} {_after_join(seen, mark)}: {item}." for item, mark, told in items),
    ]
    warnings = [
        "Silent by design? Some agents wait until the user has spoken, and users of lk-users are silent. If "
        "it was to speak first, this is its fault: keep --welcome audio, and look at its log."
    ]
    if Mark.AGENT_SPEAKING in seen.marks_ns:
        warnings.append(
            "It said that it was speaking, and nothing could be heard: that looks like a fault, not a design."
        )
    slo = ""
    if not items:
        reasons.append(
            "Nothing else that --welcome could wait for came either (no state speaking, no microphone "
            "track), so what can be asked is when it is in the room: an SLO on agent_joined. Each session "
            "still waits for its welcome to --session-timeout, and is listed as welcome_missing."
        )
        slo = "p95(agent_joined) <= 3 s"
    return Proposal(
        tuple(item for item, _, _ in items),
        "",
        _timeout_s(seen, tuple(mark for _, mark, _ in items)),
        slo,
        tuple(reasons),
        (*warnings, *_gone(seen)),
    )


def _gone(seen: Observation) -> tuple[str, ...]:
    """It may have left within what was observed."""
    if any(sighting.gone_ns is None for sighting in seen.named):
        return ()
    last = seen.named[-1]
    reason = f" ({last.gone_reason})" if last.gone_reason else ""
    return (f"It left the room while its user was still there{reason}.",)


def _timeout_s(seen: Observation, marks: tuple[Mark, ...]) -> int:
    longest_ns = max((seen.marks_ns[mark] - _joined_ns(seen) for mark in marks), default=0)
    if longest_ns <= NEAR * DEFAULT_TIMEOUT_S * NS_PER_S:
        return 0
    return math.ceil(2 * longest_ns / NS_PER_S)


def _joined_ns(seen: Observation) -> int:
    return seen.marks_ns.get(Mark.AGENT_JOINED, seen.marks_ns.get(Mark.AGENT_SEEN, 0))


def _after_join(seen: Observation, mark: Mark) -> str:
    return f"{max(0, seen.marks_ns[mark] - _joined_ns(seen)) / NS_PER_S:.2f} s after it joined"


def _kind(text: Text) -> str:
    return "a chat message" if text.kind == "chat" else "a transcript"
