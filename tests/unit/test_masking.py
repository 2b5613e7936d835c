from __future__ import annotations

import pytest
from livekit import api

from lk_users.errors import ConnectionCut, HttpError
from lk_users.masking import masked
from lk_users.settings.options import TEMPLATE_OPTIONS
from lk_users.settings.reader import NOT_SHOWN
from lk_users.settings.run import Settings
from lk_users.wire.api import Keys, user_token

KEY, SECRET = "APIxK93jdk2", "a-secret-of-at-least-thirty-two-bytes"
JWT = user_token(Keys(KEY, SECRET), "room", "me")


def test_what_livekit_server_answers_to_a_bad_token_is_masked() -> None:
    error = HttpError(401, f"invalid token: {JWT}, error: token signature is invalid: signature is invalid")
    expected = "HTTP 401: invalid token: (token), error: token signature is invalid: signature is invalid"
    assert error.cause == str(error) == expected
    assert ConnectionCut(f"closed: {JWT}").cause == "closed: (token)"


@pytest.mark.parametrize("length", [3, 4, 20, 60, len(JWT) - 1])
def test_a_token_that_was_cut_is_masked_too(length: int) -> None:
    assert masked(f"Bearer {JWT[:length]}") == "Bearer (token)"


def test_of_a_key_the_first_four_characters_stay() -> None:
    assert HttpError(401, f"invalid API key: {KEY}").cause == "HTTP 401: invalid API key: APIx…"


def test_a_url_keeps_its_host_alone() -> None:
    assert (
        masked("GET http://me:hunter2@h:8081/worker?a=b@c failed") == "GET http://h:8081/worker?a=b@c failed"
    )


@pytest.mark.parametrize(
    "text",
    ["job AJ_eyJhbGciOi is running on AW_1", "Jeyjoy", "no API key", "permissions denied", ""],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert masked(text) == text


def test_an_error_is_cut_behind_the_token() -> None:
    long = HttpError(401, f"invalid token: {JWT}, error: {'x' * 500}")
    assert long.cause.startswith("HTTP 401: invalid token: (token), error: xxx")
    assert len(long.cause) == len("HTTP 401: ") + 200


def test_masking_knows_what_a_token_looks_like() -> None:
    for token in (JWT, api.AccessToken(KEY, SECRET).with_grants(api.VideoGrants(agent=True)).to_jwt()):
        assert masked(token) == "(token)"


def test_of_templates_a_report_says_only_that_there_were_some() -> None:
    given = {"metadata": '{"crm": "hunter2"}', "attributes": '{"plan": "x"}', "room_metadata": '"hunter2"'}
    chosen = Settings.from_options({"agent_name": "a", **given}, 1)
    body = {"session_url": "http://h/token", "session_body": '{"crm": "hunter2"}'}
    backed = Settings.from_options({"agent_name": "a", **body}, 1)
    shown = {name: chosen.options[name] or backed.options[name] for name in TEMPLATE_OPTIONS}
    assert shown == dict.fromkeys(TEMPLATE_OPTIONS, NOT_SHOWN)
    assert chosen.metadata.render(0, {}) == '{"crm": "hunter2"}'
    assert Settings.from_options({"agent_name": "a"}, 1).options["metadata"] == ""


def test_what_no_option_is_meant_for_is_masked_where_a_report_has_it() -> None:
    chosen = Settings.from_options({"agent_name": "a", "deployment": f"https://me:pw@h/{JWT}"}, 1)
    assert chosen.options["deployment"] == "https://h/(token)"
