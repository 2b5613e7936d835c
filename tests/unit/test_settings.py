from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from lk_users.errors import Refused
from lk_users.settings.options import PROCESS_OPTIONS, RUN_OPTIONS
from lk_users.settings.process import Influx, ProcessSettings
from lk_users.settings.run import Settings
from lk_users.settings.target import Target
from lk_users.settings.template import Template

if TYPE_CHECKING:
    from pathlib import Path

KEYS = {"LIVEKIT_API_KEY": "APIabcdefg", "LIVEKIT_API_SECRET": "very-secret-indeed"}


def faults_of(users: int = 50, **options: str) -> tuple[str, ...]:
    with pytest.raises(Refused) as refused:
        Settings.from_options({"agent_name": "a", **options}, users)
    return refused.value.faults


def target(url: str, **environ: str) -> Target:
    return Target.from_environment({"LIVEKIT_URL": url, **KEYS, **environ})


def test_defaults_of_options_are_the_defaults_of_settings() -> None:
    assert Settings.from_options({}, 5) == Settings(
        users=5,
        dispatch="none",
        order="join-first",
        options={option.name: option.default for option in RUN_OPTIONS},
    )


def test_options_have_names_and_variables() -> None:
    option = next(one for one in RUN_OPTIONS if one.name == "batch-size")
    assert (option.flag, option.dest, option.variable) == ("--batch-size", "batch_size", "LK_BATCH_SIZE")
    names = [one.name for one in (*RUN_OPTIONS, *PROCESS_OPTIONS)]
    assert len(names) == len(set(names))
    assert not {name for name in names if "key" in name or "secret" in name or "token" in name}


