"""A dashboard's query as Grafana sends it, asked of a real InfluxDB: for the tests and the picture.

Replaces what Grafana replaces: ``${name}`` and ``${name:regex}`` in the browser, ``v.…`` in its server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from influxdb_client.client.query_api import QueryApi

# What "All" of a variable with a custom value stands for; it is not escaped.
ALL: Final = ".*"
_REFERENCE: Final = re.compile(r"\$\{(\w+)(?::(\w+))?\}")
# What Grafana escapes in a value that goes into a regular expression.
_SPECIAL: Final = re.compile(r"[\\^$*+?.()|\[\]{}/]")


@dataclass(frozen=True)
class View:
    """What a reader chose: values of variables (``ALL``, or what is ticked) and the time range."""

    start: datetime
    stop: datetime
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    bucket: str = "lk-users"
    window: str = "250ms"

    def filled(self, query: str) -> str:
        """Raises KeyError on a variable that there is not."""
        query = _REFERENCE.sub(self._value, query)
        for name, text in (
            ("timeRangeStart", self.start.isoformat()),
            ("timeRangeStop", self.stop.isoformat()),
            ("windowPeriod", self.window),
            ("defaultBucket", f'"{self.bucket}"'),
        ):
            query = query.replace(f"v.{name}", text)
        return query

    def _value(self, match: re.Match[str]) -> str:
        values = self.values[match[1]]
        if match[2] is None:
            (only,) = values
            return only
        if tuple(values) == (ALL,):
            return ALL
        escaped = [_SPECIAL.sub(lambda found: "\\" + found[0], value) for value in values]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def panels(dashboard: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """All panels of a dashboard's JSON that ask something."""
    return [panel for panel in dashboard["panels"] if "targets" in panel]


def rows(api: QueryApi, view: View, query: str) -> list[list[dict[str, Any]]]:
    """Tables of rows, without what Flux and the client add. Raises what the client raises."""
    tables = api.query(view.filled(query))
    return [
        [{k: v for k, v in record.values.items() if k not in ("result", "table")} for record in table.records]
        for table in tables
    ]
