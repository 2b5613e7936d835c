"""Answers the server's ICE connectivity checks on a connection that is up.

A server checks each connection every two seconds. aioice takes such a request apart into objects and builds
its answer from objects, ten times the work of the rest of an idle user. Here request and answer stay bytes
(RFC 8489: 20-byte header, MESSAGE-INTEGRITY with SHA-1, FINGERPRINT). Whatever is not the plain case is
left to aioice.
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
_INTEGRITY = b"\x00\x08\x00\x14"
_FINGERPRINT = b"\x80\x28\x00\x04"
_INTEGRITY_BYTES, _FINGERPRINT_BYTES = 24, 8
_TAIL_BYTES = _INTEGRITY_BYTES + _FINGERPRINT_BYTES


def is_check(data: bytes) -> bool:
    """Does it look like a binding request that ``answer`` can take?"""
    return data[:2] == b"\x00\x01" and len(data) >= _HEADER.size + _TAIL_BYTES


def answer(request: bytes, password: bytes, address: tuple[str, int]) -> bytes | None:
    """The success response to a binding request from ``address`` (IPv4), signed with our ``password``.

    None where the request is not the plain case or its signature is not right.
    """
    integrity_at = len(request) - _TAIL_BYTES
    if (
        request[integrity_at : integrity_at + 4] != _INTEGRITY
        or request[-_FINGERPRINT_BYTES : -_FINGERPRINT_BYTES + 4] != _FINGERPRINT
        or ":" in address[0]
    ):
        return None
    kind, _, cookie, transaction = _HEADER.unpack_from(request)
    signed = bytearray(request[:integrity_at])
    # The length under the signature ends with the signature itself (RFC 8489, 14.5).
    struct.pack_into("!H", signed, 2, integrity_at + _INTEGRITY_BYTES - _HEADER.size)
    expected = request[integrity_at + 4 : integrity_at + _INTEGRITY_BYTES]
    if kind != _REQUEST or cookie != _COOKIE:
        return None
    if not hmac.compare_digest(hmac.digest(password, bytes(signed), "sha1"), expected):
        return None
    return _response(transaction, password, address)


def _response(transaction: bytes, password: bytes, address: tuple[str, int]) -> bytes:
    (host,) = struct.unpack("!I", socket.inet_aton(address[0]))
    mapped = _XOR_MAPPED_IPV4.pack(0x0020, 8, 0, 1, address[1] ^ (_COOKIE >> 16), host ^ _COOKIE)
    signed = _HEADER.pack(_RESPONSE, len(mapped) + _INTEGRITY_BYTES, _COOKIE, transaction) + mapped
    integrity = _INTEGRITY + hmac.digest(password, signed, "sha1")
    whole = _HEADER.pack(_RESPONSE, len(mapped) + _TAIL_BYTES, _COOKIE, transaction) + mapped + integrity
    fingerprint = (zlib.crc32(whole) & 0xFFFFFFFF) ^ _FINGERPRINT_XOR
    return whole + _FINGERPRINT + struct.pack("!I", fingerprint)
