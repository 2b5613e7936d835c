"""What data packets carry: texts (``lk.transcription``, ``lk.chat``, their older forms), and other data."""

from __future__ import annotations

from dataclasses import dataclass

from livekit.protocol import models

TRANSCRIPTION = "lk.transcription"
CHAT = "lk.chat"
FINAL_ATTRIBUTE = "lk.transcription_final"
SEGMENT_ATTRIBUTE = "lk.segment_id"
# A text is kept to this length: regular expressions are run over it on the loop.
TEXT_BYTES = 4096


@dataclass(frozen=True)
class TextPiece:
    """A text as far as it came, told anew with each piece. ``sender``: a participant's identity, empty if
    not said."""

    topic: str
    sender: str
    text: str
    """All of its stream so far, at most ``TEXT_BYTES``."""
    final: bool
    segment: str = ""
    """What it is the text of. The same words may come in a stream and in an older packet: those are two."""


@dataclass(frozen=True)
class DataPiece:
    """Data that is no text for people. ``topic``: as its sender named it."""

    topic: str
    sender: str
    size_bytes: int


class TextStreams:
    """Puts the packets of one session's incoming streams together."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[models.DataStream.Header, bytes]] = {}

    def feed(self, message: bytes) -> TextPiece | DataPiece | None:
        """What one data channel message adds; None where that is nothing."""
        packet = models.DataPacket()
        packet.ParseFromString(message)
        kind = packet.WhichOneof("value")
        if kind == "stream_header":
            return self._header(packet.stream_header, packet.participant_identity)
        if kind == "stream_chunk":
            return self._chunk(packet.stream_chunk, packet.participant_identity)
        if kind == "stream_trailer":
            return self._trailer(packet.stream_trailer, packet.participant_identity)
        if kind == "transcription" and packet.transcription.segments:
            segments = packet.transcription.segments
            text = _text(" ".join(segment.text for segment in segments).encode())
            sender, last = packet.transcription.transcribed_participant_identity, segments[-1]
            return TextPiece(TRANSCRIPTION, sender, text, last.final, f"packet {last.id}")
        if kind == "chat_message":
            chat = packet.chat_message
            text = _text(chat.message.encode())
            return TextPiece(CHAT, packet.participant_identity, text, True, f"packet {chat.id}")
        if kind == "user":
            sender = packet.participant_identity or packet.user.participant_identity
            return DataPiece(packet.user.topic, sender, len(packet.user.payload))
        return None

    def _header(self, header: models.DataStream.Header, sender: str) -> TextPiece | DataPiece | None:
        if header.WhichOneof("content_header") != "text_header":
            return DataPiece(header.topic, sender, header.total_length)
        self._open[header.stream_id] = (header, header.inline_content[:TEXT_BYTES])
        return _piece(header, header.inline_content, sender) if header.inline_content else None

    def _chunk(self, chunk: models.DataStream.Chunk, sender: str) -> TextPiece | None:
        if chunk.stream_id not in self._open or not chunk.content:
            return None
        header, before = self._open[chunk.stream_id]
        content = (before + chunk.content)[:TEXT_BYTES]
        self._open[chunk.stream_id] = (header, content)
        return _piece(header, content, sender)

    def _trailer(self, trailer: models.DataStream.Trailer, sender: str) -> TextPiece | None:
        """A stream of single words only says at its end that it was the final text."""
        header, content = self._open.pop(trailer.stream_id, (None, b""))
        if header is None or not content or trailer.attributes.get(FINAL_ATTRIBUTE) != "true":
            return None
        return _piece(header, content, sender, final=True)


def _piece(
    header: models.DataStream.Header, content: bytes, sender: str, *, final: bool = False
) -> TextPiece:
    final = final or header.attributes.get(FINAL_ATTRIBUTE, "") == "true"
    segment = header.attributes.get(SEGMENT_ATTRIBUTE) or header.stream_id
    return TextPiece(header.topic, sender, _text(content), final, f"stream {segment}")


def _text(content: bytes) -> str:
    """Readable whatever it is; a character that is cut in two shows as one that is broken."""
    return content[:TEXT_BYTES].decode("utf-8", "replace")


def text_packets(
    stream_id: str, topic: str, text: str, timestamp_ms: int, first_sequence: int, attributes: dict[str, str]
) -> list[bytes]:
    """One whole text as data channel messages: header, chunk, trailer.

    They are numbered from ``first_sequence``: the server keeps numbered packets for a listener that is
    just joining, and drops others.
    """
    header, chunk, trailer = models.DataPacket(), models.DataPacket(), models.DataPacket()
    header.stream_header.stream_id = stream_id
    header.stream_header.topic = topic
    header.stream_header.mime_type = "text/plain"
    header.stream_header.timestamp = timestamp_ms
    header.stream_header.total_length = len(text.encode())
    header.stream_header.text_header.SetInParent()
    header.stream_header.attributes.update(attributes)
    chunk.stream_chunk.stream_id = stream_id
    chunk.stream_chunk.chunk_index = 0
    chunk.stream_chunk.content = text.encode()
    trailer.stream_trailer.stream_id = stream_id
    for number, packet in enumerate((header, chunk, trailer), first_sequence):
        packet.kind = models.DataPacket.Kind.RELIABLE
        packet.sequence = number
    return [packet.SerializeToString() for packet in (header, chunk, trailer)]