def test_values_are_parsed() -> None:
    chosen = Settings.from_options(
        {
            "agent_name": " a ",
            "batch_size": "10",
            "batch_delay": 0.5,
            "welcome": "audio, text",
            "bursts": "3",
            "agent_worker_url": "http://10.0.0.1:8081/, https://agents.example/one,http://10.0.0.1:8081",
        },
        50,
    )
    assert chosen.agent_worker_urls == ("http://10.0.0.1:8081", "https://agents.example/one")
    assert (chosen.agent_name, chosen.batch_size, chosen.batch_delay_s, chosen.bursts) == ("a", 10, 0.5, 3)
    assert chosen.welcome == {"audio", "text"}
    assert chosen.options["batch-delay"] == "0.5"


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"dispatch": "apo"}, ["--dispatch apo", "api, room, token, none"]),
        ({"order": "first"}, ["--order first", "dispatch-first, join-first"]),
        ({"release": "now"}, ["--release now", "barrier, free"]),
        ({"engine": "sdkk"}, ["--engine sdkk", "listen"]),
        ({"batch_size": "ten"}, ["--batch-size ten", "whole number"]),
        ({"batch_size": "-1"}, ["--batch-size -1", "at least 0"]),
        ({"batch_size": "51"}, ["--batch-size 51", "burst of 50"]),
        ({"batch_delay": "-1"}, ["--batch-delay -1", "at least 0"]),
        ({"mic": "loud"}, ["--mic loud", "silence, none"]),
        ({"ice": "tcp"}, ["--ice tcp", "auto, host, relay"]),
        ({"region_users": "us=30,eu"}, ["--region-users eu", "REGION=USERS"]),
        ({"region_users": "us=25,us=25"}, ["--region-users us=25", "each region once"]),
        ({"region_users": "us=-5,eu=55"}, ["--region-users us=-5", "REGION=USERS"]),
        ({"region_users": "us=30,eu=30"}, ["--region-users us=30,eu=30", "60 users", "burst has 50"]),
        ({"region_users": "us=50", "release": "free"}, ["--region-users", "for bursts only"]),
        ({"bursts": "0"}, ["--bursts 0", "at least 1"]),
        ({"bursts": "1.5"}, ["--bursts 1.5", "whole number"]),
        ({"burst_interval": "soon"}, ["--burst-interval soon", "a number"]),
        ({"course": "golf"}, ["--course golf", "bursts"]),
        ({"baseline": "one"}, ["--baseline one", "whole number"]),
        ({"baseline": "-1"}, ["--baseline -1", "at least 0"]),
        ({"baseline": "51"}, ["--baseline 51", "burst of 50"]),
        ({"baseline": "1", "release": "free"}, ["--baseline: is compared", "--release barrier"]),
        ({"control": "60"}, ["--control 60", "spread=60s"]),
        ({"control": "spread=0s"}, ["--control spread=0s", "above 0"]),
        ({"control": "spread=-5"}, ["--control spread=-5", "spread=60s"]),
        ({"control": "spread=1m"}, ["--control spread=1m", "seconds"]),
        ({"control": "spread=9s", "release": "free"}, ["--control: is compared", "--release barrier"]),
        ({"session_timeout": "0"}, ["--session-timeout 0", "at least 0.1"]),
        ({"session_timeout": "inf"}, ["--session-timeout inf"]),
        ({"session_timeout": "nan"}, ["--session-timeout nan"]),
        (
            {"agent_worker_url": "http://10.0.0.1:8081,ws://u:secret@10.0.0.2:8081"},
            ["--agent-worker-url ws://10.0.0.2:8081: must be http:// or https://", "http://127.0.0.1:8081"],
        ),
        ({"agent_worker_url": "10.0.0.1:8081"}, ["--agent-worker-url 10.0.0.1:8081", "must be http://"]),
        ({"agent_worker_url": "http://"}, ["--agent-worker-url http:", "a host and a port"]),
        ({"agent_worker_url": "http://a:99999"}, ["--agent-worker-url http://a:99999", "a host and a port"]),
        ({"agent_worker_url": "http://[::1"}, ["--agent-worker-url http://[::1", "a host and a port"]),
        ({"agent_worker_url": "http://a:1/x y"}, ["--agent-worker-url http://a:1/x y", "must be http://"]),
        ({"agent_worker_url": "http://u:secret@a:1"}, ["--agent-worker-url http://a:1", "without user"]),
        ({"agent_worker_url": "http://a:1?x=secret"}, ["--agent-worker-url http://a:1", "and query"]),
        ({"welcome": "audio,smell"}, ["--welcome smell", "state, track, audio, text"]),
        ({"welcome": " , "}, ["--welcome: empty"]),
        ({"welcome_timeout": "x"}, ["--welcome-timeout x"]),
        ({"watch": "x"}, ["--watch x"]),
        ({"metadata": "{"}, ["--metadata {", "not valid JSON"]),
        ({"metadata": '{"a": "{usr}"}'}, ["--metadata", "unknown placeholder {usr}", "{session_id}"]),
        ({"metadata": "@no/such.jsonl"}, ["--metadata @no/such.jsonl", "cannot be read"]),
        ({"attributes": '{"a": 1}'}, ["--attributes", "object of strings"]),
        ({"attributes": '["a"]'}, ["--attributes", "object of strings"]),
        ({"room_metadata": "nope"}, ["--room-metadata nope", "not valid JSON"]),
        ({"restart_policy": "always"}, ["--restart-policy always", "on-failure, never"]),
        (
            {"expect_text": "(welcome"},
            ["--expect-text (welcome", "unterminated subpattern at position 0", "for example 'welcome|"],
        ),
        (
            {"expect_text": "x{99999999999999}"},
            ["--expect-text x{99999999999999}", "not a regular expression"],
        ),
        ({"api_budget": "0"}, ["--api-budget 0", "at least 1"]),
        ({"park_timeout": "0"}, ["--park-timeout 0"]),
        ({"trailer_timeout": "0"}, ["--trailer-timeout 0"]),
        ({"max_start_error": "-1"}, ["--max-start-error -1"]),
        ({"max_stall": "x"}, ["--max-stall x"]),
        ({"max_clock_uncertainty": "x"}, ["--max-clock-uncertainty x"]),
    ],
)
def test_a_fault_is_one_line_with_option_value_and_remedy(options: dict[str, Any], parts: list[str]) -> None:
    (fault,) = faults_of(**options)
    assert "\n" not in fault
    for part in parts:
        assert part in fault


