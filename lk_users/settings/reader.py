"""Reads options, one by one: every fault becomes a line, and reading goes on."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from lk_users.address import Address, http_url_fault, safely_shown
from lk_users.masking import masked
from lk_users.settings.options import PROCESS_OPTIONS, RUN_OPTIONS, TEMPLATE_OPTIONS
from lk_users.settings.template import BODY_PLACEHOLDERS, NO_TEMPLATE, PLACEHOLDERS, Template, template_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_N = TypeVar("_N", int, float)

NOT_SHOWN: Final = "(given, not shown)"


class OptionReader:
    """Parses option strings; each fault becomes one line that names option, value and what would do."""

    def __init__(self, options: Mapping[str, Any], faults: list[str]) -> None:
        self._options = options
        self._faults = faults
        self._declared = {option.name: option for option in (*RUN_OPTIONS, *PROCESS_OPTIONS)}

    def text(self, name: str) -> str:
        option = self._declared[name]
        value = self._options.get(option.dest)
        return option.default if value is None else str(value).strip()

    def shown(self, name: str) -> str:
        """As a report may have it: what users tell their agents is nobody else's business."""
        value = self.text(name)
        return NOT_SHOWN if value and name in TEMPLATE_OPTIONS else masked(value)

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self.text(name)
        if value not in allowed:
            names = ", ".join(item for item in allowed if item)
            self._faults.append(f"--{name} {value}: unknown; use one of {names}")
            return allowed[0]
        return value

    def number(self, name: str, least: float = 0.0) -> float:
        return self._parsed(name, float, least, "a number")

    def whole(self, name: str, least: int = 0) -> int:
        return self._parsed(name, int, least, "a whole number")

    def budget(self, name: str, default: int) -> int:
        return self.whole(name, least=1) if self.text(name) else default

    def baseline(self, release: str, engine: str) -> int:
        """One session where nobody watches, and where there is a burst of real sessions to compare."""
        if self.text("baseline"):
            return self.whole("baseline")
        return int(bool(self._options.get("headless")) and release == "barrier" and engine != "idle")

    def spread(self, name: str) -> float:
        """``spread=60s``, in seconds; 0 where nothing was given."""
        value = self.text(name)
        if not value:
            return 0.0
        form = re.fullmatch(r"spread\s*=\s*(\d{1,6}(?:\.\d{1,6})?)\s*s?", value)
        length_s = float(form[1]) if form else 0.0
        if not length_s:
            self._faults.append(
                f"--{name} {value}: use spread= and a number of seconds above 0, for example spread=60s"
            )
        return length_s

    def items(self, name: str, allowed: tuple[str, ...]) -> frozenset[str]:
        given = [item.strip() for item in self.text(name).split(",") if item.strip()]
        unknown = [item for item in given if item not in allowed]
        for item in unknown:
            self._faults.append(f"--{name} {item}: unknown item; use any of {', '.join(allowed)}")
        if not given:
            self._faults.append(f"--{name}: empty; use any of {', '.join(allowed)}")
        return frozenset(given)

    def pattern(self, name: str) -> str:
        """A regular expression of Python's ``re``."""
        value = self.text(name)
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as exc:
            self._faults.append(
                f"--{name} {value}: not a regular expression ({exc}); for example 'welcome|how can I help', "
                "with a backslash before a character that is meant as it is"
            )
            return ""
        return value

    def shares(self, name: str, total: int | None) -> dict[str, int]:
        """``name=count,…`` that add up to ``total`` where it is known; empty where nothing was given."""
        value, found = self.text(name), {}
        for part in filter(None, (part.strip() for part in value.split(","))):
            key, _, count = (piece.strip() for piece in part.partition("="))
            if not key or key in found or not re.fullmatch(r"[1-9]\d{0,6}", count):
                self._faults.append(f"--{name} {part}: use REGION=USERS, each region once, as us-east=300")
                return {}
            found[key] = int(count)
        if found and total is not None and sum(found.values()) != total:
            self._faults.append(
                f"--{name} {value}: that is {sum(found.values())} users, and the burst has {total} (--users)"
            )
        return found

    def project(self, name: str) -> str:
        value = self.text(name)
        if value and not re.fullmatch(r"p_[A-Za-z0-9]+", value):
            self._faults.append(
                f"--{name} {value}: must be p_ and letters or digits, as in the address of the project's "
                "dashboard, for example p_4gzq81mx2tk"
            )
        return value

    def urls(self, name: str) -> tuple[str, ...]:
        """Comma-separated HTTP URLs, without a slash at their end, each once."""
        given = dict.fromkeys(item.strip().rstrip("/") for item in self.text(name).split(",") if item.strip())
        for url in given:
            fault = http_url_fault(url, "http://127.0.0.1:8081")
            if fault:
                self._faults.append(f"--{name} {safely_shown(url)}: {fault}")
        return tuple(given)

    def address(self, name: str) -> Address | None:
        """Of an HTTP endpoint; None where none was given, or none that will do."""
        url = self.text(name)
        fault = http_url_fault(url, "https://app.example.com/api/token") if url else ""
        if fault:
            self._faults.append(f"--{name} {safely_shown(url)}: {fault}")
        if fault or not url:
            return None
        parsed = Address.parse(url, ("http", "https"))
        # A slash at the end of a path is part of it: backends redirect from one to the other.
        address = replace(parsed, path=parsed.path + "/" * (urlsplit(url).path[-1:] == "/"))
        if not address.is_plain:
            self._faults.append(f"--{name} {safely_shown(url)}: write other characters than ASCII as %XX")
        return address

    def template(self, name: str, *, strings_only: bool = False) -> Template:
        value = self.text(name)
        if not value:
            return NO_TEMPLATE
        lines = [value]
        if value.startswith("@"):
            try:
                text = Path(value[1:]).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as exc:
                why = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
                self._faults.append(f"--{name} {value}: cannot be read ({why or exc})")
                return NO_TEMPLATE
            lines = [line for line in text.splitlines() if line.strip()]
            if not lines:
                self._faults.append(f"--{name} {value}: the file is empty; use one JSON value a line")
        for number, line in enumerate(lines, 1):
            known = BODY_PLACEHOLDERS if name == "session-body" else PLACEHOLDERS
            fault = template_fault(line, known, strings_only=strings_only)
            if fault:
                where = f" line {number}" if value.startswith("@") else ""
                self._faults.append(f"--{name} {value}{where}: {fault}")
        return Template(tuple(lines))

    def _parsed(self, name: str, kind: Callable[[str], _N], least: _N, what: str) -> _N:
        value = self.text(name)
        try:
            number = kind(value)
        except ValueError:
            self._faults.append(f"--{name} {value}: not {what}")
            return least
        if not least <= number < float("inf"):
            self._faults.append(f"--{name} {value}: must be {what} of at least {least:g}")
            return least
        return number
