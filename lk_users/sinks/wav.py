"""What failed sessions received, as sound in the run folder: ``audio/<session id>.wav``, 16 bits, mono.

Written by the worker that ran the session, after its burst is decided, and before the record that names the
file: a file that a record names is there and whole. With workers on several machines each keeps its own.
"""

from __future__ import annotations

import os
import wave
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from lk_users.outcome import Fault, fault_of
from lk_users.wire.recording import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from pathlib import Path

    from lk_users.record import Record
    from lk_users.wire.recording import Recording

AUDIO_DIR: Final = "audio"
EVIDENCE: Final = "audio"
# Hundreds of the same silence tell no more than the first few.
FILES_A_BURST: Final = 20
_SAMPLE_BYTES: Final = 2


class FailedSounds:
    """Keeps the sound of the first failed sessions of one burst in one process."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / AUDIO_DIR
        self._left = FILES_A_BURST

    def keep(self, record: Record, recording: Recording | None) -> Record:
        """The record, naming its file where there is one now."""
        failed = fault_of(record.outcome) in (Fault.THEIRS, Fault.OPEN)
        if not failed or recording is None or recording.is_empty or not self._left:
            return record
        self._left -= 1
        path = self._folder / f"{record.session_id}.wav"
        try:
            self._folder.mkdir(exist_ok=True)
            write_wav(path, recording)
        except OSError as exc:
            # The record matters more than its sound.
            return _with(record, "audio_unwritten", exc.strerror or str(exc))
        return _with(record, EVIDENCE, f"{AUDIO_DIR}/{path.name}")


def write_wav(path: Path, recording: Recording) -> None:
    """The file is whole or not there. Raises OSError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as raw, wave.open(raw, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(_SAMPLE_BYTES)
            file.setframerate(SAMPLE_RATE_HZ)
            file.writeframes(recording.samples().astype("<i2").tobytes())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _with(record: Record, name: str, value: str) -> Record:
    return replace(record, evidence={**record.evidence, name: value})
