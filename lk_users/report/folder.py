"""The run folder: read back, merged, and written.

::

    run.json          what was asked for, written before the first user
    bursts.jsonl      each round: what it is and who takes part, and again with its T0 when announced
    void.jsonl        what the master alone knows of why the run is void
    agent_workers.jsonl   what the agent's workers said of their load (--agent-worker-url)
    workers/*.jsonl   each worker's journal (lk_users.sinks.jsonl)
    sinks.jsonl       what became of the points of the process that leads the run (--influx-url)
    spool/*.lp        points that are not in the database yet (lk_users.sinks.outbox), on the worker's machine
    audio/*.wav       what failed sessions received (lk_users.sinks.wav), on the worker's machine
    records.jsonl     merged: one line for every intended session
    summary.json, summary.md, junit.xml, report.html
    support.md        what to paste into a ticket, and support.zip to attach: where something failed
    audio/*.wav       what failed sessions heard

A folder whose run was killed reads like any other: what a worker did not record is recorded as lost.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lk_users.agent_worker import AgentWorkerSample
from lk_users.course import FREE, Round
from lk_users.errors import RecordError, Refused
from lk_users.health import Trailer
from lk_users.outcome import Finding
from lk_users.plan import Share, planned, unrecorded
from lk_users.record import Record, build
from lk_users.settings.options import TEMPLATE_OPTIONS
from lk_users.settings.run import Settings
from lk_users.sinks.jsonl import DECIDED, RECORD, SHARE, TRAILER, WORKERS_DIR
from lk_users.sinks.outbox import SINK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lk_users.plan import PlannedSession

_T = TypeVar("_T")

SCHEMA: Final = 1
RUN_FILE: Final = "run.json"
BURSTS_FILE: Final = "bursts.jsonl"
REASONS_FILE: Final = "void.jsonl"
SAMPLES_FILE: Final = "agent_workers.jsonl"
SINKS_FILE: Final = "sinks.jsonl"
RECORDS_FILE: Final = "records.jsonl"
SUMMARY_FILE: Final = "summary.json"
MARKDOWN_FILE: Final = "summary.md"
JUNIT_FILE: Final = "junit.xml"
PAGE_FILE: Final = "report.html"
SUPPORT_FILE: Final = "support.md"
BUNDLE_FILE: Final = "support.zip"
AUDIO_DIR: Final = "audio"


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a run was asked to do. ``settings``: the options as given; ``started``: ISO 8601, UTC."""

    run_id: str
    started: str
    settings: Mapping[str, str]
    users: int
    cloud: bool = False
    target: Mapping[str, str] = field(default_factory=dict)
    """``url`` and ``key`` as they may be shown."""
    versions: Mapping[str, str] = field(default_factory=dict)
    process: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def write(self, run_dir: Path) -> None:
        """Raises OSError."""
        write_atomically(run_dir / RUN_FILE, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, run_dir: Path) -> RunInfo:
        """Raises Refused where there is no run, RecordError where it cannot be read."""
        try:
            text = (run_dir / RUN_FILE).read_text(encoding="utf-8")
        except OSError as exc:
            raise Refused([f"{run_dir}: no run folder, {RUN_FILE} cannot be read ({exc.strerror})"]) from exc
        return _built(cls, _object(text, RUN_FILE), RUN_FILE)

    def run_settings(self) -> Settings:
        """The settings of the run, without the templates. Raises Refused."""
        options = {
            name.replace("-", "_"): "" if name in TEMPLATE_OPTIONS else value
            for name, value in self.settings.items()
        }
        return Settings.from_options(options, self.users, cloud=self.cloud)


@dataclass(frozen=True, kw_only=True)
class WorkerShare:
    """A worker's part of a round: ordinals ``first`` to ``first + count - 1``."""

    worker: str
    region: str
    first: int
    count: int


@dataclass(frozen=True, kw_only=True)
class BurstInfo:
    """One round as it was announced. ``t0_wall_ns``: Unix time, for display; 0: not known."""

    burst: int
    """Its number."""
    round: Round
    t0_wall_ns: int
    intended: int
    workers: tuple[WorkerShare, ...] = ()

    def append(self, run_dir: Path) -> None:
        """One line at the end of the folder's list, by one write, so that it survives SIGKILL."""
        _append(run_dir / BURSTS_FILE, asdict(self))


