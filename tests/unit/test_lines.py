from __future__ import annotations

import random
import re

from builders import queued_session
from influxdb_client.client.write.point import Point as LibraryPoint

from lk_users.sinks.lines import line
from lk_users.sinks.points import Point, session_point


def by_the_library(point: Point) -> str:
    library = LibraryPoint.from_dict(
        {
            "measurement": point.measurement,
            "tags": dict(point.tags),
            "fields": dict(point.fields),
            "time": point.time_ns,
        }
    )
    return str(library.to_line_protocol())


def test_a_line_is_what_the_client_library_makes_of_the_point() -> None:
    rng = random.Random(7)
    for ordinal in range(20):
        point = session_point(queued_session(rng, ordinal))
        # The library writes 210.0 as 210, which is the same number to the database.
        ours = re.sub(r"(=-?\d+)\.0(?=[, ])", r"\1", line(point).decode())
        assert ours == by_the_library(point) + "\n"


def test_what_has_a_meaning_in_the_protocol_is_escaped() -> None:
    point = Point("m", {"agent": "a b,c=d"}, {"text": 'say "hi" \\ now', "n": -3, "ok": True, "f": 1e-7}, 5)
    assert line(point) == b'm,agent=a\\ b\\,c\\=d f=1e-07,n=-3i,ok=true,text="say \\"hi\\" \\\\ now" 5\n'
    assert line(point).decode() == by_the_library(point) + "\n"


def test_a_point_is_one_line_whatever_is_in_it() -> None:
    point = Point("m", {"t": "a\nb\\", "none": ""}, {"x": "one\ntwo\r", "bad": "\ud800"}, 5)
    assert line(point) == b'm,t=a\\ b bad="\\ud800",x="one two " 5\n'


def test_a_number_that_no_database_has_is_left_out() -> None:
    assert line(Point("m", {}, {"a": float("nan"), "b": float("inf"), "c": 1.5}, 5)) == b"m c=1.5 5\n"
    assert line(Point("m", {"t": "x"}, {"a": float("nan")}, 5)) == b""
