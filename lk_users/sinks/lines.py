"""Points as InfluxDB's line protocol, a line each. Pure.

The client library's own serializer takes twice the CPU and leaves line breaks inside of texts, which would
make two lines of one where a file is read by lines. A test holds that both say the same of plain points.
"""

from __future__ import annotations

import functools
import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lk_users.sinks.points import Point, Value


def line(point: Point) -> bytes:
    """The point as one line, its end included; empty where it has no field that can be written."""
    fields = ",".join(
        [f"{_name(name)}={text}" for name, value in sorted(point.fields.items()) if (text := _value(value))]
    )
    if not fields:
        return b""
    tags = "".join([f",{_name(name)}={_name(value)}" for name, value in sorted(point.tags.items()) if value])
    text = f"{_name(point.measurement)}{tags} {fields} {point.time_ns}\n"
    # A lone surrogate out of a foreign text is kept as its escape.
    return text.encode("utf-8", "backslashreplace")


@functools.lru_cache(maxsize=1024)
def _name(text: str) -> str:
    """Of a measurement, field or tag, or a tag's value: few, and always the same."""
    # A backslash at the end would escape what follows, and there is no way to write one.
    return re.sub(r"([,= ])", r"\\\1", re.sub(r"[\t\r\n]", " ", text).rstrip("\\"))


def _value(value: Value) -> str:
    """Empty: no such value in a database."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + escaped.replace("\n", " ").replace("\r", " ") + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value}i"
    return repr(value) if math.isfinite(value) else ""
