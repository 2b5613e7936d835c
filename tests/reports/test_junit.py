from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import junitparser
import pytest
from builders import never_assigned, record, welcomed, write_run

from lk_users.report.folder import append_reason
from lk_users.report.make import make_report

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lk_users.record import Record


def suite(run_dir: Path, records: Sequence[Record], void: str = "", **options: Any) -> ET.Element:
    write_run(run_dir, records, workers={"w1": ("eu", 0, len(records))}, **options)
    if void:
        append_reason(run_dir, void)
    make_report(run_dir)
    (found,) = ET.parse(run_dir / "junit.xml").getroot()
    assert int(found.attrib["tests"]) == len(found.findall("testcase"))
    return found


def cases(found: ET.Element) -> list[tuple[str, str, str, str]]:
    """(class, name, kind of result, its message) of each case."""
    told = []
    for case in found.findall("testcase"):
        results = [(child.tag, child.attrib["message"]) for child in case if child.tag != "system-out"]
        (result,) = results or [("", "")]
        if result[0] in ("failure", "error"):
            assert case.findtext(result[0]) == result[1]
        told.append((case.attrib["classname"].removeprefix("lk-users."), case.attrib["name"], *result))
    return told


def counts(found: ET.Element) -> tuple[str, str, str]:
    return (found.attrib["failures"], found.attrib["errors"], found.attrib["skipped"])


def test_a_pass_is_green(tmp_path: Path) -> None:
    found = suite(tmp_path, [welcomed(0), welcomed(1)])
    assert found.attrib["timestamp"] == "2026-03-01T11:59:50Z"
    assert cases(found) == [
        ("run", "the run is valid", "", ""),
        ("slo", "count(lost) == 0", "", ""),
        ("slo", "count(duplicate) == 0", "", ""),
        ("outcome", "ok", "", ""),
    ]
    assert counts(found) == ("0", "0", "0")


def test_what_the_slos_put_up_with_is_no_failure(tmp_path: Path) -> None:
    found = suite(tmp_path, [welcomed(0), never_assigned(1)], slo="count(ok) >= 1")
    assert counts(found) == ("0", "0", "0")
    (case,) = [case for case in found.findall("testcase") if case.attrib["name"] == "never_assigned"]
    assert case.findtext("system-out") == (
        "1 never_assigned (the target's doing): no agent worker got the job. "
        "Cause: no job reported by the API (1)."
    )


def test_a_missed_slo_and_what_missed_it(tmp_path: Path) -> None:
    found = suite(tmp_path, [welcomed(0), never_assigned(1), record(2, findings={"rejected": "no"})])
    assert cases(found)[1:] == [
        ("slo", "count(lost) == 0", "failure", "was 2"),
        ("slo", "count(duplicate) == 0", "", ""),
        (
            "outcome",
            "never_assigned",
            "failure",
            "1 never_assigned (the target's doing): no agent worker got the job. "
            "Cause: no job reported by the API (1).",
        ),
        (
            "outcome",
            "rejected",
            "failure",
            "1 rejected (the target's doing): an agent worker declined the job. Cause: no (1).",
        ),
        ("outcome", "ok", "", ""),
    ]
    assert counts(found) == ("3", "0", "0")


def test_of_a_void_run_nothing_else_is_told(tmp_path: Path) -> None:
    lost = record(1, findings={"generator_lost": "its worker died"})
    found = suite(tmp_path, [welcomed(0), lost, never_assigned(2)], void="it slept")
    kinds = {name: kind for _, name, kind, _ in cases(found)}
    assert kinds == {
        "the run is valid": "error",
        "count(lost) == 0": "skipped",
        "count(duplicate) == 0": "skipped",
        "generator_lost": "error",
        "never_assigned": "skipped",
        "ok": "",
    }
    assert cases(found)[0][3].startswith("it slept; ")
    assert counts(found) == ("0", "2", "3")


def test_the_end_of_a_free_run_is_no_error(tmp_path: Path) -> None:
    records = [never_assigned(0), record(1, findings={"cancelled": "stopped"})]
    found = suite(tmp_path, records, release="free")
    assert {name: kind for _, name, kind, _ in cases(found)}["cancelled"] == ""
    assert counts(found) == ("2", "0", "0")


