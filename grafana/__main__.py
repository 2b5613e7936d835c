"""``python -m grafana`` writes ``dashboards/*.json``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import burst, generator, runs

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER: Final = Path(__file__).parent / "dashboards"


def texts() -> Mapping[str, str]:
    """File name → JSON of each dashboard."""
    made = {"burst": burst.make(), "generator": generator.make(), "runs": runs.make()}
    encoder = JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False)
    return {f"{name}.json": encoder.encode(builder.build()) + "\n" for name, builder in made.items()}


def main() -> None:
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
