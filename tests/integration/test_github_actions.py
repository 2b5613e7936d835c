"""The workflow of the docs: it has GitHub's form, and its steps do what it says. What GitHub does itself (its
expressions, its actions, who runs when) is done here as far as the workflow uses it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from ruamel.yaml import YAML

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lk_users.local.stack import Stack

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "docs" / "github-actions.yml"
# As GitHub starts ``shell: bash``.
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail")
STEP_TIMEOUT_S = 120
SECRETS = ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")
FAST = {"vars.LK_AGENT_NAME": "welcome", "inputs.users": "5"}


def workflow() -> dict[str, Any]:
    return dict(YAML(typ="safe").load(WORKFLOW.read_text(encoding="utf-8")))


@dataclass
class Job:
    """The job of the workflow, run step by step in a folder as a runner does it. ``contexts``: what the
    expressions stand for, by their full name; what is not there is empty."""

    work: Path
    python: Path
    contexts: dict[str, str]
    codes: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    kept: list[Path] = field(default_factory=list)

    @property
    def page(self) -> str:
        path = self.work / "page.md"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @property
    def failed(self) -> bool:
        return any(self.codes.values())

    def run(self) -> Job:
        whole = workflow()
        (job,) = whole["jobs"].values()
        assert job["defaults"]["run"]["shell"] == "bash"
        given = self._filled(whole["env"])
        self.contexts |= {f"env.{name}": value for name, value in given.items()}
        for step in job["steps"]:
            if not self.failed or step.get("if") == "always()":
                self._step(step, given)
        return self

    def _step(self, step: Mapping[str, Any], given: Mapping[str, str]) -> None:
        if "uses" in step:
            if step["uses"].startswith("actions/upload-artifact@"):
                folder = self.work / self._text(step["with"]["path"])
                self.kept = sorted(path for path in folder.rglob("*") if path.is_file())
            return
        outputs = self.work / "outputs.txt"
        outputs.write_text("")
        name = step["name"]
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("LK_", "LIVEKIT_", "LOCUST_"))
        }
        environ = {
            **clean,
            **given,
            **self._filled(step.get("env", {})),
            "PATH": f"{self.python / 'bin'}:{os.environ['PATH']}",
            "GITHUB_OUTPUT": str(outputs),
            "GITHUB_STEP_SUMMARY": str(self.work / "page.md"),
            # The environment of the tests has all others.
            "PIP_NO_DEPS": "1",
        }
        script = self.work / "step.sh"
        script.write_text(step["run"])
        done = subprocess.run(
            [*BASH, str(script)], cwd=self.work, env=environ, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=STEP_TIMEOUT_S, check=False,
        )  # fmt: skip
        self.codes[name] = done.returncode
        self.said[name] = done.stdout + done.stderr
        for line in outputs.read_text().splitlines():
            key, _, value = line.partition("=")
            self.contexts[f"steps.{step['id']}.outputs.{key}"] = value

    def _filled(self, values: Mapping[str, Any]) -> dict[str, str]:
        return {name: self._text(str(value)) for name, value in values.items()}

    def _text(self, text: str) -> str:
        return re.sub(r"\$\{\{\s*(.*?)\s*\}\}", lambda match: self._value(match[1]), text)

    def _value(self, expression: str) -> str:
        """Of ``a || b || 'text'`` the first that is not empty."""
        for part in re.split(r"\s*\|\|\s*", expression):
            literal = re.fullmatch(r"'(.*)'", part)
            assert literal or re.fullmatch(r"[\w.]+", part), f"not done here: {part}"
            value = literal[1] if literal else self.contexts.get(part, "")
            if value:
                return value
        return ""


@dataclass(frozen=True)
class Ready:
    """A Python without this package, but with all that it needs, and the package to install."""

    python: Path
    wheel: Path


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Ready:
    folder = tmp_path_factory.mktemp("ready")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "python")], check=True)
    (packages,) = (folder / "python" / "lib").glob("python*/site-packages")
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    locust = folder / "python" / "bin" / "locust"
    locust.write_text(f'#!/bin/sh\nexec {folder / "python" / "bin" / "python"} -m locust "$@"\n')
    locust.chmod(0o755)
    source = folder / "source"
    shutil.copytree(ROOT / "lk_users", source / "lk_users", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run([*command, str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    return Ready(folder / "python", wheel)


@pytest.fixture
def run(tmp_path: Path, ready: Ready) -> Callable[..., Job]:
    """``run(secrets, inputs__users="5", …)``: the job in a user's repository."""
    shutil.copy(ROOT / "locustfiles" / "burst.py", tmp_path / "locustfile.py")

    def job(secrets: Mapping[str, str], **contexts: str) -> Job:
        known = {f"secrets.{name}": secrets.get(name, "") for name in SECRETS}
        more = {name.replace("__", "."): value for name, value in contexts.items()}
        package = {"vars.LK_USERS_PACKAGE": str(ready.wheel)}
        return Job(tmp_path, ready.python, {**known, **FAST, **package, **more}).run()

    return job


