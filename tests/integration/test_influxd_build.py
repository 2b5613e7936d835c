"""What a machine without Rust is told, and what a build with Rust is given. Programs are stand-ins."""

from __future__ import annotations

import importlib.resources
from typing import TYPE_CHECKING

import pytest

from lk_users.errors import StackError
from lk_users.local import influxd

if TYPE_CHECKING:
    from pathlib import Path

GO = """
if [ "$1" = version ]; then echo "go version go1.26.8 linux/amd64"; exit 0; fi
echo "$*|$PKG_CONFIG|$RUSTC_WRAPPER|$RUSTUP_TOOLCHAIN|$CGO_ENABLED" >> "$GO_CALLS"
printf '#!/bin/sh\\n' > "$4" && /bin/chmod +x "$4"
"""


def program(path: Path, body: str = "") -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH; with Go, a C compiler, Rust by rustup, and an empty cache."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder / "go", GO)
    program(folder / "cc")
    program(folder / "cargo")
    program(folder / "rustc", 'echo "rustc 1.95.0 (f2d3ce0bd 2026-03-21)"')
    program(folder / "rustup", 'echo "1.95.0-x86_64 (active, default)"')
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("LK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("GO_CALLS", str(tmp_path / "go-calls"))
    monkeypatch.delenv("RUSTUP_TOOLCHAIN", raising=False)
    monkeypatch.delenv("LK_INFLUXD_BINARY", raising=False)
    return folder


def build() -> Path:
    return influxd.find_or_build(lambda line: None, pause=lambda seconds: None)


def test_a_build_has_fluxs_tool_and_the_rust_that_is_here(machine: Path, tmp_path: Path) -> None:
    assert build() == tmp_path / "cache" / "influxd-2.7.12" / "influxd"
    tool, database = (line.split("|") for line in (tmp_path / "go-calls").read_text().splitlines())
    assert tool[0].endswith("/pkg-config github.com/influxdata/pkg-config")
    assert database[0].endswith(
        "/influxd -tags sqlite_foreign_keys,sqlite_json github.com/influxdata/influxdb/v2/cmd/influxd"
    )
    assert database[1].endswith("/pkg-config")
    assert database[2].endswith("/rustc-lenient")
    assert database[3:] == ["1.95.0-x86_64", "1"]


@pytest.mark.parametrize(
    ("lacking", "why"),
    [
        (("cargo",), "there is no cargo on PATH"),
        (("cargo", "rustc", "cc"), "there is no cargo and no rustc and no cc on PATH"),
    ],
)
def test_what_is_missing_is_said_with_how_to_get_it(
    lacking: tuple[str, ...], why: str, machine: Path, tmp_path: Path
) -> None:
    for name in lacking:
        (machine / name).unlink()
    with pytest.raises(StackError) as caught:
        build()
    [fault] = caught.value.faults
    assert why in fault
    assert "it takes Rust >= 1.72 and a C compiler" in fault
    assert "put influxd on PATH or name it with LK_INFLUXD_BINARY" in fault
    assert "apt install cargo-web" in fault
    assert not (tmp_path / "go-calls").exists()


def test_a_rust_that_is_too_old_is_none(machine: Path) -> None:
    (machine / "rustup").unlink()
    program(machine / "rustc", 'echo "rustc 1.63.0"')
    with pytest.raises(StackError, match=r"Rust is 1\.63\.0; it takes Rust >= 1\.72"):
        build()


def test_module_file_pins_our_version() -> None:
    module = importlib.resources.files("lk_users.local") / "go" / "influxd"
    text = (module / "go.mod").read_text()
    assert f"github.com/influxdata/influxdb/v2 v{influxd.PROGRAM.version} " in text
    assert "replace github.com/nats-io/nats-streaming-server v0.11.2 => github.com/influxdata/" in text
    assert influxd.PROGRAM.needed_go == (1, 26)
