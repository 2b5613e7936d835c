"""The private part of the ``livekit`` package that we reach into, in this one place.

Its bound is in pyproject.toml; ``tests/unit/test_sdk_seam.py`` fails when a new version moves it.

Logs. The SDK has libwebrtc hand every debug line to Python, which throws it away: 50 rooms made 183,549
such events in 8 s and kept a core busy. The flag is the second argument of ``livekit_ffi_initialize``, and
nothing public sets it. The client does the same with and without.
"""

from __future__ import annotations

from typing import Any

from livekit.rtc import _ffi_client


class _Initialize:
    """``livekit_ffi_initialize`` without log capture; else as it was, also for what is set on it."""

    _function: Any

    def __init__(self, function: Any) -> None:
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._function, name, value)

    def __call__(self, callback: Any, capture_logs: bool, sdk: bytes, version: bytes) -> Any:
        return self._function(callback, False, sdk, version)


class _QuietLibrary:
    """The native library with that one function replaced."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._initialize = _Initialize(library.livekit_ffi_initialize)

    def __getattr__(self, name: str) -> Any:
        return self._initialize if name == "livekit_ffi_initialize" else getattr(self._library, name)


def load() -> None:
    """Load the native library, log capture off, before anything else of the SDK is used.

    Raises ImportError.
    """
    private: Any = _ffi_client
    get_library = private.get_ffi_lib
    private.get_ffi_lib = lambda: _QuietLibrary(get_library())
    try:
        _ = private.FfiClient.instance
    finally:
        private.get_ffi_lib = get_library
