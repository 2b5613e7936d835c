"""One run folder out of several: each machine keeps the journals of its own workers."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from lk_users.errors import Refused
from lk_users.report.folder import AUDIO_DIR, RunInfo, append_reason, read_reasons, write_atomically
from lk_users.sinks.jsonl import RECORD, SHARE, WORKERS_DIR
from lk_users.sinks.outbox import SPOOL_DIR, SPOOL_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def gather(run_dir: Path, others: Sequence[Path]) -> list[str]:
    """Bring the journals, spools, sounds and reasons for VOID of other folders of the same run into
    ``run_dir``; the workers' names.

    What is there already stays, so it can be done again. Raises Refused where a folder has no journals of
    this run, RecordError where ``run_dir`` is no run, OSError.
    """
    run_id = RunInfo.read(run_dir).run_id
    faults = [fault for other in others if (fault := _fault(other, run_id))]
    if faults:
        raise Refused(faults)
    workers = []
    for other in others:
        for journal in sorted((other / WORKERS_DIR).glob("*.jsonl")):
            _add(journal, run_dir / WORKERS_DIR / journal.name)
            workers.append(journal.stem)
        for spool in sorted((other / SPOOL_DIR).glob(f"*{SPOOL_SUFFIX}")):
            _add(spool, run_dir / SPOOL_DIR / spool.name)
        for sound in sorted((other / AUDIO_DIR).glob("*.wav")):
            (run_dir / AUDIO_DIR).mkdir(exist_ok=True)
            shutil.copyfile(sound, run_dir / AUDIO_DIR / sound.name)
        for reason in read_reasons(other):
            if reason not in read_reasons(run_dir):
                append_reason(run_dir, reason)
    return workers


def _fault(folder: Path, run_id: str) -> str:
    """Why nothing can be taken from ``folder``; empty if it can."""
    journals = sorted((folder / WORKERS_DIR).glob("*.jsonl"))
    if not journals:
        return f"{folder}: no journals; name a run folder of a worker's machine, with {WORKERS_DIR}/*.jsonl"
    for journal in journals:
        for line in _whole_lines(journal):
            found = _run_of(line)
            if found and found != run_id:
                return f"{journal}: a journal of run {found}, not of {run_id}"
    return ""


def _run_of(line: str) -> str:
    """The run that a line is about; empty where it does not say."""
    try:
        data = json.loads(line)
    except ValueError:
        return ""
    about = (data.get(SHARE) or data.get(RECORD)) if isinstance(data, dict) else None
    return str(about.get("run_id", "")) if isinstance(about, dict) else ""


def _add(file: Path, into: Path) -> None:
    """The lines that are not there yet, in their order."""
    known = _whole_lines(into) if into.exists() else []
    there = set(known)
    fresh = [line for line in _whole_lines(file) if line not in there]
    into.parent.mkdir(exist_ok=True)
    write_atomically(into, "".join(f"{line}\n" for line in (*known, *fresh)))


def _whole_lines(path: Path) -> list[str]:
    """Without a last one that a kill cut."""
    return path.read_text(encoding="utf-8", errors="backslashreplace").split("\n")[:-1]