@pytest.mark.parametrize(
    ("options", "baseline"),
    [
        ({}, 0),
        ({"headless": True}, 1),
        ({"headless": False}, 0),
        ({"headless": True, "release": "free"}, 0),
        ({"headless": True, "engine": "idle"}, 0),
        ({"headless": True, "baseline": "0"}, 0),
        ({"headless": True, "baseline": "3"}, 3),
        ({"headless": False, "baseline": "3"}, 3),
        ({"headless": True, "engine": "idle", "baseline": "2"}, 2),
    ],
)
def test_where_nobody_watches_a_session_goes_before_the_burst(options: dict[str, Any], baseline: int) -> None:
    chosen = Settings.from_options({"agent_name": "a", **options}, 50)
    assert chosen.baseline == baseline
    # Shown is what was given.
    assert chosen.options["baseline"] == options.get("baseline", "")


@pytest.mark.parametrize(
    ("text", "spread_s"),
    [("", 0.0), ("spread=60s", 60.0), ("spread=60", 60.0), (" spread = 2.5 s ", 2.5)],
)
def test_a_control_is_spread_over_seconds(text: str, spread_s: float) -> None:
    assert Settings.from_options({"agent_name": "a", "control": text}, 50).control_s == spread_s


def test_users_of_each_region() -> None:
    chosen = Settings.from_options({"region_users": " us-east = 30, eu=20 "}, 50)
    assert chosen.region_users == {"us-east": 30, "eu": 20}


def test_a_worker_does_not_know_how_many_users_there_are() -> None:
    chosen = Settings.from_options({"region_users": "us=30,eu=20", "batch_size": "25"}, None)
    assert (chosen.users, chosen.batch_size, sum(chosen.region_users.values())) == (0, 25, 50)


def test_no_users() -> None:
    (fault,) = faults_of(users=0)
    assert fault.startswith("--users 0")


def test_all_faults_at_once() -> None:
    faults = faults_of(users=0, dispatch="x", bursts="y", welcome="z", metadata="{", restart_policy="w")
    named = [fault.split()[0] for fault in faults]
    assert named == ["--users", "--dispatch", "--bursts", "--welcome", "--metadata", "--restart-policy"]


@pytest.mark.parametrize(
    ("agent", "dispatch", "order", "result"),
    [
        ("a", "", "", ("api", "dispatch-first")),
        ("a", "api", "join-first", ("api", "join-first")),
        ("a", "room", "", ("room", "dispatch-first")),
        ("a", "token", "", ("token", "join-first")),
        ("", "", "", ("none", "join-first")),
        ("", "api", "", "--dispatch api: needs --agent-name"),
        ("", "room", "", "--dispatch room: needs --agent-name"),
        ("", "token", "", "--dispatch token: needs --agent-name"),
        ("a", "none", "", "--dispatch none: asks for the unnamed agent"),
        ("a", "token", "dispatch-first", "--order dispatch-first: with --dispatch token"),
        ("", "none", "dispatch-first", "--order dispatch-first: with --dispatch none"),
        ("a", "room", "join-first", "--order join-first: with --dispatch room"),
    ],
)
def test_dispatch_and_order(agent: str, dispatch: str, order: str, result: tuple[str, str] | str) -> None:
    options: dict[str, Any] = {"agent_name": agent, "dispatch": dispatch, "order": order}
    if isinstance(result, str):
        (fault,) = faults_of(**options)
        assert fault.startswith(result)
    else:
        chosen = Settings.from_options(options, 5)
        assert (chosen.dispatch, chosen.order) == result


@pytest.mark.parametrize(("given", "cloud", "budget"), [("", False, 0), ("", True, 900), ("60", True, 60)])
def test_api_budget(given: str, cloud: bool, budget: int) -> None:
    chosen = Settings.from_options({"agent_name": "a", "api_budget": given}, 5, cloud=cloud)
    assert chosen.api_budget_per_minute == budget


def test_template_fills_string_values_only_and_keeps_json_valid() -> None:
    text = '{"{burst}": "{session_id}", "n": [1, "{region}-{engine}"], "set": "{}", "x": {"y": "{burst}"}}'
    chosen = Settings.from_options({"metadata": text}, 5)
    values = {"session_id": 's"1', "engine": "listen", "burst": "2", "region": "eu"}
    assert json.loads(chosen.metadata.render(0, values)) == {
        "{burst}": 's"1',
        "n": [1, "eu-listen"],
        "set": "{}",
        "x": {"y": "2"},
    }
    assert Template().render(0, values) == ""


