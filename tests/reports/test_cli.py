from __future__ import annotations

import json
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


FILES = ("summary.json", "summary.md", "junit.xml", "records.jsonl")


def contents(run_dir: Path) -> dict[str, bytes]:
    """Of all that a report writes; empty where a file is not there."""
    paths = [run_dir / name for name in (*FILES, "support.md", "support.zip")]
    return {path.name: path.read_bytes() if path.exists() else b"" for path in paths}


def test_report_judges_a_finished_run_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, [welcomed(0), welcomed(1)], workers={"w1": ("eu", 0, 2)})
    assert main(["report", str(tmp_path)]) == 0
    own = contents(tmp_path)
    capsys.readouterr()
    anew = [
        "--slo",
        "p95(welcomed) by region <= 200 ms; count(lost) == 0",
        "--slo",
        "rate(welcomed) >= 99.5%",
    ]
    assert main(["report", str(tmp_path), *anew]) == 10
    out = capsys.readouterr().out
    assert out.startswith(
        "SLO_FAILED: 1 of 3 SLOs missed (exit code 10)\n"
        "  MISSED  p95(welcomed) by region <= 200 ms   (was 250 ms in region=eu)\n"
        "  met     count(lost) == 0   (was 0)\n"
        "  met     rate(welcomed) >= 99.5%   (was 100 %)\n"
        "  - Judged anew by the SLOs that were given to `lk-users report`. The run's own, by which"
    )
    told = (tmp_path / "summary.md").read_text()
    assert "judges it again: `count(lost) == 0; count(duplicate) == 0`." in told
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["judged_anew"], summary["verdict"], len(summary["slo"])) == (True, "SLO_FAILED", 3)
    assert '<property name="judged_anew" value="true" />' in (tmp_path / "junit.xml").read_text()
    assert (tmp_path / "support.zip").exists()
    # Without --slo it is the run's own again, and nothing is left of the other.
    assert main(["report", str(tmp_path)]) == 0
    assert contents(tmp_path) == own
    assert own["support.zip"] == b""


@pytest.mark.parametrize(
    ("anew", "code", "first"),
    [
        ("p95(welcomed) <= 1 s", 0, "PASS: every SLO was met (exit code 0)"),
        ("count(ok) == 7", 10, "SLO_FAILED: 1 of 1 SLO missed (exit code 10)"),
        ("count(lost) in region=us == 0", 11, "VOID: this run says nothing reliable about the target"),
    ],
)
def test_judged_anew_it_exits_as_a_run_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], anew: str, code: int, first: str
) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)}, slo="count(nothing) == 0")
    assert main(["report", str(tmp_path), "--slo", anew]) == code
    assert capsys.readouterr().out.startswith(first)


def test_a_run_that_lacks_what_an_slo_is_about_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)})
    assert main(["report", str(tmp_path), "--slo", "p95(welcomed) in region=us <= 1 s"]) == 11
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "  - no data for p95(welcomed) in region=us <= 1 s: no session has region us; there are eu",
        "  NO DATA  p95(welcomed) in region=us <= 1 s   (no session has region us; there are eu)",
    ]


@pytest.mark.parametrize("anew", ["", ";", "p95(welcomd) <= 1 s"])
def test_an_slo_that_is_none_leaves_the_run_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], anew: str
) -> None:
    write_run(tmp_path, [welcomed(0)], workers={"w1": ("eu", 0, 1)})
    assert main(["report", str(tmp_path)]) == 0
    before = contents(tmp_path)
    capsys.readouterr()
    assert main(["report", str(tmp_path), "--slo", anew]) == 12
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("lk-users: --slo")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["COMMAND"]),
        (["reprot"], ["reprot"]),
        (["report"], ["RUN_DIR"]),
        (["report", "a", "b"], ["b"]),
        (["report", "no-such-folder"], ["no-such-folder", "run.json"]),
        (
            ["stack", "--jobs-per-s", "-1", "--", "true"],
            ["--jobs-per-s -1: must be at least 0, for example 10"],
        ),
        (
            ["stack", "--jobs-per-s", "nan", "--", "true"],
            ["--jobs-per-s nan: must be at least 0, for example 10"],
        ),
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
