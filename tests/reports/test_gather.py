from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from builders import RUN_ID, welcomed, write_run

from lk_users.cli import main
from lk_users.errors import Refused
from lk_users.report.gather import gather
from lk_users.sinks.jsonl import WORKERS_DIR, journal_path

if TYPE_CHECKING:
    from pathlib import Path

SHARES = {"w1": ("eu", 0, 2), "w2": ("us", 2, 2)}


@pytest.fixture
def machines(tmp_path: Path) -> tuple[Path, Path]:
    """The master's folder, which lacks the journal of w2, and that of w2's machine with nothing else."""
    ours, theirs = tmp_path / "master", tmp_path / "worker"
    records = [welcomed(number, worker="w1" if number < 2 else "w2") for number in range(4)]
    write_run(ours, records, workers=SHARES)
    (theirs / WORKERS_DIR).mkdir(parents=True)
    shutil.move(journal_path(ours, "w2"), journal_path(theirs, "w2"))
    (theirs / "spool").mkdir()
    (theirs / "spool" / "w2.lp").write_text("lk_live,worker=w2 parked=2i 5\nlk_li")
    (theirs / "audio").mkdir()
    (theirs / "audio" / "one.wav").write_bytes(b"RIFF")
    return ours, theirs


def test_a_run_is_whole_with_the_journals_of_all_machines(
    machines: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = machines
    assert main(["report", str(ours)]) == 11
    assert "2 sessions were lost with their worker" in capsys.readouterr().out
    assert main(["merge", str(ours), str(theirs)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("journals of 1 workers: w2\n\nPASS: every SLO was met")
    assert "4 of 4 intended sessions recorded, 4 ok" in out
    assert (ours / "audio" / "one.wav").read_bytes() == b"RIFF"
    assert (ours / "spool" / "w2.lp").read_text() == "lk_live,worker=w2 parked=2i 5\n"


def test_done_again_it_adds_nothing(machines: tuple[Path, Path]) -> None:
    ours, theirs = machines
    gather(ours, [theirs])
    once = journal_path(ours, "w2").read_bytes()
    assert gather(ours, [theirs, theirs]) == ["w2", "w2"]
    assert journal_path(ours, "w2").read_bytes() == once


def test_a_copy_that_the_master_had_in_part_is_made_whole(machines: tuple[Path, Path]) -> None:
    ours, theirs = machines
    whole = journal_path(theirs, "w2").read_bytes()
    lines = whole.splitlines(keepends=True)
    # Without its third line, and its last one cut by a kill.
    journal_path(ours, "w2").write_bytes(b"".join(lines[:2] + lines[3:-1]) + lines[-1][:9])
    gather(ours, [theirs])
    assert sorted(journal_path(ours, "w2").read_bytes().splitlines(keepends=True)) == sorted(lines)


def test_folders_of_another_run_and_of_none(machines: tuple[Path, Path], tmp_path: Path) -> None:
    ours, theirs = machines
    path = journal_path(theirs, "w2")
    path.write_text(path.read_text().replace(RUN_ID, "another"))
    before = sorted(ours.rglob("*"))
    with pytest.raises(Refused) as refused:
        gather(ours, [theirs, tmp_path / "nowhere"])
    assert list(refused.value.faults) == [
        f"{path}: a journal of run another, not of {RUN_ID}",
        f"{tmp_path / 'nowhere'}: no journals; name a run folder of a worker's machine, with workers/*.jsonl",
    ]
    assert sorted(ours.rglob("*")) == before


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(tmp_path), str(tmp_path)]) == 12
    assert "no run folder" in capsys.readouterr().err