def test_a_value_does_not_become_a_placeholder() -> None:
    chosen = Settings.from_options({"metadata": '"{region}"'}, 5)
    values = {"session_id": "s", "engine": "e", "burst": "0", "region": "{session_id}"}
    assert chosen.metadata.render(0, values) == '"{session_id}"'


def test_template_file_cycles_by_ordinal_and_names_bad_lines(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text('{"a": 1}\n\n{"a": 2}\n')
    chosen = Settings.from_options({"metadata": f"@{file}"}, 5)
    assert [chosen.metadata.render(n, {}) for n in range(3)] == ['{"a": 1}', '{"a": 2}', '{"a": 1}']
    file.write_text('{"a": 1}\n{"a"\n')
    (fault,) = faults_of(metadata=f"@{file}")
    assert f"--metadata @{file} line 2: not valid JSON" in fault
    file.write_text("\n")
    assert "the file is empty" in faults_of(metadata=f"@{file}")[0]


@pytest.mark.parametrize(
    ("url", "http", "shown"),
    [
        ("ws://127.0.0.1:7880", "http://127.0.0.1:7880", "ws://127.0.0.1:7880"),
        ("wss://lk.example.com", "https://lk.example.com", "wss://lk.example.com"),
        ("http://lk.example.com/", "http://lk.example.com", "ws://lk.example.com"),
        (
            "https://lk.example.com:8443/sub/",
            "https://lk.example.com:8443/sub",
            "wss://lk.example.com:8443/sub",
        ),
        ("https://lk.example.com:443", "https://lk.example.com", "wss://lk.example.com"),
        ("ws://[::1]:7880/", "http://[::1]:7880", "ws://[::1]:7880"),
        (" wss://user:pw@lk.example.com?x=1 ", "https://lk.example.com", "wss://lk.example.com"),
    ],
)
def test_url_forms(url: str, http: str, shown: str) -> None:
    one = target(url)
    assert (one.http_url, one.shown_url) == (http, shown)


def test_host_and_port() -> None:
    assert (target("ws://h").port, target("wss://h").port, target("wss://h:1").port) == (80, 443, 1)
    assert target("ws://[::1]:7880").host == "::1"


@pytest.mark.parametrize("url", ["lk.example.com", "ftp://h", "ws://", "ws://h:x", "ws://h:99999", "ws:/h"])
def test_bad_urls_are_one_line(url: str) -> None:
    with pytest.raises(Refused) as refused:
        target(url)
    (fault,) = refused.value.faults
    assert fault.startswith(f"LIVEKIT_URL {url}: must be ws://")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ftp://me:hunter2@h?token=hunter2", "ftp://h"),
        ("ftp://me:hun@ter2@h/path", "ftp://h/path"),
        ("ws://me:hun/ter2@h:7880", "ws://h:7880"),
        ("me:hunter2@h:7880", "h:7880"),
        ("ws://me:hunter2@h:x#hunter2", "ws://h:x"),
        ("ftp://me:hun?ter2@h", "…"),
        ("ftp://h?token=hun@ter2", "…"),
    ],
)
def test_a_bad_url_is_shown_without_its_password_and_query(url: str, shown: str) -> None:
    with pytest.raises(Refused) as refused:
        target(url)
    (fault,) = refused.value.faults
    assert fault.startswith(f"LIVEKIT_URL {shown}: must be ws://")
    assert "ter2" not in fault


@pytest.mark.parametrize("given", ["p_", "x_4gzq81mx2tk", "4gzq81mx2tk", "p_4gz q81", "p_4gzq81/../x"])
def test_a_project_id_that_is_none(given: str) -> None:
    (fault,) = faults_of(project_id=given)
    assert fault.startswith(f"--project-id {given}: must be p_ and letters or digits")


