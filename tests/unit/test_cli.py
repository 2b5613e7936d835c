from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from builders import never_assigned, welcomed, write_run

from lk_users.cli import main
from lk_users.sinks.jsonl import journal_path
from lk_users.version import VERSION

if TYPE_CHECKING:
    from pathlib import Path


def test_report_prints_the_ending_and_exits_with_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)})
    assert main(["report", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("PASS: every SLO was met (exit code 0)\n")
    assert out.endswith(f"All of it: {tmp_path / 'summary.md'}\nWith charts: {tmp_path / 'report.html'}\n")
    assert err == ""


def test_report_of_a_failed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, [never_assigned(0)], workers={"w1": ("eu", 0, 1)})
    assert main(["report", str(tmp_path)]) == 10
    assert capsys.readouterr().out.startswith("SLO_FAILED: 1 of 2 SLOs missed (exit code 10)\n")


def test_report_of_a_void_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, [], workers={"w1": ("eu", 0, 1)})
    assert main(["report", str(tmp_path)]) == 11
    assert capsys.readouterr().out.startswith("VOID: ")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["COMMAND"]),
        (["reprot"], ["reprot"]),
        (["report"], ["RUN_DIR"]),
        (["report", "a", "b"], ["b"]),
        (["report", "no-such-folder"], ["no-such-folder", "run.json"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_12(
    arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 12
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lk-users: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_a_broken_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)})
    path = journal_path(tmp_path, "w1")
    path.write_text("{}\n" + path.read_text())
    assert main(["report", str(tmp_path)]) == 12
    assert capsys.readouterr().err == "lk-users: w1.jsonl line 1: unknown kind None\n"


def test_faults_of_a_runs_settings_are_a_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)}, slo="count(x) == 0; p95(y) < 1")
    assert main(["report", str(tmp_path)]) == 12
    assert capsys.readouterr().err.count("lk-users: --slo ") == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"lk-users {VERSION}\n"