@dataclass(frozen=True)
class Merged:
    """All that a run folder holds, with exactly one record for each intended session."""

    records: tuple[Record, ...]
    trailers: tuple[Trailer, ...]
    missing: tuple[str, ...]
    """Ids of the sessions without a record of their own; ``records`` has them as generator_lost."""
    intended: int
    workers: tuple[tuple[str, str], ...]
    """(worker, region) of all that had a share."""
    bursts: tuple[BurstInfo, ...]
    conflicts: tuple[str, ...]
    """Ids of sessions that two workers recorded: somebody ran them twice."""


@dataclass
class _Found:
    """What the journals say, as it is read. Of finals and provisionals of one session the first stands."""

    final: dict[str, Record] = field(default_factory=dict)
    decided: dict[str, Record] = field(default_factory=dict)
    trailers: dict[tuple[str, int], Trailer] = field(default_factory=dict)
    owners: dict[tuple[int, int], tuple[str, str]] = field(default_factory=dict)
    """(burst, ordinal) → (worker, region)."""
    conflicts: set[str] = field(default_factory=set)

    def own(self, burst: int, first: int, count: int, owner: tuple[str, str]) -> None:
        for ordinal in range(first, first + count):
            self.owners.setdefault((burst, ordinal), owner)

    def add(self, record: Record, *, final: bool) -> None:
        known = self.final if final else self.decided
        first = known.setdefault(record.session_id, record)
        if first.worker != record.worker:
            self.conflicts.add(record.session_id)


def append_reason(run_dir: Path, reason: str) -> None:
    """Keep a reason for which the run is void, in words. Raises OSError."""
    _append(run_dir / REASONS_FILE, {"reason": reason})


def read_reasons(run_dir: Path) -> list[str]:
    """What ``append_reason`` kept. Raises RecordError."""
    path = run_dir / REASONS_FILE
    return [str(data.get("reason", "")) for _, data in _lines(path)] if path.exists() else []


def append_sample(run_dir: Path, sample: AgentWorkerSample) -> None:
    """Keep what an agent's worker said. Raises OSError."""
    _append(run_dir / SAMPLES_FILE, asdict(sample))


def read_samples(run_dir: Path) -> list[AgentWorkerSample]:
    """What ``append_sample`` kept. Raises RecordError."""
    path = run_dir / SAMPLES_FILE
    return [_built(AgentWorkerSample, data, where) for where, data in _lines(path)] if path.exists() else []


def append_account(run_dir: Path, process: str, account: Mapping[str, Any]) -> None:
    """Keep what became of a process's points, where no trailer says so. Raises OSError."""
    _append(run_dir / SINKS_FILE, {"process": process, SINK: account})


def read_accounts(run_dir: Path) -> list[dict[str, Any]]:
    """What ``append_account`` kept, the last of each process. Raises RecordError."""
    path = run_dir / SINKS_FILE
    return list({data["process"]: data[SINK] for _, data in _lines(path)}.values()) if path.exists() else []


def read_bursts(run_dir: Path) -> list[BurstInfo]:
    """The rounds that were shared out, by number: as announced, else without a T0. Raises RecordError."""
    path = run_dir / BURSTS_FILE
    bursts = {}
    for where, data in _lines(path) if path.exists() else ():
        shares = [_built(WorkerShare, share, where) for share in data.pop("workers", ())]
        of = _round(data.get("round"), where)
        burst = _built(BurstInfo, {**data, "round": of, "workers": tuple(shares)}, where)
        bursts[burst.burst] = burst
    return [bursts[number] for number in sorted(bursts)]


def merge(run_dir: Path, info: RunInfo, settings: Settings) -> Merged:
    """One record for each intended session, in order of burst and ordinal. Raises RecordError.

    Final records win over provisional ones. A session of a share that nobody recorded becomes a record
    that says so.
    """
    found = _Found()
    bursts = read_bursts(run_dir)
    for burst in bursts:
        for share in burst.workers:
            found.own(burst.burst, share.first, share.count, (share.worker, share.region))
    for path in sorted((run_dir / WORKERS_DIR).glob("*.jsonl")):
        for where, data in _lines(path):
            _take(found, data, where, path.stem)
    records = {**found.decided, **found.final}
    rounds = {burst.burst: burst.round for burst in bursts}
    zeros = _zeros_ns(bursts, records.values())
    missing = []
    for (number, ordinal), (worker, region) in sorted(found.owners.items()):
        item = planned(info.run_id, number, ordinal, settings, region, rounds.get(number, FREE))
        lost = _lost(item, info, settings, worker, region, zeros.get(number, 0))
        if lost.session_id not in records:
            records[lost.session_id] = lost
            missing.append(lost.session_id)
    return Merged(
        records=tuple(sorted(records.values(), key=Record.sort_key)),
        trailers=tuple(found.trailers[key] for key in sorted(found.trailers)),
        missing=tuple(missing),
        intended=_intended(bursts, found.owners),
        workers=tuple(sorted(set(found.owners.values()))),
        bursts=tuple(bursts),
        conflicts=tuple(sorted(found.conflicts)),
    )


