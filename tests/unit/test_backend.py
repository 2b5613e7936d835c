"""The user's own backend: bytes of its request, and answers of all kinds, the hostile ones too."""

from __future__ import annotations

import base64
import json
import random
from typing import TYPE_CHECKING, Any

import pytest
import virtual as v
from builders import RUN_ID, settings

from lk_users.address import Address
from lk_users.engines.opening import Given, Opening, way_in
from lk_users.errors import BackendError, HttpError, WireError
from lk_users.plan import planned
from lk_users.wire.backend import MAX_TOKEN_CHARS, Backend, Ticket, headers, read_answer, read_ticket
from lk_users.wire.exchange import MAX_BODY_BYTES

if TYPE_CHECKING:
    import asyncio

    from virtual import VirtualClock

    from lk_users.plan import PlannedSession

URL = "https://app.example.com:8443/api/token"
SERVER = "wss://lk.example.com/path"
SECRET = "Bearer app-key-hunter2"


def token(video: Any = None, **claims: Any) -> str:
    """A JWT whose signature is nobody's."""
    body = {"sub": "someone", "video": {"room": "lobby", "roomJoin": True} if video is None else video}
    parts = [{"alg": "HS256", "typ": "JWT"}, {**body, **claims}]
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*coded, "c2lnbmF0dXJl"])


def answer(**changes: Any) -> bytes:
    given = {"server_url": SERVER, "participant_token": token(), **changes}
    return json.dumps({name: value for name, value in given.items() if value is not ...}).encode()


def read(body: bytes, *, allow_cloud: bool = False) -> Ticket:
    return read_answer(body, allow_cloud=allow_cloud)


# What it is sent.


def test_the_standard_s_request() -> None:
    chosen = settings(
        1, session_url=URL, metadata='{"id": "{session_id}"}', attributes='{"plan": "scale"}',
        room_metadata='"note"', deployment="blue", restart_policy="never",
    )  # fmt: skip
    item = planned(RUN_ID, 1, 0, chosen, "eu")
    assert sent(item, **changes_of(chosen)) == {
        "room_name": item.room,
        "participant_identity": "user-0",
        "participant_attributes": {"plan": "scale"},
        "room_config": {
            "metadata": '"note"',
            "agents": [
                {
                    "agent_name": "front-desk",
                    "metadata": json.dumps({"id": item.session_id}),
                    "deployment": "blue",
                    "restart_policy": "JRP_NEVER",
                }
            ],
        },
    }


def test_without_an_agent_name_the_backend_knows() -> None:
    chosen = settings(1, session_url=URL, agent_name="")
    item = planned(RUN_ID, 1, 0, chosen, "eu")
    assert sent(item, **changes_of(chosen)) == {"room_name": item.room, "participant_identity": "user-0"}


def test_a_body_of_the_user_s_own() -> None:
    body = '{"call": {"to": "{agent_name}", "room": "{room}", "who": ["{identity}", "{region}", 7]}}'
    chosen = settings(1, session_url=URL, session_body=body)
    item = planned(RUN_ID, 1, 0, chosen, "eu")
    assert sent(item, **changes_of(chosen)) == {
        "call": {"to": "front-desk", "room": item.room, "who": ["user-0", "eu", 7]}
    }


def test_the_bytes_are_one_post_with_the_user_s_headers() -> None:
    request = post(planned(RUN_ID, 1, 0, settings(1, session_url=URL), "eu"), session_url=URL)
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first == "POST /api/token HTTP/1.1"
    assert dict(line.split(": ", 1) for line in lines) == {
        "Host": "app.example.com:8443",
        "Content-Type": "application/json",
        "Accept": "application/json",
        "User-Agent": "lk-users/0.1.0",
        "Authorization": SECRET,
        "Content-Length": str(len(body)),
    }


def test_the_user_s_headers_win() -> None:
    own = (("user-agent", "browser"), ("X-Api-Key", "k"))
    assert headers(own) == [
        ("Content-Type", "application/json"), ("Accept", "application/json"), *own,
    ]  # fmt: skip


# What it answers.


@pytest.mark.parametrize(
    "names",
    [
        ("server_url", "participant_token"),
        ("serverUrl", "participantToken"),
        ("serverUrl", "participant_token"),
    ],
)
def test_an_answer_in_either_spelling(names: tuple[str, str]) -> None:
    body = json.dumps({"roomName": "x", names[0]: SERVER, names[1]: token(), "extra": [1]}).encode()
    address = Address("lk.example.com", 443, tls=True, path="/path")
    assert read(body) == Ticket(address, token(), "lobby")


def test_a_null_beside_the_other_spelling() -> None:
    body = answer(server_url=None, serverUrl="ws://[::1]:7880")
    assert read(body).address == Address("::1", 7880, tls=False)