def test_a_project_id() -> None:
    chosen = Settings.from_options({"agent_name": "a", "project_id": " p_4gzq81mx2tk "}, 1)
    assert chosen.project_id == chosen.options["project-id"] == "p_4gzq81mx2tk"


def test_everything_that_the_environment_lacks_is_listed() -> None:
    with pytest.raises(Refused) as refused:
        Target.from_environment({"LIVEKIT_API_KEY": " "})
    assert [fault.split()[0] for fault in refused.value.faults] == [
        "LIVEKIT_URL",
        "LIVEKIT_API_KEY",
        "LIVEKIT_API_SECRET",
    ]


def test_secrets_are_never_shown() -> None:
    one = target("wss://user:pw@h")
    shown = repr(one) + str(one) + one.shown_url + one.shown_key + one.http_url
    for secret in (KEYS["LIVEKIT_API_SECRET"], KEYS["LIVEKIT_API_KEY"], "pw"):
        assert secret not in shown
    assert one.shown_key == "APIa…"


@pytest.mark.parametrize(
    ("url", "cloud"),
    [
        ("wss://x.livekit.cloud", True),
        ("wss://livekit.cloud.example.com", False),
        ("ws://localhost", False),
    ],
)
def test_cloud(url: str, cloud: bool) -> None:
    assert target(url).cloud is cloud


def test_process_settings(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "runs"
    chosen = ProcessSettings.from_options({"region": "eu-1", "run_dir": str(folder), "allow_cloud": "yes"})
    assert chosen == ProcessSettings(region="eu-1", run_dir=folder, allow_cloud=True)
    assert list(folder.iterdir()) == []


def test_process_faults_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(Refused) as refused:
        ProcessSettings.from_options({"region": "e u", "run_dir": str(file / "x"), "allow_cloud": "maybe"})
    faults = refused.value.faults
    assert [fault.split()[0] for fault in faults] == ["--region", "--allow-cloud", "--run-dir"]
    assert "'e u'" in faults[0]


def test_an_expected_text_is_required() -> None:
    plain = Settings.from_options({}, 5)
    assert (plain.expect_text, plain.welcome) == ("", frozenset({"audio"}))
    chosen = Settings.from_options({"expect_text": "(?i)wel.ome", "welcome": "state"}, 5)
    assert (chosen.expect_text, chosen.welcome) == ("(?i)wel.ome", frozenset({"state", "text"}))


def test_the_database_is_one_of_the_process() -> None:
    assert Influx.from_options({}, {"INFLUX_TOKEN": "t"}) is None
    found = Influx.from_options({"influx_url": "http://127.0.0.1:8086/"}, {"INFLUX_TOKEN": " tok=en== "})
    assert found == Influx("http://127.0.0.1:8086", "lk-users", "lk-users", "tok=en==")
    assert "tok=en" not in repr(found)


@pytest.mark.parametrize(
    ("options", "token", "faults"),
    [
        ({"influx_url": "127.0.0.1:8086"}, "t", ["--influx-url 127.0.0.1:8086: must be http:// or https://"]),
        (
            {"influx_url": "http://user:hunter2@db"},
            "t",
            ["--influx-url http://db: must be without user, password and query"],
        ),
        ({"influx_url": "http://db:8086"}, "", ["INFLUX_TOKEN is not set: --influx-url needs a token"]),
        ({"influx_url": "http://db:8086"}, "hun\nter2", ["INFLUX_TOKEN has characters that no token has"]),
        (
            {"influx_url": "http://db:8086", "influx_org": "", "influx_bucket": " "},
            "",
            ["--influx-org: empty", "--influx-bucket: empty", "INFLUX_TOKEN is not set"],
        ),
    ],
)
def test_a_database_that_can_be_known_to_fail(
    options: dict[str, str], token: str, faults: list[str], tmp_path: Path
) -> None:
    environ = {"INFLUX_TOKEN": token}
    with pytest.raises(Refused) as refused:
        ProcessSettings.from_options({"run_dir": str(tmp_path), **options}, environ)
    assert len(refused.value.faults) == len(faults)
    for found, expected in zip(refused.value.faults, faults, strict=True):
        assert found.startswith(expected)
        assert "hunter2" not in found
        assert "hun" not in found
