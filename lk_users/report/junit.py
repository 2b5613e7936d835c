"""``junit.xml``: the verdict as test cases, for CI systems. It is red exactly where the exit code is not 0.

One case says whether the run is valid, one stands for each SLO, and one for each outcome that occurred. An
error is what is wrong with the run, a failure what is wrong with the target.

The form is what Jenkins, GitLab and GitHub's actions for it read. What went wrong is both an attribute and
the text of its element: each reads another of the two. No case takes time, but some readers ask for it: it
is 0.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

from lk_users.outcome import Fault, Finding, Verdict, fault_of
from lk_users.report import region_words, words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lk_users.report.words import Summary

SUITE: Final = "lk-users"
PROPERTIES: Final = ("run_id", "verdict", "exit_code", "judged_anew")
TYPES: Final[Mapping[str, str]] = MappingProxyType({"error": Verdict.VOID, "failure": Verdict.SLO_FAILED})
# What XML 1.0 has no place for, not even escaped.
_FORBIDDEN: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text(summary: Summary) -> str:
    """The whole file, with its final newline."""
    suite = ET.Element("testsuite", name=SUITE, timestamp=_plain(summary["wall"]["started"]))
    properties = ET.SubElement(suite, "properties")
    for name in PROPERTIES:
        value = summary[name]
        told = str(value).lower() if isinstance(value, bool) else str(value)
        ET.SubElement(properties, "property", name=name, value=_plain(told))
    _case(suite, "run", "the run is valid", _invalid(summary), words.health_line(summary))
    for slo in summary["slo"]:
        _case(suite, "slo", slo["text"], _missed(summary, slo), words.slo_was(slo))
    lines = dict(zip(summary["causes"], words.failure_lines(summary), strict=False))
    for name, count in summary["outcomes"].items():
        told = " ".join(
            filter(None, (lines.get(name, f"{count} {name}."), region_words.counts(summary, name)))
        )
        _case(suite, "outcome", name, _failed(summary, Finding(name), told), told)
    for kind, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(attribute, str(len(suite.findall(f"testcase/{kind}"))))
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("time", "0")
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _invalid(summary: Summary) -> tuple[str, str] | None:
    reasons: Sequence[str] = summary["void_reasons"]
    return ("error", "; ".join(reasons)) if summary["verdict"] == Verdict.VOID else None


def _missed(summary: Summary, slo: Mapping[str, Any]) -> tuple[str, str] | None:
    """Of a void run no SLO says anything, met or not; it may be void for what one lacks."""
    was = words.slo_was(slo)
    if slo["missing"]:
        return ("error", f"no data: {was}")
    if summary["verdict"] == Verdict.VOID:
        return ("skipped", f"the run is void; {was}")
    return None if slo["ok"] else ("failure", was)


def _failed(summary: Summary, outcome: Finding, told: str) -> tuple[str, str] | None:
    """An outcome that the SLOs put up with fails nothing, nor does the end of a free run."""
    fault = fault_of(outcome)
    normal = outcome is Finding.CANCELLED and summary["resolved"]["release"] == "free"
    if fault is Fault.NONE or normal or summary["verdict"] == Verdict.PASS:
        return None
    if fault is Fault.OURS:
        return ("error", told)
    return ("skipped" if summary["verdict"] == Verdict.VOID else "failure", told)


def _case(suite: ET.Element, group: str, name: str, result: tuple[str, str] | None, out: str = "") -> None:
    case = ET.SubElement(suite, "testcase", classname=f"{SUITE}.{group}", name=_plain(name), time="0")
    if result is not None:
        kind, message = result
        made = ET.SubElement(case, kind, message=_plain(message))
        if kind != "skipped":
            made.set("type", TYPES[kind])
            made.text = _plain(message)
    if out and (result is None or out not in result[1]):
        ET.SubElement(case, "system-out").text = _plain(out)


def _plain(value: str) -> str:
    return _FORBIDDEN.sub("�", value)
