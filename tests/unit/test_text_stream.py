from __future__ import annotations

from livekit.protocol import models

from lk_users.wire.text_stream import CHAT, TRANSCRIPTION, TextPiece, TextStreams, text_packets


def packets(
    text: str = "Hello",
    stream_id: str = "ST_1",
    topic: str = TRANSCRIPTION,
    *,
    sender: str = "agent-1",
    final: bool = True,
) -> list[bytes]:
    """As a listener gets them: the server adds who sent them."""
    attributes = {"lk.transcription_final": "true" if final else "false"}
    result = []
    for data in text_packets(stream_id, topic, text, 1_772_366_400_000, 1, attributes):
        packet = models.DataPacket.FromString(data)
        packet.participant_identity = sender
        result.append(packet.SerializeToString())
    return result


def feed(*messages: bytes) -> list[TextPiece | None]:
    streams = TextStreams()
    return [streams.feed(message) for message in messages]


def test_a_text_comes_with_its_chunk() -> None:
    piece = TextPiece(TRANSCRIPTION, "agent-1", "Hello", True)
    assert feed(*packets()) == [None, piece, None]


def test_a_text_that_is_not_final_says_so() -> None:
    piece = feed(*packets(final=False))[1]
    assert piece is not None
    assert not piece.final


def test_streams_side_by_side() -> None:
    first, second = packets("one", "ST_1"), packets("two", "ST_2", CHAT, sender="x")
    order = [first[0], second[0], second[1], first[1]]
    assert feed(*order)[2:] == [
        TextPiece(CHAT, "x", "two", True),
        TextPiece(TRANSCRIPTION, "agent-1", "one", True),
    ]


def test_a_header_can_carry_the_text() -> None:
    packet = models.DataPacket.FromString(packets()[0])
    packet.stream_header.inline_content = b"at once"
    assert feed(packet.SerializeToString()) == [TextPiece(TRANSCRIPTION, "agent-1", "at once", True)]


def test_a_chunk_without_its_header_is_nothing() -> None:
    header, chunk, trailer = packets()
    assert feed(chunk) == [None]
    assert feed(header, trailer, chunk) == [None, None, None]


def test_an_empty_chunk_is_nothing() -> None:
    assert feed(*packets("")) == [None, None, None]


def test_bytes_that_are_no_text_stream_are_nothing() -> None:
    header = models.DataPacket.FromString(packets()[0])
    header.stream_header.byte_header.name = "image.png"
    assert feed(header.SerializeToString(), packets()[1]) == [None, None]


def test_text_that_is_cut_in_mid_character_is_still_text() -> None:
    header, chunk, _ = packets()
    broken = models.DataPacket.FromString(chunk)
    broken.stream_chunk.content = "é".encode()[:1]
    piece = feed(header, broken.SerializeToString())[1]
    assert piece is not None
    assert piece.text == "�"


def test_the_older_transcription_packet() -> None:
    packet = models.DataPacket()
    packet.transcription.transcribed_participant_identity = "agent-1"
    packet.transcription.segments.add(text="Good", final=True)
    packet.transcription.segments.add(text="day", final=False)
    assert feed(packet.SerializeToString()) == [TextPiece(TRANSCRIPTION, "agent-1", "Good day", False)]


def test_the_older_chat_packet() -> None:
    packet = models.DataPacket(participant_identity="agent-1")
    packet.chat_message.message = "Hi"
    assert feed(packet.SerializeToString()) == [TextPiece(CHAT, "agent-1", "Hi", True)]


def test_other_packets_are_nothing() -> None:
    packet = models.DataPacket()
    packet.user.payload = b"x"
    empty = models.DataPacket()
    empty.transcription.SetInParent()
    assert feed(packet.SerializeToString(), empty.SerializeToString(), b"") == [None, None, None]


def test_sent_packets_are_numbered_reliable_and_whole() -> None:
    sent = [
        models.DataPacket.FromString(data) for data in text_packets("ST_1", CHAT, "Grüße", 7, 40, {"a": "b"})
    ]
    assert [packet.sequence for packet in sent] == [40, 41, 42]
    assert {packet.kind for packet in sent} == {models.DataPacket.Kind.RELIABLE}
    header = sent[0].stream_header
    assert (header.stream_id, header.topic, header.timestamp, header.total_length) == ("ST_1", CHAT, 7, 7)
    assert dict(header.attributes) == {"a": "b"}
    assert sent[1].stream_chunk.content.decode() == "Grüße"
    assert sent[2].WhichOneof("value") == "stream_trailer"
