"""Names of the protocol's numbers, in lower case as records have them. A number that a newer server says and
our protocol does not know is named by itself."""

from __future__ import annotations

from typing import Final

from livekit.protocol import agent, models

_STATES: Final = {number: name.lower() for name, number in models.ParticipantInfo.State.items()}
_REASONS: Final = {number: name.lower() for name, number in models.DisconnectReason.items()}
_QUALITIES: Final = {number: name.lower() for name, number in models.ConnectionQuality.items()}
_JOBS: Final = {number: name.removeprefix("JS_").lower() for name, number in agent.JobStatus.items()}


def participant_state(number: int) -> str:
    """``joining``, ``joined``, ``active`` or ``disconnected``."""
    return _STATES.get(number, f"state {number}")


def disconnect_reason(number: int) -> str:
    """Why a participant left, as in ``client_initiated``."""
    return _REASONS.get(number, f"reason {number}")


def connection_quality(number: int) -> str:
    """``lost``, ``poor``, ``good`` or ``excellent``."""
    return _QUALITIES.get(number, f"quality {number}")


def job_status(number: int) -> str:
    """``pending``, ``running``, ``success`` or ``failed``."""
    return _JOBS.get(number, f"status {number}")
