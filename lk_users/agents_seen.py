"""The agents that one user saw in its room, and what came of their voices. No rules, no deadlines."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lk_users.clock import NS_PER_MS
from lk_users.evidence import AGENT_STATE_ATTRIBUTE, Sighting, Voice
from lk_users.welcome import lead_ns

if TYPE_CHECKING:
    from lk_users.evidence import ParticipantView


# What the server says to a participant whose identity joined once more, and to nobody else. One that left a
# moment before looks the same from here: the server tells the others of the new one alone.
REPLACED = "duplicate_identity (inferred)"


class AgentsSeen:
    """Sightings by participant sid, in the order in which they came; moments in ns from the intended start.

    ``agent_name``: of the agent that was asked for.
    """

    def __init__(self, agent_name: str) -> None:
        self._agent_name = agent_name
        self._sightings: dict[str, Sighting] = {}
        self._voices: dict[str, Voice] = {}

    @property
    def all(self) -> tuple[Sighting, ...]:
        """Bystanders too."""
        return tuple(self._sightings.values())

    @property
    def named(self) -> tuple[Sighting, ...]:
        """The agent that was asked for, each time that it came."""
        return tuple(sighting for sighting in self._sightings.values() if sighting.named)

    @property
    def is_there(self) -> bool:
        """Is one of the agent in the room now?"""
        return any(sighting.gone_ns is None for sighting in self.named)

    @property
    def voices(self) -> tuple[Voice, ...]:
        return tuple(self._voices.values())

    @property
    def senders(self) -> set[str]:
        """Whose text is the agent's: its own, and nobody's, once it is there."""
        names = {sighting.identity for sighting in self.named}
        return {*names, ""} if names else names

    def known(self, sid: str) -> Sighting | None:
        return self._sightings.get(sid)

    def speaks_the_welcome(self, sid: str) -> bool:
        """Is it a participant whose sound is the welcome's: the agent, or one on its behalf?"""
        sighting = self._sightings.get(sid)
        return (sighting is None or sighting.named) and bool(self.named)

    def came(self, view: ParticipantView, at_ns: int) -> Sighting:
        """One that was not seen before."""
        sighting = Sighting(
            sid=view.sid,
            identity=view.identity,
            named=view.is_named(self._agent_name),
            seen_ns=at_ns,
            joined_at_ms=view.joined_at_ms,
            region=view.region,
            hosted=view.hosted,
            attributes=view.attributes,
        )
        for other in list(self._sightings.values()):
            if other.identity == sighting.identity and other.gone_ns is None:
                # A room has an identity once: the server sends the older one away and tells nobody of it.
                self._sightings[other.sid] = replace(
                    other, gone_ns=at_ns, gone_reason=REPLACED, replaced_by=sighting.sid
                )
        self._sightings[view.sid] = sighting
        return sighting

    def went(self, sighting: Sighting, reason: str, at_ns: int) -> None:
        """One that was there is not any more; of one that was replaced, the server's own reason came late."""
        if sighting.gone_ns is None:
            self._sightings[sighting.sid] = replace(sighting, gone_ns=at_ns, gone_reason=reason)
        elif sighting.replaced_by and reason:
            self._sightings[sighting.sid] = replace(sighting, gone_reason=reason)

    def hear_of(self, sid: str, **news: Any) -> Voice:
        """What is new of a participant's voice; of each moment the first stands."""
        known = self._voices.get(sid)
        if known is None:
            sighting = self._sightings.get(sid)
            known = Voice(sid, sighting.identity if sighting is not None else "")
        fresh = {name: value for name, value in news.items() if getattr(known, name) is None}
        voice = self._voices[sid] = replace(known, **fresh)
        return voice

    def facts(self) -> dict[str, Any]:
        """For the record: how the first sound came, and who the agent is."""
        return {**self._voice_facts(), **self._agent_facts()}

    def _voice_facts(self) -> dict[str, Any]:
        voice = next((item for item in self._voices.values() if item.onset is not None), None)
        if voice is None or voice.onset is None:
            return {}
        onset = voice.onset
        facts: dict[str, Any] = {
            "audible_dbfs": round(onset.level_dbfs, 1),
            "threshold_dbfs": onset.threshold_dbfs,
            "frames_before": onset.frames_before,
            "ms_before": round(onset.ms_before, 1),
        }
        if voice.packet_ns is not None:
            facts["packet_ms"] = round(voice.packet_ns / NS_PER_MS, 1)
        if lead_ns(voice):
            facts["speech_ms_before_us"] = round(lead_ns(voice) / NS_PER_MS, 1)
        if voice.packet_ns is not None and voice.track_ns is not None and voice.track_ns > voice.packet_ns:
            # The server sent audio before its answer told us on which section.
            facts["sent_before_answer_ms"] = round((voice.track_ns - voice.packet_ns) / NS_PER_MS, 1)
        return facts

    def _agent_facts(self) -> dict[str, Any]:
        """Where the agent runs, and what it tells of itself; its state changes and is in the marks."""
        agent = next(iter(self.named), None)
        if agent is None:
            return {}
        told = {
            name: value
            for name, value in sorted(agent.attributes.items())
            if name.startswith("lk.") and name != AGENT_STATE_ATTRIBUTE
        }
        facts = {"region": agent.region, "hosted_by_livekit": agent.hosted, "attributes": told}
        kept = {name: value for name, value in facts.items() if value}
        return {"agent": kept} if kept else {}
