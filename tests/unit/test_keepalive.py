"""Our answers to connectivity checks against aioice's own."""

from __future__ import annotations

from aioice import stun

from lk_users.wire.keepalive import answer, is_check

PASSWORD = "a" * 22
ADDRESS = ("127.0.0.1", 40123)


def request(password: str = PASSWORD) -> bytes:
    message = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    message.attributes["USERNAME"] = "ours:theirs"
    message.attributes["PRIORITY"] = 1853817087
    message.attributes["ICE-CONTROLLED"] = 7
    message.add_message_integrity(password.encode())
    return bytes(message)


def test_the_answer_is_the_one_that_aioice_gives() -> None:
    asked = stun.parse_message(request())
    theirs = stun.Message(
        message_method=stun.Method.BINDING,
        message_class=stun.Class.RESPONSE,
        transaction_id=asked.transaction_id,
    )
    theirs.attributes["XOR-MAPPED-ADDRESS"] = ADDRESS
    theirs.add_message_integrity(PASSWORD.encode())

    assert answer(bytes(asked), PASSWORD.encode(), ADDRESS) == bytes(theirs)


def test_a_wrong_signature_is_left_to_aioice() -> None:
    assert answer(request("b" * 22), PASSWORD.encode(), ADDRESS) is None


def test_a_changed_request_is_left_to_aioice() -> None:
    data = bytearray(request())
    data[25] ^= 1
    assert answer(bytes(data), PASSWORD.encode(), ADDRESS) is None


def test_an_ipv6_peer_is_left_to_aioice() -> None:
    assert answer(request(), PASSWORD.encode(), ("::1", 40123)) is None


def test_only_binding_requests_look_like_checks() -> None:
    response = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.RESPONSE)
    response.add_message_integrity(PASSWORD.encode())
    assert is_check(request())
    assert not is_check(bytes(response))
    assert not is_check(b"\x00\x01short")
