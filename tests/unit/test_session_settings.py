"""Settings of a backend of the user's own: --session-url, its body and headers, and runs without a key."""

from __future__ import annotations

import json
import tempfile
from typing import Any

import pytest

from lk_users import preflight
from lk_users.address import Address
from lk_users.errors import Refused
from lk_users.report.folder import RunInfo
from lk_users.settings.options import PROCESS_OPTIONS, RUN_OPTIONS
from lk_users.settings.process import ProcessSettings
from lk_users.settings.run import Settings
from lk_users.settings.target import Target

URL = "https://app.example.com/api/token"
KEYS = {"LIVEKIT_API_KEY": "APIabcdefg", "LIVEKIT_API_SECRET": "very-secret-indeed"}


def chosen(**options: str) -> Settings:
    return Settings.from_options(options, 50)


def faults_of(**options: str) -> tuple[str, ...]:
    with pytest.raises(Refused) as refused:
        chosen(**options)
    return refused.value.faults


def headers(**environ: str) -> tuple[tuple[str, str], ...]:
    return ProcessSettings.from_options({"run_dir": tempfile.gettempdir()}, environ).session_headers


def header_faults(**environ: str) -> tuple[str, ...]:
    with pytest.raises(Refused) as refused:
        headers(**environ)
    return refused.value.faults


def test_a_session_url_decides_dispatch_and_order() -> None:
    for options in ({}, {"agent_name": "a"}, {"dispatch": "backend", "order": "session-first"}):
        found = chosen(session_url=URL, **options)
        assert (found.dispatch, found.order) == ("backend", "session-first")
        assert found.session_url == Address("app.example.com", 443, tls=True, path="/api/token")
        assert found.agent_name == options.get("agent_name", "*")


def test_credentials_of_the_locustfile_join_first() -> None:
    found = chosen(dispatch="backend", agent_name="a")
    assert (found.dispatch, found.order, found.session_url) == ("backend", "join-first", None)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:3000", Address("127.0.0.1", 3000, tls=False)),
        ("http://h/", Address("h", 80, tls=False, path="/")),
        ("https://h:8443/api/token/", Address("h", 8443, tls=True, path="/api/token/")),
        ("http://[::1]:3000/x%20y", Address("::1", 3000, tls=False, path="/x%20y")),
    ],
)
def test_a_slash_at_the_end_stays(url: str, address: Address) -> None:
    assert chosen(session_url=url).session_url == address


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("app.example.com/token", "--session-url app.example.com/token: must be http:// or https://"),
        ("wss://h/token", "--session-url wss://h/token: must be http:// or https://"),
        ("https://h/token?key=hunter2", "--session-url https://h/token: must be without user, password and"),
        ("https://me:hunter2@h/token", "--session-url https://h/token: must be without user, password and"),
        ("https://h/tök", "--session-url https://h/tök: write other characters than ASCII as %XX"),
        ("https://hö/", "--session-url https://hö/: write other characters than ASCII as %XX"),
    ],
)
def test_a_session_url_that_is_none(url: str, fault: str) -> None:
    (found,) = faults_of(session_url=url)
    assert found.startswith(fault)
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dispatch": "api"}, ["--dispatch api"]),
        ({"dispatch": "none", "order": "join-first"}, ["--dispatch none", "--order join-first"]),
        ({"dispatch": "mail"}, ["--dispatch mail"]),
        ({"session_body": "{"}, ["--session-body {"]),
        ({"session_body": '{"a": "{what}"}'}, ['--session-body {"a": "{what}"}']),
        ({"session_body": "{}", "metadata": "{}", "deployment": "x"}, ["--metadata", "--deployment"]),
    ],
)
def test_what_contradicts_a_session_url(options: dict[str, str], named: list[str]) -> None:
    found = faults_of(session_url=URL, **options)
    assert len(found) == len(named)
    assert all(fault.startswith(f"{name}: ") for fault, name in zip(found, named, strict=True))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"session_body": "{}"}, "--session-body: goes nowhere without --session-url"),
        ({"order": "session-first", "agent_name": "a"}, "--order session-first: needs --session-url"),
        (
            {"dispatch": "backend", "order": "dispatch-first"},
            "--order dispatch-first: with --dispatch backend",
        ),
    ],
)
def test_what_needs_a_session_url(options: dict[str, str], fault: str) -> None:
    (found,) = faults_of(**options)
    assert found.startswith(fault)


def test_a_body_has_placeholders_of_its_own_and_metadata_has_not() -> None:
    body = chosen(session_url=URL, session_body='{"room": "{room}", "n": 1}').session_body
    assert json.loads(body.render(0, {"room": "lobby"})) == {"room": "lobby", "n": 1}
    (fault,) = faults_of(agent_name="a", metadata='{"room": "{room}"}')
    assert "unknown placeholder {room}" in fault