def schema_faults(schema: str, path: Path) -> str:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_it_has_githubs_form(tmp_path: Path) -> None:
    assert schema_faults("github-workflows", WORKFLOW) == ""
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOW.read_text().replace("runs-on:", "run-on:"))
    assert "runs-on" in schema_faults("github-workflows", broken)


def test_the_job_for_gitlab_has_gitlabs_form(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(burst:\n.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)
    (tmp_path / "ci.yml").write_text(text)
    assert schema_faults("gitlab-ci", tmp_path / "ci.yml") == ""


def test_actions_are_pinned_and_secrets_go_to_one_step_only() -> None:
    (job,) = workflow()["jobs"].values()
    uses = [step["uses"] for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", one) for one in uses)
    told = [step.get("name") for step in job["steps"] if "secrets." in str(step)]
    assert told == ["Burst"]
    assert "secrets." not in str({**workflow(), "jobs": {}})
    # What others can set reaches a shell by variables only.
    assert not any("${{" in step.get("run", "") for step in job["steps"])


@pytest.mark.real
def test_a_pass_is_green_with_its_page_and_its_run_folder(run: Callable[..., Job], stack: Stack) -> None:
    job = run(stack.env())
    assert set(job.codes.values()) == {0}, job.said
    assert list(job.codes) == ["Install", "Burst", "Summary on the job's page", "Verdict"]
    # What ran is what was installed.
    (installed,) = job.python.glob("lib/python*/site-packages/lk_users")
    assert (installed / "__pycache__").exists()
    assert job.said["Verdict"] == "::notice title=PASS::every SLO was met\n"
    assert job.page.startswith("# PASS: every SLO was met (exit code 0)\n")
    for rule in ("count(lost) == 0", "rate(welcomed) >= 99.5%", "p95(agent_joined) <= 3s"):
        assert f"| `{rule}` | " in job.page
    names = {path.name for path in job.kept}
    assert {"summary.md", "summary.json", "junit.xml", "records.jsonl", "run.json"} <= names
    for text in (*job.said.values(), *(path.read_bytes().decode("utf-8", "replace") for path in job.kept)):
        assert stack.env()["LIVEKIT_API_SECRET"] not in text


@pytest.mark.real
def test_a_missed_slo_is_red_with_its_page_and_its_run_folder(run: Callable[..., Job], stack: Stack) -> None:
    job = run(stack.env(), inputs__slo="p95(agent_joined) by region <= 1 ms; count(lost) == 0")
    assert (job.codes["Burst"], job.codes["Verdict"]) == (0, 10)
    assert job.said["Verdict"].startswith("::error title=SLO_FAILED::")
    assert job.page.startswith("# SLO_FAILED: 1 of 2 SLOs missed (exit code 10)\n")
    (junit,) = [path for path in job.kept if path.name == "junit.xml"]
    failed = [
        case.attrib["name"] for case in ET.parse(junit).iter("testcase") if case.find("failure") is not None
    ]
    assert failed == ["p95(agent_joined) by region <= 1 ms"]


@pytest.mark.real
def test_a_void_run_is_red(run: Callable[..., Job], stack: Stack) -> None:
    job = run(stack.env(), inputs__slo="count(lost) in region=mars == 0")
    assert (job.codes["Burst"], job.codes["Verdict"]) == (0, 11)
    assert job.said["Verdict"].startswith("::error title=VOID::")
    assert "no data for count(lost) in region=mars == 0: no session has region mars" in job.page


def test_what_is_refused_is_red_and_says_so(run: Callable[..., Job]) -> None:
    job = run({})
    assert (job.codes["Burst"], job.codes["Verdict"]) == (0, 12), job.said
    assert "lk-users: LIVEKIT_URL is not set" in job.said["Burst"]
    assert job.said["Verdict"].startswith("::error title=Refused::")
    assert (job.page, job.kept) == ("", [])


def test_locusts_own_end_is_red(run: Callable[..., Job]) -> None:
    job = run({}, vars__LK_USERS_LOCUSTFILE="nowhere.py")
    assert job.codes["Verdict"] == 1
    assert job.said["Verdict"].startswith("::error title=Locust::Locust itself ended with 1,")


def test_an_install_that_fails_is_red(run: Callable[..., Job]) -> None:
    job = run({}, vars__LK_USERS_PACKAGE="./nowhere")
    assert list(job.codes) == ["Install", "Summary on the job's page", "Verdict"]
    assert (job.codes["Install"], job.codes["Verdict"]) == (1, 1)
    assert job.said["Verdict"].startswith("::error title=No burst::")
