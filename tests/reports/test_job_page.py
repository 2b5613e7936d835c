"""``summary.md`` as GitHub's job page shows it: rendered as GitHub-flavoured Markdown, and read back."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from builders import never_assigned, welcomed, write_run
from markdown_it import MarkdownIt

from lk_users.report import tables
from lk_users.report.make import make_report

if TYPE_CHECKING:
    from pathlib import Path

    from lk_users.record import Record

GITHUB_BYTES = 1024 * 1024
FOREIGN = (
    "a | b",
    r"a \| b",
    "<html><body>502 Bad Gateway</body></html>",
    "<!-- ",
    "</details>",
    "&lt;b&gt; &amp; &#60;",
    "`code` | `",
    "two\nlines\r\n| --- |",
    "agent_left _it_",
    "-",
    "wss://user@host/?a=1&b=2",
)


class Page(HTMLParser):
    """All cells of all tables, all points, and the text of it."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.points: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(MarkdownIt("commonmark").enable("table").render(markdown))
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "li":
            self.points.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data
        elif "li" in self.open:
            self.points[-1] += data


def page_of(run_dir: Path, records: list[Record], **options: Any) -> tuple[str, Page]:
    write_run(run_dir, records, workers={"w1": ("eu", 0, len(records))}, **options)
    make_report(run_dir)
    text = (run_dir / "summary.md").read_text()
    return text, Page(text)


def cells(line: str) -> int:
    """Of a row as GitHub splits it: an escaped pipe ends no cell."""
    return len(re.findall(r"(?<!\\)\|", line)) - 1


def raw_tables(text: str) -> list[list[str]]:
    blocks = [block.splitlines() for block in re.split(r"\n\s*\n", text)]
    return [block for block in blocks if len(block) > 1 and set(block[1]) == set("|- ")]


@pytest.mark.parametrize(
    ("records", "options"),
    [
        ([welcomed(0)], {}),
        ([welcomed(0), *(never_assigned(n, findings={"rejected": FOREIGN[n]}) for n in range(1, 11))], {}),
        ([never_assigned(0)], {"slo": "max(speak) by region < 1 s; p95(welcomed) in region=eu <= 3s"}),
        ([welcomed(0)], {"expect_text": "a|b`c <b>"}),
    ],
    ids=["pass", "foreign causes", "no data", "foreign option"],
)
def test_tables_are_whole(tmp_path: Path, records: list[Record], options: dict[str, str]) -> None:
    text, page = page_of(tmp_path, records, **options)
    raw = raw_tables(text)
    assert len(raw) == len(page.tables) >= 5
    for lines, rows in zip(raw, page.tables, strict=True):
        assert len({cells(line) for line in lines}) == 1
        assert {len(row) for row in rows} == {cells(lines[0])}
        assert len(rows) == len(lines) - 1
    assert page.open == []
    assert page.tags[0] == "h1"
    assert page.tags.count("details") == 1
    assert "body" not in page.tags


def test_what_others_wrote_is_shown_as_it_was(tmp_path: Path) -> None:
    records = [never_assigned(n, findings={"rejected": cause}) for n, cause in enumerate(FOREIGN[:10])]
    _, page = page_of(tmp_path, records)
    slowest = next(rows for rows in page.tables if rows[0][0] == "outcome" and rows[0][1] == "cause")
    shown = {row[1] for row in slowest[1:]}
    for cause in FOREIGN[:6]:
        assert " ".join(cause.split()) in shown


@pytest.mark.parametrize("text", FOREIGN)
def test_a_cell_and_a_point_hold_any_text(text: str) -> None:
    plain = " ".join(text.split())
    page = Page(f"{tables.table(('a', 'b'), [(text, 'next')])}\n\n{tables.points([text])}")
    if "`" not in text and "_it_" not in text:
        assert page.tables == [[["a", "b"], [plain, "next"]]]
        assert [point.strip() for point in page.points] == ([plain] if plain != "-" else ["", ""])
    assert [len(row) for row in page.tables[0]] == [2, 2]
    code = Page(tables.table(("a", "b"), [(tables.code(text), "next")]))
    assert code.tables[0][1][1] == "next"
    if "\\" not in text:
        assert code.tables[0][1][0] == plain


def test_the_page_says_the_verdict_then_the_slos(tmp_path: Path) -> None:
    _, page = page_of(tmp_path, [welcomed(0), never_assigned(1)], slo="p95(welcomed) by region <= 3s")
    slos = next(rows for rows in page.tables if rows[0] == ["SLO", "was", ""])
    assert slos[1:] == [["p95(welcomed) by region <= 3s", "never within 120 s in region=eu", "missed"]]


def test_a_page_of_thousands_of_doubles_is_one_that_github_takes(tmp_path: Path) -> None:
    agents = [
        {"sid": "PA_1", "named": True, "gone_reason": "x" * 60},
        {"sid": "PA_2", "named": True, "gone_reason": ""},
    ]
    twice: dict[str, Any] = {"findings": {"duplicate_agent": "y" * 200}, "evidence": {"agents": agents}}
    text, page = page_of(tmp_path, [welcomed(n, **twice) for n in range(3000)])
    assert len(text.encode()) < GITHUB_BYTES / 4
    assert "So in 2950 more sessions: see summary.json." in text
    assert any(len(rows) == 101 for rows in page.tables)