def test_a_run_folder_gives_the_same_settings_but_for_the_body() -> None:
    given = chosen(session_url=URL, session_body='{"who": "{identity}"}', agent_name="a")
    info = RunInfo(run_id="r", started="", settings=given.options, users=50, target={}, versions={})
    again = info.run_settings()
    assert (again.session_url, again.dispatch, again.order) == (given.session_url, "backend", "session-first")
    assert given.options["session-body"] == "(given, not shown)"


# Headers, from the environment only.


def test_headers_of_the_environment() -> None:
    assert headers() == ()
    assert headers(LK_SESSION_AUTHORIZATION=" Bearer x ") == (("Authorization", "Bearer x"),)
    both = {
        "LK_SESSION_HEADERS": '{"X-Api-Key": "k", "authorization": "old"}',
        "LK_SESSION_AUTHORIZATION": "new",
    }
    assert headers(**both) == (("X-Api-Key", "k"), ("Authorization", "new"))


@pytest.mark.parametrize(
    "text",
    [
        "hunter2", '["hunter2"]', '{"A": 2}', '{"A B": "hunter2"}', '{"A\\r\\nX": "hunter2"}',
        '{"A": "hunter2\\r\\nX: y"}', '{"A": "hunter2\\u00e4"}', '{"Host": "hunter2"}',
        '{"content-LENGTH": "7"}', '{"A": ""}', "[" * 100_000,
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_headers_that_are_none(text: str) -> None:
    (fault,) = header_faults(LK_SESSION_HEADERS=text)
    assert "LK_SESSION_" in fault
    assert "hunter2" not in fault
    assert "\n" not in fault


def test_headers_are_in_no_text_of_the_settings() -> None:
    made = ProcessSettings.from_options(
        {"run_dir": tempfile.gettempdir()}, {"LK_SESSION_AUTHORIZATION": "Bearer hunter2"}
    )
    assert "hunter2" not in repr(made)


def test_no_option_holds_what_opens_the_backend() -> None:
    options = [*RUN_OPTIONS, *PROCESS_OPTIONS]
    named = {option.name for option in options if option.name.startswith("session-")}
    assert named == {"session-url", "session-body", "session-timeout"}


# Without a key.


@pytest.mark.parametrize(
    ("environ", "url", "key"),
    [
        ({}, "", ""),
        ({"LIVEKIT_URL": "ws://h:7880"}, "ws://h:7880", ""),
        ({"LIVEKIT_URL": "ws://h", **KEYS}, "ws://h", "APIa…"),
    ],
)
def test_a_target_without_a_key(environ: dict[str, str], url: str, key: str) -> None:
    found = Target.from_environment(environ, needs_key=False)
    assert (found.shown_url, found.shown_key) == (url, key)
    assert (found.is_known, found.has_key) == (bool(url), bool(key))


@pytest.mark.parametrize(
    ("environ", "lacking"),
    [
        ({"LIVEKIT_API_KEY": "k"}, ["LIVEKIT_URL", "LIVEKIT_API_SECRET"]),
        ({"LIVEKIT_API_SECRET": "s", "LIVEKIT_URL": "ws://h"}, ["LIVEKIT_API_KEY"]),
        ({"LIVEKIT_URL": "h"}, ["LIVEKIT_URL"]),
    ],
)
def test_half_a_key_is_none(environ: dict[str, str], lacking: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        Target.from_environment(environ, needs_key=False)
    assert [fault.split()[0] for fault in refused.value.faults] == lacking


NO_KEY = Target("h", 80, tls=False)
WITH_KEY = Target("h", 80, tls=False, key="k", secret="s")


@pytest.mark.parametrize(
    ("options", "target", "own", "fault"),
    [
        ({"session_url": URL}, NO_KEY, False, ""),
        ({"session_url": URL}, WITH_KEY, False, ""),
        ({"dispatch": "backend"}, NO_KEY, True, ""),
        ({"session_url": URL, "ice": "relay"}, WITH_KEY, False, ""),
        (
            {"dispatch": "backend"},
            WITH_KEY,
            False,
            "--dispatch backend: needs --session-url, or a locustfile",
        ),
        (
            {"session_url": URL},
            WITH_KEY,
            True,
            "--session-url: the locustfile's credentials() gets the tokens",
        ),
        (
            {"dispatch": "api"},
            WITH_KEY,
            True,
            "--dispatch api: the locustfile's credentials() gets the tokens",
        ),
        ({}, NO_KEY, False, "LIVEKIT_API_KEY is not set: this process can make no tokens"),
        ({"session_url": URL, "ice": "relay"}, NO_KEY, False, "--ice relay: without LIVEKIT_API_KEY"),
    ],
)
def test_who_gives_the_tokens(options: dict[str, str], target: Target, own: bool, fault: str) -> None:
    def read() -> Any:
        given = {"agent_name": "a", "slo": "count(lost) == 0", **options}
        return preflight.read_settings(given, 1, target, own_credentials=own)

    if not fault:
        assert read().dispatch == "backend"
        return
    with pytest.raises(Refused) as refused:
        read()
    (found,) = refused.value.faults
    assert found.startswith(fault)