def test_the_room_is_the_token_s() -> None:
    assert read(answer(room_name="another", participant_token=token({"room": "Küche 7"}))).room == "Küche 7"


OTHER_THAN_JWTS: tuple[Any, ...] = ("", "abc", 7, {}, "a.b.c")
NO_TOKEN = "participant_token is no JWT"
NO_ROOM = "participant_token names no room to join"
NO_URL = "server_url is not ws:// or wss:// and a host"


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"", "its answer is no JSON"),
        (b"<html>502</html>", "its answer is no JSON"),
        (b"\xff\xfe{}", "its answer is no JSON"),
        (b"[" * 200_000, "its answer is no JSON"),
        (b"[]", "its answer is no JSON object"),
        (b"null", "its answer is no JSON object"),
        (b'"eyJ"', "its answer is no JSON object"),
        (b"{}", "its answer has no server_url (it has nothing)"),
        (answer(server_url=...), "its answer has no server_url (it has participant_token)"),
        (answer(participant_token=...), "its answer has no participant_token (it has server_url)"),
        (answer(participant_token=None), "its answer has no participant_token (it has server_url, parti"),
        (answer(server_url=7), "server_url is no text"),
        (answer(server_url=""), "server_url is no text"),
        *((answer(server_url=url), NO_URL) for url in (
            "lk.example.com", "ftp://h", "javascript:alert(1)", "ws://", "ws://:7880", "ws://h:0", "ws://h:99999",
            "ws://[::1", "ws://h/a b", "ws://h/\r\nX: y", "ws://h\r\nX: y/",
            "ws://h\tx", "ws://h\u00e4", "ws://h/\u00e4",
        )),
        *((answer(participant_token=text), NO_TOKEN) for text in (
            *OTHER_THAN_JWTS, token() + "\r\nX: y", token() + ".x", "eyJ.e30",
            token().replace(".", " ."),
            token(junk="x" * MAX_TOKEN_CHARS),
        )),
        *((answer(participant_token=text), NO_ROOM) for text in (
            token({}), token({"room": ""}), token({"room": 7}), token({"room": None}), token([]),
            token("room"),
            token({"room": "x" * 600}), token({"room": "a\nb"}), token({"room": token()}),
            "eyJhbGciOiJub25lIn0.bm90IGpzb24.x", "eyJhbGciOiJub25lIn0._w.x", "eyJhbGciOiJub25lIn0.W10.x",
            "eyJhbGciOiJub25lIn0." + base64.urlsafe_b64encode(b"[" * 30_000).decode().rstrip("=") + ".x",
        )),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_an_answer_to_join_with_nothing(body: bytes, cause: str) -> None:
    with pytest.raises(BackendError) as caught:
        read(body)
    assert caught.value.cause.startswith(cause)
    assert "eyJ" not in caught.value.cause
    assert len(caught.value.cause) < 500


def test_an_answer_with_random_damage_gives_a_ticket_or_a_cause() -> None:
    rng = random.Random(8)
    whole = answer()
    for _ in range(3_000):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        cut = damaged[: rng.randint(0, len(damaged))] if rng.random() < 0.2 else damaged
        ticket, cause = ticket_or_cause(bytes(cut))
        assert "eyJ" not in cause
        assert ticket is None or (ticket.address.is_plain and ticket.token.isascii())
        assert ticket is None or ticket.token.isprintable()


def ticket_or_cause(body: bytes) -> tuple[Ticket | None, str]:
    try:
        return read(body), ""
    except BackendError as exc:
        return None, exc.cause


@pytest.mark.parametrize(
    "host", ["p.livekit.cloud", "P.LiveKit.Cloud", "p.livekit.cloud.", "a.b.livekit.cloud"]
)
def test_livekit_cloud_only_where_that_is_meant(host: str) -> None:
    body = answer(server_url=f"wss://{host}")
    with pytest.raises(BackendError, match=r"leads to LiveKit Cloud .* not joined without --allow-cloud yes"):
        read(body)
    assert read(body, allow_cloud=True).address.cloud


def test_a_token_is_not_in_its_ticket_s_text() -> None:
    assert "eyJ" not in repr(read(answer()))
    assert "hunter2" not in repr(Backend(endpoint=None, path="/", headers=(("A", SECRET),)))  # type: ignore[arg-type]


def test_credentials_are_read_by_the_same_rules() -> None:
    assert read_ticket("ws://h", token(), allow_cloud=False) == Ticket(
        Address("h", 80, tls=False), token(), "lobby"
    )
    with pytest.raises(BackendError, match="Cloud"):
        read_ticket("wss://p.livekit.cloud", token(), allow_cloud=False)


# The request on its way, and its answer to the session.


