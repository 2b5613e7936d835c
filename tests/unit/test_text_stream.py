from __future__ import annotations

from livekit.protocol import models

from lk_users.wire.text_stream import (
    CHAT,
    TEXT_BYTES,
    TRANSCRIPTION,
    DataPiece,
    TextPiece,
    TextStreams,
    text_packets,
)


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


def feed(*messages: bytes) -> list[TextPiece | DataPiece | None]:
    streams = TextStreams()
    return [streams.feed(message) for message in messages]


def test_a_text_comes_with_its_chunk() -> None:
    piece = TextPiece(TRANSCRIPTION, "agent-1", "Hello", True, "stream ST_1")
    assert feed(*packets()) == [None, piece, None]


def with_chunks(*contents: bytes, final_at_the_end: bool = False, segment: str = "") -> list[bytes]:
    """A text in several chunks, as an agent streams words as it speaks them."""
    header, chunk, trailer = map(models.DataPacket.FromString, packets(final=False))
    if segment:
        header.stream_header.attributes["lk.segment_id"] = segment
    chunks = []
    for content in contents:
        chunk.stream_chunk.content = content
        chunks.append(chunk.SerializeToString())
    if final_at_the_end:
        trailer.stream_trailer.attributes["lk.transcription_final"] = "true"
    return [header.SerializeToString(), *chunks, trailer.SerializeToString()]


def test_a_text_in_words_grows_and_its_end_says_that_it_was_final() -> None:
    def piece(text: str, final: bool) -> TextPiece:
        return TextPiece(TRANSCRIPTION, "agent-1", text, final, "stream SG_7")

    assert feed(*with_chunks(b"Hello", b", you", final_at_the_end=True, segment="SG_7")) == [
        None, piece("Hello", False), piece("Hello, you", False), piece("Hello, you", True),
    ]  # fmt: skip
    assert feed(*with_chunks(b"Hello"))[-1] is None
    assert feed(*with_chunks(final_at_the_end=True)) == [None, None]


def test_a_character_in_two_chunks_is_whole_in_the_end() -> None:
    pieces = feed(*with_chunks("é".encode()[:1], "é".encode()[1:]))[1:3]
    assert [piece.text for piece in pieces if isinstance(piece, TextPiece)] == ["\ufffd", "é"]


def test_of_a_long_text_the_beginning_is_kept() -> None:
    pieces = feed(*with_chunks(*[b"x" * 1000] * 6))
    lengths = [len(piece.text) for piece in pieces if isinstance(piece, TextPiece)]
    assert lengths == [1000, 2000, 3000, 4000, TEXT_BYTES, TEXT_BYTES]


def test_a_text_that_is_not_final_says_so() -> None:
    piece = feed(*packets(final=False))[1]
    assert isinstance(piece, TextPiece)
    assert not piece.final


def test_streams_side_by_side() -> None:
    first, second = packets("one", "ST_1"), packets("two", "ST_2", CHAT, sender="x")
    order = [first[0], second[0], second[1], first[1]]
    assert feed(*order)[2:] == [
        TextPiece(CHAT, "x", "two", True, "stream ST_2"),
        TextPiece(TRANSCRIPTION, "agent-1", "one", True, "stream ST_1"),
    ]


def test_a_header_can_carry_the_text() -> None:
    packet = models.DataPacket.FromString(packets()[0])
    packet.stream_header.inline_content = b"at once"
    assert feed(packet.SerializeToString()) == [
        TextPiece(TRANSCRIPTION, "agent-1", "at once", True, "stream ST_1")
    ]


def test_a_chunk_without_its_header_is_nothing() -> None:
    header, chunk, trailer = packets()
    assert feed(chunk) == [None]
    assert feed(header, trailer, chunk) == [None, None, None]


def test_an_empty_chunk_is_nothing() -> None:
    assert feed(*packets("")) == [None, None, None]


def test_a_stream_of_bytes_is_data() -> None:
    header = models.DataPacket.FromString(packets(topic="files")[0])
    header.stream_header.byte_header.name = "image.png"
    assert feed(header.SerializeToString(), packets()[1]) == [DataPiece("files", "agent-1", 5), None]


def test_text_that_is_cut_in_mid_character_is_still_text() -> None:
    header, chunk, _ = packets()
    broken = models.DataPacket.FromString(chunk)
    broken.stream_chunk.content = "é".encode()[:1]
    piece = feed(header, broken.SerializeToString())[1]
    assert isinstance(piece, TextPiece)
    assert piece.text == "�"


def test_the_older_transcription_packet() -> None:
    packet = models.DataPacket()
    packet.transcription.transcribed_participant_identity = "agent-1"
    packet.transcription.segments.add(text="Good", final=True)
    packet.transcription.segments.add(text="day", final=False, id="SG_1")
    assert feed(packet.SerializeToString()) == [
        TextPiece(TRANSCRIPTION, "agent-1", "Good day", False, "packet SG_1")
    ]


def test_the_older_chat_packet() -> None:
    packet = models.DataPacket(participant_identity="agent-1")
    packet.chat_message.message = "Hi"
    assert feed(packet.SerializeToString()) == [TextPiece(CHAT, "agent-1", "Hi", True, "packet ")]


def test_a_data_packet_has_topic_sender_and_size() -> None:
    packet = models.DataPacket(participant_identity="agent-1")
    packet.user.payload, packet.user.topic = b"12345", "ui"
    older = models.DataPacket()
    older.user.payload, older.user.participant_identity = b"1", "agent-2"
    assert feed(packet.SerializeToString(), older.SerializeToString()) == [
        DataPiece("ui", "agent-1", 5),
        DataPiece("", "agent-2", 1),
    ]


def test_other_packets_are_nothing() -> None:
    packet = models.DataPacket()
    packet.speaker.SetInParent()
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
