"""Where on this machine what was made once is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The folder for it: LK_CACHE_DIR, else ``lk-users`` in the user's cache folder."""
    if own := os.environ.get("LK_CACHE_DIR"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).absolute() / "lk-users"
    return Path("~/.cache/lk-users").expanduser().absolute()