class Told:
    """What the session hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def room_is(self, room: str) -> None:
        self.heard.append(room)

    def session_created(self) -> None:
        self.heard.append("created")

    def session_failed(self, error: WireError) -> None:
        self.heard.append(error)


class Pipe:
    """An endpoint that keeps what is loaded; nothing is sent."""

    host_header = "app.example.com:8443"
    tls = None


def changes_of(chosen: Any) -> dict[str, Any]:
    return {"chosen": chosen}


def opening(item: PlannedSession, told: Told, chosen: Any) -> Opening:
    backend = Backend(Pipe(), "/api/token", (("Authorization", SECRET),))  # type: ignore[arg-type]
    around: Any = type("Around", (), {"backend": backend, "clock": v.VirtualClock(), "keys": None})
    made = way_in(item, chosen, around, told, None)  # type: ignore[arg-type]
    assert isinstance(made, Opening)
    return made


def post(item: PlannedSession, *, session_url: str = URL, chosen: Any = None) -> bytes:
    """The bytes that would be written at T0."""

    async def work(clock: VirtualClock) -> bytes:
        made = opening(item, Told(), chosen or settings(1, session_url=session_url))
        request = made._request
        request._endpoint = replace_connect(request)
        await made.arm()
        return request._plain

    return v.in_virtual_time(work)


def replace_connect(request: Any) -> Any:
    async def connect(protocol: asyncio.Protocol) -> None: ...

    endpoint: Any = Pipe()
    endpoint.connect = connect
    return endpoint


def sent(item: PlannedSession, *, chosen: Any) -> Any:
    return json.loads(post(item, chosen=chosen).partition(b"\r\n\r\n")[2])


def answered(raw: bytes, *, then_cut: bool = False) -> list[object]:
    """What a session hears of an answer's bytes."""
    told = Told()

    async def work(clock: VirtualClock) -> None:
        chosen = settings(1, session_url=URL)
        made = opening(planned(RUN_ID, 1, 0, chosen, "eu"), told, chosen)
        made._request._endpoint = replace_connect(made._request)
        await made.arm()
        made._request.fired_ns = 1
        made._request.data_received(raw)
        if then_cut:
            made._request.connection_lost(None)

    v.in_virtual_time(work)
    return told.heard


def http(status: str, body: bytes, *extra: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *extra])
    return head.encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize("status", ["200 OK", "201 Created"])
def test_the_session_hears_the_room_and_then_that_it_is_created(status: str) -> None:
    assert answered(http(status, answer())) == ["lobby", "created"]


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (http("429 Too Many Requests", b"slow down", "Retry-After: 3"), "HTTP 429: slow down"),
        (http("500 Oops", b"at line 7"), "HTTP 500: at line 7"),
        (http("308 Permanent Redirect", b"", "Location: /api/token/"), "HTTP 308"),
        (http("401 No", f"bad key {SECRET}, or app-key-hunter2?".encode()), "HTTP 401: bad key …, or …?"),
        (http("403 No", f"not with {token()}".encode()), "HTTP 403: not with (token)"),
        (http("204 No Content", b""), "its answer is no JSON"),
        (http("200 OK", b"x" * (MAX_BODY_BYTES + 1)), "answer too large"),
        (b"SSH-2.0-OpenSSH app-key-hunter2\r\n\r\n", "not understood: Expected HTTP/"),
    ],
)
def test_the_session_hears_why_there_is_none(raw: bytes, cause: str) -> None:
    (error,) = answered(raw)
    assert isinstance(error, WireError)
    assert error.cause.startswith(cause)
    assert "hunter2" not in error.cause
    if isinstance(error, HttpError):
        assert error.status == int(raw.split()[1])


def test_an_answer_that_ends_early() -> None:
    (error,) = answered(http("200 OK", answer())[:-5], then_cut=True)
    assert isinstance(error, WireError)
    assert error.cause == "closed by the server"


# Credentials of the locustfile.


@pytest.mark.parametrize("given", [None, BackendError("credentials() raised KeyError")])
def test_credentials_that_are_none(given: BackendError | None) -> None:
    chosen = settings(1, dispatch="backend")
    made = way_in(planned(RUN_ID, 1, 0, chosen, "eu"), chosen, None, Told(), given)  # type: ignore[arg-type]
    with pytest.raises(BackendError, match=r"credentials\(\)"):
        made.ticket()


def test_credentials_tell_their_room() -> None:
    told = Told()
    ticket = read_ticket(SERVER, token(), allow_cloud=False)

    async def work(clock: VirtualClock) -> None:
        made = Given(ticket, told)  # type: ignore[arg-type]
        assert made.ticket() is ticket
        await made.arm()

    v.in_virtual_time(work)
    assert told.heard == ["lobby"]
