"""JSON texts with placeholders in their strings: what jobs, rooms and users are told. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PLACEHOLDERS: Final = ("session_id", "engine", "burst", "region")
BODY_PLACEHOLDERS: Final = (*PLACEHOLDERS, "room", "identity", "agent_name")


@dataclass(frozen=True)
class Template:
    """JSON text with placeholders inside string values; of several lines the ordinal picks one."""

    lines: tuple[str, ...] = ()

    def render(self, ordinal: int, values: Mapping[str, str]) -> str:
        """The JSON text for one session; empty where there is no template."""
        if not self.lines:
            return ""
        return json.dumps(_fill(json.loads(self.lines[ordinal % len(self.lines)]), values))


NO_TEMPLATE: Final = Template()


def template_fault(text: str, known: Sequence[str], *, strings_only: bool) -> str:
    try:
        value = json.loads(text)
    except ValueError as exc:
        return f"not valid JSON ({exc})"
    if strings_only and not (
        isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    ):
        return 'must be an object of strings, for example {"plan": "scale"}'
    for name in sorted(set(_placeholders(value))):
        if name not in known:
            names = ", ".join("{" + item + "}" for item in known)
            return f"unknown placeholder {{{name}}}; known are {names}"
    return ""


def _placeholders(value: object) -> list[str]:
    if isinstance(value, str):
        return re.findall(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", value)
    if isinstance(value, dict):
        return [name for item in value.values() for name in _placeholders(item)]
    if isinstance(value, list):
        return [name for item in value for name in _placeholders(item)]
    return []


def _fill(value: object, values: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return re.sub(r"\{(" + "|".join(values) + r")\}", lambda m: values[m.group(1)], value)
    if isinstance(value, dict):
        return {key: _fill(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, values) for item in value]
    return value