@pytest.mark.parametrize("cause", ['<b> & "q" \'', "bell \x07 nul \x00", "lone \udcff", "]]>"])
def test_foreign_text_is_well_formed(tmp_path: Path, cause: str) -> None:
    found = suite(tmp_path, [never_assigned(0, findings={"never_assigned": cause})])
    shown = "".join("�" if char in "\x07\x00\udcff" else char for char in cause)
    assert shown.split() == cases(found)[3][3].split("Cause: ")[1].removesuffix(" (1).").split()


def test_made_again_it_has_the_same_bytes(tmp_path: Path) -> None:
    suite(tmp_path, [welcomed(0), never_assigned(1)])
    before = (tmp_path / "junit.xml").read_bytes()
    (tmp_path / "junit.xml").unlink()
    make_report(tmp_path)
    assert (tmp_path / "junit.xml").read_bytes() == before
    assert json.loads((tmp_path / "summary.json").read_text())["exit_code"] == 10


# Element → (elements in it, its attributes, those it must have): junit-10.xsd of Jenkins' xunit plugin,
# as far as we write it. It is the strictest of those that are in use.
RESULT: tuple[set[str], ...] = (set(), {"message", "type"}, set())
SCHEMA: dict[str, tuple[set[str], ...]] = {
    "testsuites": ({"testsuite"}, {"name", "time", "tests", "failures", "errors"}, set()),
    "testsuite": (
        {"properties", "testcase", "system-out", "system-err"},
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname", "id", "package"},
        {"name", "tests", "failures", "errors"},
    ),
    "properties": ({"property"}, set(), set()),
    "property": (set(), {"name", "value"}, {"name", "value"}),
    "testcase": (
        {"skipped", "error", "failure", "system-out", "system-err"},
        {"name", "classname", "time"},
        {"name"},
    ),
    "skipped": RESULT,
    "error": RESULT,
    "failure": RESULT,
    "system-out": (set(), set(), set()),
}

RUNS = pytest.mark.parametrize(
    ("records", "options", "result"),
    [
        ([welcomed(0)], {}, (0, 0, 0)),
        ([welcomed(0), never_assigned(1)], {}, (2, 0, 0)),
        ([welcomed(0), record(1, findings={"cancelled": ""})], {}, (0, 2, 2)),
        ([welcomed(0)], {"slo": "max(speak) by region < 1 s; count(lost) == 0"}, (0, 2, 1)),
    ],
    ids=["pass", "missed", "void", "no data"],
)


@RUNS
def test_it_has_the_form_that_readers_expect(
    tmp_path: Path, records: list[Record], options: dict[str, str], result: tuple[int, int, int]
) -> None:
    suite(tmp_path, records, **options)
    for element in ET.parse(tmp_path / "junit.xml").iter():
        inner, attributes, required = SCHEMA[element.tag]
        assert {child.tag for child in element} <= inner
        assert required <= set(element.attrib) <= attributes


@RUNS
def test_a_reader_of_others_counts_the_same(
    tmp_path: Path, records: list[Record], options: dict[str, str], result: tuple[int, int, int]
) -> None:
    suite(tmp_path, records, **options)
    (read,) = junitparser.JUnitXml.fromfile(str(tmp_path / "junit.xml"))
    assert (read.failures, read.errors, read.skipped) == result
    kinds = [type(item).__name__ for case in read for item in case.result]
    assert tuple(kinds.count(kind) for kind in ("Failure", "Error", "Skipped")) == result
    assert all(item.text == item.message for case in read for item in case.result if case.is_failure)
    # GitLab takes only the first of cases that have one name.
    names = [(case.classname, case.name) for case in read]
    assert len(set(names)) == len(names)


def test_an_slo_without_data_is_an_error(tmp_path: Path) -> None:
    found = suite(tmp_path, [welcomed(0)], slo="max(speak) < 1 s; count(lost) == 0")
    assert cases(found)[:3] == [
        ("run", "the run is valid", "error", "no data for max(speak) < 1 s: no session has speak"),
        ("slo", "max(speak) < 1 s", "error", "no data: no session has speak"),
        ("slo", "count(lost) == 0", "skipped", "the run is void; was 0"),
    ]


def test_an_slo_that_is_said_twice_is_one_case(tmp_path: Path) -> None:
    found = suite(tmp_path, [welcomed(0)], slo="count(lost) == 0; count(lost)  == 0")
    assert [name for group, name, _, _ in cases(found) if group == "slo"] == ["count(lost) == 0"]
