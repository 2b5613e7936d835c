"""Our answers to connectivity checks against aioice's own."""

from __future__ import annotations

from aioice import stun

from lk_users.wire.keepalive import Checks, check_attributes, is_request, is_response

OWN, SERVERS = "a" * 22, "s" * 32
ADDRESS = ("127.0.0.1", 40123)
CHECKS = Checks(
    ADDRESS, OWN, SERVERS, check_attributes("theirs:ours", 1853817087, 7, controlling=True)
)  # fmt: skip


def request(password: str = OWN) -> bytes:
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
    theirs.add_message_integrity(OWN.encode())

    assert CHECKS.answer(bytes(asked)) == bytes(theirs)


def test_a_wrong_signature_is_left_to_aioice() -> None:
    assert CHECKS.answer(request(SERVERS)) is None


def test_a_changed_request_is_left_to_aioice() -> None:
    data = bytearray(request())
    data[25] ^= 1
    assert CHECKS.answer(bytes(data)) is None


def test_an_ipv6_peer_is_left_to_aioice() -> None:
    assert Checks(("::1", 40123), OWN, SERVERS, b"").answer(request()) is None


def response(transaction: bytes, password: str = SERVERS) -> bytes:
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
    theirs.add_message_integrity(SERVERS.encode())

    assert CHECKS.check(b"t" * 12) == bytes(theirs)


def test_only_the_signed_answer_to_our_own_check_confirms() -> None:
    assert CHECKS.confirms(response(b"t" * 12), b"t" * 12)
    assert not CHECKS.confirms(response(b"x" * 12), b"t" * 12)
    assert not CHECKS.confirms(response(b"t" * 12, OWN), b"t" * 12)
