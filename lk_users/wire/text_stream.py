"""Text streams: what ``lk.transcription`` and ``lk.chat`` look like inside data packets."""

from __future__ import annotations

from dataclasses import dataclass

from livekit.protocol import models

TRANSCRIPTION = "lk.transcription"
CHAT = "lk.chat"


@dataclass(frozen=True)
class TextPiece:
    """A piece of text that arrived. ``sender``: a participant's identity, empty if not said."""

    topic: str
    sender: str
    text: str
    final: bool


class TextStreams:
    """Puts the packets of one session's incoming streams together."""

    def __init__(self) -> None:
        self._headers: dict[str, models.DataStream.Header] = {}

    def feed(self, data: bytes) -> TextPiece | None:
        """The text in one data channel message; None where it carries none."""
        packet = models.DataPacket()
        packet.ParseFromString(data)
        kind = packet.WhichOneof("value")
        if kind == "stream_header":
            header = packet.stream_header
            self._headers[header.stream_id] = header
            if header.inline_content:
                return self._piece(header, packet, header.inline_content)
        elif kind == "stream_chunk":
            header_or_none = self._headers.get(packet.stream_chunk.stream_id)
            if header_or_none is not None and packet.stream_chunk.content:
                return self._piece(header_or_none, packet, packet.stream_chunk.content)
        elif kind == "stream_trailer":
            self._headers.pop(packet.stream_trailer.stream_id, None)
        elif kind == "transcription" and packet.transcription.segments:
            segments = packet.transcription.segments
            text = " ".join(segment.text for segment in segments)
            sender = packet.transcription.transcribed_participant_identity
            return TextPiece(TRANSCRIPTION, sender, text, segments[-1].final)
        elif kind == "chat_message":
            return TextPiece(CHAT, packet.participant_identity, packet.chat_message.message, True)
        return None

    @staticmethod
    def _piece(
        header: models.DataStream.Header, packet: models.DataPacket, content: bytes
    ) -> TextPiece | None:
        if header.WhichOneof("content_header") != "text_header":
            return None
        final = header.attributes.get("lk.transcription_final", "") == "true"
        return TextPiece(header.topic, packet.participant_identity, content.decode("utf-8", "replace"), final)


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
