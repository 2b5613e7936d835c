"""What the commands' arguments have in common."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, NoReturn

from lk_users.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lk_users.settings.options import Option

    Subparsers = argparse._SubParsersAction["Parser"]


class Parser(argparse.ArgumentParser):
    """argparse would print its usage and exit with 2, which is Locust's code for something else."""

    def error(self, message: str) -> NoReturn:
        raise Refused([f"{message}; see {self.prog} --help"])


def whole(flag: str, text: str) -> int:
    """A whole number of at least 1. Raises Refused."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise Refused([f"{flag} {text}: must be a whole number of at least 1"])
    return int(text)


def seconds(flag: str, text: str) -> float:
    """A positive number of at most an hour. Raises Refused."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise Refused([f"{flag} {text}: must be a number of seconds from 0.1 to 3600"])
    return seconds


def add_options(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    """Options as a run has them, with their variables."""
    for option in options:
        default = os.environ.get(option.variable, option.default)
        text = f"{option.help} (or {option.variable})".replace("%", "%%")
        parser.add_argument(option.flag, default=default, help=text)
