"""ICE's checks on a connection that is up, as bytes: the server's are answered, our own are asked.

A server checks each connection every two seconds, and we check ours every five (consent, RFC 7675). aioice
takes each message apart into objects and builds it from objects, which is most of what an idle user costs.
Here they stay bytes (RFC 8489: 20-byte header, attributes, MESSAGE-INTEGRITY with SHA-1, FINGERPRINT).
Whatever is not the plain case is left to aioice.
"""

from __future__ import annotations

import hmac
import socket
import struct
import zlib

_HEADER = struct.Struct("!HHI12s")
_XOR_MAPPED_IPV4 = struct.Struct("!HHBBHI")
_REQUEST, _RESPONSE = 0x0001, 0x0101
_COOKIE = 0x2112A442
_FINGERPRINT_XOR = 0x5354554E
_USERNAME, _XOR_MAPPED_ADDRESS, _PRIORITY, _CONTROLLED, _CONTROLLING = 0x0006, 0x0020, 0x0024, 0x8029, 0x802A
_INTEGRITY = b"\x00\x08\x00\x14"
_FINGERPRINT = b"\x80\x28\x00\x04"
_INTEGRITY_BYTES, _FINGERPRINT_BYTES = 24, 8
_TAIL_BYTES = _INTEGRITY_BYTES + _FINGERPRINT_BYTES
TRANSACTION_BYTES = 12


def is_request(data: bytes) -> bool:
    """Does it look like a binding request that ``Checks.answer`` can take?"""
    return data[:2] == b"\x00\x01" and len(data) >= _HEADER.size + _TAIL_BYTES


def is_response(data: bytes) -> bool:
    """Does it look like a success response that ``Checks.confirms`` can take?"""
    return data[:2] == b"\x01\x01" and len(data) >= _HEADER.size + _TAIL_BYTES


class Checks:
    """The checks of one pair of addresses, with all that they have in common made once.

    ``address``: the server's, as host and port; ``own_password``, ``server_password``: what each side's
    checks are signed with; ``attributes``: of our own checks (``check_attributes``).
    """

    def __init__(
        self, address: tuple[str, int], own_password: str, server_password: str, attributes: bytes
    ) -> None:
        self.address = address
        self._own_password = own_password.encode()
        self._server_password = server_password.encode()
        self._attributes = attributes
        self._mapped = b"" if ":" in address[0] else _mapped(*address)

    def answer(self, request: bytes) -> bytes | None:
        """The success response to the server's binding request.

        None where the request is not the plain case (IPv4, for one) or its signature is not right.
        """
        kind, _, cookie, transaction = _HEADER.unpack_from(request)
        if kind != _REQUEST or cookie != _COOKIE or not self._mapped:
            return None
        if not _is_signed(request, self._own_password):
            return None
        return _signed(_RESPONSE, transaction, self._mapped, self._own_password)

    def check(self, transaction: bytes) -> bytes:
        """Our own binding request."""
        return _signed(_REQUEST, transaction, self._attributes, self._server_password)

    def confirms(self, response: bytes, transaction: bytes) -> bool:
        """Is it the server's success response to our check of that transaction?"""
        kind, _, cookie, answered = _HEADER.unpack_from(response)
        known = kind == _RESPONSE and cookie == _COOKIE and answered == transaction
        return known and _is_signed(response, self._server_password)


def check_attributes(username: str, priority: int, tie_breaker: int, *, controlling: bool) -> bytes:
    """The attributes of our own check, the same each time."""
    name = username.encode()
    role = _CONTROLLING if controlling else _CONTROLLED
    return (
        struct.pack("!HH", _USERNAME, len(name)) + name + bytes(-len(name) % 4)
        + struct.pack("!HHI", _PRIORITY, 4, priority)
        + struct.pack("!HHQ", role, 8, tie_breaker)
    )  # fmt: skip


def _mapped(host: str, port: int) -> bytes:
    """XOR-MAPPED-ADDRESS of an IPv4 address."""
    (number,) = struct.unpack("!I", socket.inet_aton(host))
    port ^= _COOKIE >> 16
    return _XOR_MAPPED_IPV4.pack(_XOR_MAPPED_ADDRESS, 8, 0, 1, port, number ^ _COOKIE)


def _is_signed(message: bytes, password: bytes) -> bool:
    """Does it end with the right integrity and a fingerprint?"""
    integrity_at = len(message) - _TAIL_BYTES
    if message[integrity_at : integrity_at + 4] != _INTEGRITY:
        return False
    if message[-_FINGERPRINT_BYTES : -_FINGERPRINT_BYTES + 4] != _FINGERPRINT:
        return False
    signed = bytearray(message[:integrity_at])
    # The length under the signature ends with the signature itself (RFC 8489, 14.5).
    struct.pack_into("!H", signed, 2, integrity_at + _INTEGRITY_BYTES - _HEADER.size)
    found = message[integrity_at + 4 : integrity_at + _INTEGRITY_BYTES]
    return hmac.compare_digest(hmac.digest(password, bytes(signed), "sha1"), found)


def _signed(kind: int, transaction: bytes, attributes: bytes, password: bytes) -> bytes:
    """A message with integrity and fingerprint."""
    signed = _HEADER.pack(kind, len(attributes) + _INTEGRITY_BYTES, _COOKIE, transaction) + attributes
    integrity = _INTEGRITY + hmac.digest(password, signed, "sha1")
    whole = _HEADER.pack(kind, len(attributes) + _TAIL_BYTES, _COOKIE, transaction) + attributes + integrity
    fingerprint = (zlib.crc32(whole) & 0xFFFFFFFF) ^ _FINGERPRINT_XOR
    return whole + _FINGERPRINT + struct.pack("!I", fingerprint)
