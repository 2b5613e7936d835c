from __future__ import annotations

from livekit.protocol import rtc as messages

from lk_users.wire.turn import MediaWay, turns


def server(*urls: str, username: str = "u", credential: str = "c") -> messages.ICEServer:
    return messages.ICEServer(urls=urls, username=username, credential=credential)


def test_the_best_way_comes_first_whatever_the_server_names_first() -> None:
    found = turns(
        [
            server("stun:10.0.0.1:3478", "stuns:10.0.0.1"),
            server("turns:turn.example.com:443?transport=tcp", "turn:10.0.0.1:3478?transport=tcp"),
            server("turn:10.0.0.1:3478?transport=udp", username="other", credential="word"),
        ]
    )
    assert [(turn.way, turn.url) for turn in found] == [
        (MediaWay.TURN_UDP, "turn:10.0.0.1:3478?transport=udp"),
        (MediaWay.TURN_TCP, "turn:10.0.0.1:3478?transport=tcp"),
        (MediaWay.TURN_TLS, "turns:turn.example.com:443?transport=tcp"),
    ]
    assert [(turn.username, turn.credential) for turn in found] == [("other", "word"), ("u", "c"), ("u", "c")]


def test_transports_that_a_url_leaves_out() -> None:
    """RFC 7065: UDP without TLS, TCP with it."""
    assert [turn.way for turn in turns([server("turn:a", "turns:a")])] == [
        MediaWay.TURN_UDP,
        MediaWay.TURN_TLS,
    ]


def test_dtls_is_none_of_the_ways() -> None:
    assert turns([server("turns:a?transport=udp")]) == []


def test_the_credential_is_not_shown() -> None:
    (turn,) = turns([server("turn:a", credential="hidden")])
    assert "hidden" not in repr(turn)
