"""The SDK's private part that we reach into: fails when a new version of it moves that."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

from livekit.rtc import _ffi_client

from lk_users.engines import sdk_seam

if TYPE_CHECKING:
    import pytest


class Library:
    """Stands for the native library: keeps what it is told."""

    def __init__(self) -> None:
        self.initialized: list[tuple[Any, ...]] = []
        self.livekit_ffi_request = self.livekit_ffi_drop_handle = self.livekit_ffi_dispose = Function(print)
        self.livekit_ffi_initialize = Function(lambda *arguments: self.initialized.append(arguments))


class Function:
    """Takes attributes, as one of ctypes does."""

    argtypes: Any = None
    restype: Any = None

    def __init__(self, call: Any) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


def test_the_sdk_starts_without_log_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(_ffi_client, "get_ffi_lib", lambda: library)
    monkeypatch.setattr(_ffi_client.FfiClient, "_instance", None)
    monkeypatch.setattr("atexit.register", lambda function: function)
    sdk_seam.load()
    ((callback, capture, sdk, version),) = library.initialized
    assert (callback, capture, sdk) == (_ffi_client.ffi_event_callback, False, b"python")
    assert version
    # ctypes would read the arguments wrongly without them.
    assert library.livekit_ffi_initialize.argtypes is not None
    assert _ffi_client.FfiClient.instance._ffi_lib.livekit_ffi_request is library.livekit_ffi_request


def test_by_itself_it_would_capture_them(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(_ffi_client, "get_ffi_lib", lambda: library)
    monkeypatch.setattr("atexit.register", lambda function: function)
    _ffi_client.FfiClient()
    assert library.initialized[0][1] is True


def test_the_real_library_takes_it() -> None:
    code = (
        "from lk_users.engines import sdk_seam; sdk_seam.load(); from livekit.rtc import _ffi_client as c; "
        "print(c.FfiClient._instance is not None, type(c.FfiClient.instance._ffi_lib).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "_QuietLibrary"]
