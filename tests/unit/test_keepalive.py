"""Our answers to connectivity checks against aioice's own."""

from __future__ import annotations

from aioice import stun

from lk_users.wire.keepalive import answer, check, check_attributes, confirms, is_request, is_response

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


def response(transaction: bytes, password: str = PASSWORD) -> bytes:
    message = stun.Message(
        message_method=stun.Method.BINDING, message_class=stun.Class.RESPONSE, transaction_id=transaction
    )
    message.attributes["XOR-MAPPED-ADDRESS"] = ADDRESS
    message.add_message_integrity(password.encode())
    return bytes(message)


def test_requests_and_responses_are_told_apart() -> None:
    assert (is_request(request()), is_response(request())) == (True, False)
    assert (is_request(response(b"t" * 12)), is_response(response(b"t" * 12))) == (False, True)
    assert not is_request(b"\x00\x01short")
    assert not is_response(b"\x01\x01short")


def test_our_check_is_the_one_that_aioice_builds() -> None:
    theirs = stun.Message(
        message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST, transaction_id=b"t" * 12
    )
    theirs.attributes["USERNAME"] = "theirs:ours"
    theirs.attributes["PRIORITY"] = 1853817087
    theirs.attributes["ICE-CONTROLLING"] = 7
    theirs.add_message_integrity(PASSWORD.encode())
    attributes = check_attributes("theirs:ours", 1853817087, 7, controlling=True)

    assert check(b"t" * 12, attributes, PASSWORD.encode()) == bytes(theirs)


def test_only_the_signed_answer_to_our_own_check_confirms() -> None:
    assert confirms(response(b"t" * 12), b"t" * 12, PASSWORD.encode())
    assert not confirms(response(b"x" * 12), b"t" * 12, PASSWORD.encode())
    assert not confirms(response(b"t" * 12, "b" * 22), b"t" * 12, PASSWORD.encode())