def write_atomically(path: Path, content: str | bytes) -> None:
    """The file is whole or as it was before. Raises OSError."""
    if isinstance(content, str):
        content = encoded(content)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def encoded(text: str) -> bytes:
    """UTF-8; a lone surrogate out of a foreign error text is kept as its JSON escape."""
    return text.encode("utf-8", "backslashreplace")


def _append(path: Path, data: Mapping[str, Any]) -> None:
    """One line by one write, so that it survives SIGKILL. Raises OSError."""
    line = json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, encoded(line))
    finally:
        os.close(fd)


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) for each line. A last line that was cut by a kill is left out."""
    *lines, rest = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        where = f"{path.name} line {number}"
        yield where, _object(line.decode("utf-8", "replace"), where)
    with contextlib.suppress(RecordError):
        yield "", _object(rest.decode("utf-8", "replace"), "")


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as exc:
        raise RecordError(f"{where}: not JSON: {text[:60]!r}") from exc
    if not isinstance(data, dict):
        raise RecordError(f"{where}: not an object: {text[:60]!r}")
    return data


def _built(kind: type[_T], data: object, where: str) -> _T:
    """A value of ``kind`` from the fields in ``data``. Raises RecordError, also on another schema."""
    if not isinstance(data, dict) or data.get("schema", SCHEMA) != SCHEMA:
        raise RecordError(f"{where}: not of schema {SCHEMA}: {str(data)[:60]!r}")
    try:
        return build(kind, data)
    except RecordError as exc:
        raise RecordError(f"{where}: {exc}") from exc


def _round(data: object, where: str) -> Round:
    try:
        return Round.from_dict(data)
    except RecordError as exc:
        raise RecordError(f"{where}: {exc}") from exc


def _take(found: _Found, data: dict[str, Any], where: str, stem: str) -> None:
    """One line of a journal."""
    kind = data.get("kind")
    try:
        if kind == SHARE:
            share = Share.from_dict(data.get("share"))
            owner = (data.get("worker", stem), data.get("region", ""))
            found.own(share.burst, share.first, share.count, owner)
        elif kind in (DECIDED, RECORD):
            found.add(Record.from_dict(data.get("record")), final=kind == RECORD)
        elif kind == TRAILER:
            trailer = Trailer.from_dict(data.get("trailer"))
            found.trailers[trailer.worker, trailer.burst] = trailer
        else:
            raise RecordError(f"unknown kind {kind!r}")
    except RecordError as exc:
        text = str(exc)
        raise RecordError(text if text.startswith(where) else f"{where}: {text}") from exc


def _zeros_ns(bursts: Sequence[BurstInfo], records: Iterable[Record]) -> dict[int, int]:
    """T0 of each round as Unix time: as announced, else as its first record has it."""
    zeros: dict[int, int] = {}
    rounds = {burst.burst: burst.round for burst in bursts}
    for record in records:
        zero_ns = record.intended_wall_ns - rounds.get(record.burst, FREE).offset_ns(record.ordinal)
        zeros[record.burst] = min(zeros.get(record.burst, zero_ns), zero_ns)
    return {**zeros, **{burst.burst: burst.t0_wall_ns for burst in bursts if burst.t0_wall_ns}}


def _intended(bursts: Sequence[BurstInfo], owners: Mapping[tuple[int, int], object]) -> int:
    """All ordinals that somebody was given, and what an announcement had beyond that."""
    owned: dict[int, int] = defaultdict(int)
    for number, _ in owners:
        owned[number] += 1
    for burst in bursts:
        owned[burst.burst] = max(owned[burst.burst], burst.intended)
    return sum(owned.values())


def _lost(
    item: PlannedSession, info: RunInfo, settings: Settings, worker: str, region: str, zero_ns: int
) -> Record:
    """The record of a session of which its worker sent none."""
    wall_ns = zero_ns + item.offset_ns if zero_ns else 0
    return replace(
        unrecorded(item, info.run_id, settings, worker, region, wall_ns),
        findings={Finding.GENERATOR_LOST.value: f"its worker {worker} sent no record"},
    )
