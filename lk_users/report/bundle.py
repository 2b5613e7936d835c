"""``support.zip``: the evidence of a run in one file, small enough to attach to a ticket.

Made again it has the same bytes: entries in a fixed order, without the time of day.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Final

from lk_users.outcome import Finding
from lk_users.report.cases import slowest
from lk_users.report.folder import (
    AUDIO_DIR,
    BURSTS_FILE,
    MARKDOWN_FILE,
    REASONS_FILE,
    RECORDS_FILE,
    RUN_FILE,
    SUMMARY_FILE,
    SUPPORT_FILE,
    encoded,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lk_users.record import Record

FILES: Final = (SUPPORT_FILE, MARKDOWN_FILE, SUMMARY_FILE, RUN_FILE, BURSTS_FILE, REASONS_FILE)
# Beyond it only the records of failed sessions and of the slowest go along.
ALL_RECORDS_BYTES: Final = 5 << 20
AUDIO_BYTES: Final = 10 << 20
# The first moment that a zip file can tell.
TIMELESS: Final = (1980, 1, 1, 0, 0, 0)
READABLE: Final = 0o644 << 16


def bundle(run_dir: Path, run_id: str, records: Sequence[Record]) -> bytes:
    """The zip file of a run whose other files are written; all in a folder named ``run_id``.

    Raises OSError.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _members(run_dir, records):
            entry = zipfile.ZipInfo(f"{run_id}/{name}", TIMELESS)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = READABLE
            archive.writestr(entry, content)
    return buffer.getvalue()


def _members(run_dir: Path, records: Sequence[Record]) -> Iterator[tuple[str, bytes]]:
    for name in FILES:
        if (run_dir / name).exists():
            yield name, (run_dir / name).read_bytes()
    yield RECORDS_FILE, _record_lines(records)
    left = AUDIO_BYTES
    for path in sorted((run_dir / AUDIO_DIR).glob("*.wav")):
        size = path.lstat().st_size
        if size <= left and not path.is_symlink():
            left -= size
            yield f"{AUDIO_DIR}/{path.name}", path.read_bytes()


def _record_lines(records: Sequence[Record]) -> bytes:
    lines = encoded("".join(record.to_json() + "\n" for record in records))
    if len(lines) <= ALL_RECORDS_BYTES:
        return lines
    slow = {record.session_id for record in slowest(records)}
    chosen = [one for one in records if one.outcome is not Finding.OK or one.session_id in slow]
    return encoded("".join(record.to_json() + "\n" for record in chosen))
