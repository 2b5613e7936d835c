"""What must never be shown, taken out of texts that others wrote.

livekit-server answers a token that it does not take with the whole token, and a key that it does not know
with the key (``pkg/service/auth.go``); such answers become causes in records, reports and logs.
"""

from __future__ import annotations

import re
from typing import Final

TOKEN: Final = "(token)"
# The bytes '{"' in base64, with which a JWT begins; it may have been cut anywhere.
_JWT: Final = re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*){0,2}")
_USER_INFO: Final = re.compile(r"(?<=://)[^/\s@]+@")
_API_KEY: Final = re.compile(r"(api[ _-]?key\W{1,3}\w{4})\w+", re.IGNORECASE)


def masked(text: str) -> str:
    """Without tokens and a URL's user info; of an API key that is named as one the first four characters
    stay."""
    return _API_KEY.sub(r"\1…", _USER_INFO.sub("", _JWT.sub(TOKEN, text)))
