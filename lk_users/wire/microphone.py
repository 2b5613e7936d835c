"""A microphone in which nobody speaks, as a browser's is with DTX: a packet of silence every 400 ms.

aiortc runs two tasks a track that is sent, each with its own timers. Hundreds of users would spend more on
their silence than on all they hear, so one task sends for all microphones of a process. This reaches into
private parts of aiortc's sender; the bound on its version and the test are those of ``wire/aiortc_seam.py``.
"""

from __future__ import annotations

import asyncio
import random
import struct
from typing import Any, Final

from aiortc import MediaStreamTrack, RTCDtlsTransport, RTCRtpSender, clock
from aiortc.rtp import RtcpByePacket, RtcpSdesPacket, RtcpSenderInfo, RtcpSourceInfo, RtcpSrPacket
from livekit.protocol import models
from livekit.protocol import rtc as messages

# How often libopus sends a frame with DTX while there is only silence (20 frames of 20 ms), at 48 kHz.
INTERVAL_S: Final = 0.4
INTERVAL_SAMPLES: Final = 19_200
# 20 ms of digital silence, stereo, CELT at full band: the frame that libopus makes of it.
SILENCE: Final = b"\xfc\xff\xfe"
# A sender report each 5 s, the interval of RFC 3550, 6.2, for so few members.
REPORT_EVERY: Final = 12
# Spread over the interval, so that no tick is long.
SLICES: Final = 20
_RTP_HEADER: Final = struct.Struct("!BBHII")
_VERSION: Final = 0x80


class Microphones:
    """All microphones of a loop that are being sent."""

    def __init__(self) -> None:
        self._senders: dict[SilentSender, None] = {}
        self._any = asyncio.Event()

    def add(self, sender: SilentSender) -> None:
        self._senders[sender] = None
        self._any.set()

    def discard(self, sender: SilentSender) -> None:
        self._senders.pop(sender, None)
        if not self._senders:
            self._any.clear()

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            await self._any.wait()
            senders = list(self._senders)
            for start in range(SLICES):
                for sender in senders[start::SLICES]:
                    if sender in self._senders:
                        await sender.send_silence()
                # What comes late is not made up for: a stall must not end in a burst.
                due_s = max(due_s + INTERVAL_S / SLICES, loop.time())
                await asyncio.sleep(due_s - loop.time())


class Microphone(MediaStreamTrack):
    """What is published; its sender makes the packets."""

    kind = "audio"

    def __init__(self, microphones: Microphones) -> None:
        super().__init__()
        self.microphones = microphones

    def request(self) -> messages.AddTrackRequest:
        """What announces it to the server, which finds the track in the offer by its id."""
        return messages.AddTrackRequest(
            cid=self.id,
            name="microphone",
            type=models.TrackType.AUDIO,
            source=models.TrackSource.MICROPHONE,
            disable_red=True,
        )

    async def recv(self) -> Any:
        raise NotImplementedError("sent by its SilentSender alone")


class SilentSender(RTCRtpSender):
    """Sends when it is told to, and nothing but silence."""

    def __init__(self, microphone: Microphone, transport: RTCDtlsTransport) -> None:
        super().__init__(microphone, transport)
        self._microphones = microphone.microphones
        self._cname = b""
        self._payload_type = 0
        self._sequence_number = random.getrandbits(15)
        self._timestamp = random.getrandbits(32)
        self._packets = 0
        self._reports_in = random.randrange(REPORT_EVERY)

    async def send(self, parameters: Any) -> None:
        """aiortc's word for: the connection is up."""
        if self._payload_type == 0:
            self._payload_type = parameters.codecs[0].payloadType
            self._cname = parameters.rtcp.cname.encode()
            self.transport._register_rtp_sender(self, parameters)
            self._microphones.add(self)

    async def stop(self) -> None:
        self._microphones.discard(self)
        if self._payload_type:
            self.transport._unregister_rtp_sender(self)
            await self._send_rtcp([RtcpByePacket(sources=[self._ssrc])])

    async def send_silence(self) -> None:
        """One packet, and now and then a report."""
        self._sequence_number = (self._sequence_number + 1) & 0xFFFF
        self._timestamp = (self._timestamp + INTERVAL_SAMPLES) & 0xFFFFFFFF
        header = _RTP_HEADER.pack(
            _VERSION, self._payload_type, self._sequence_number, self._timestamp, self._ssrc
        )
        try:
            await self.transport._send_rtp(header + SILENCE)
        except ConnectionError:
            # Not connected any more; who owns the connection learns of it by itself.
            self._microphones.discard(self)
            return
        self._packets += 1
        if self._reports_in == 0:
            self._reports_in = REPORT_EVERY
            await self._send_rtcp(self._report())
        self._reports_in -= 1

    async def _handle_rtcp_packet(self, packet: Any) -> None:
        """Reports on silence that arrived or not: nobody asks."""

    def _report(self) -> list[Any]:
        info = RtcpSenderInfo(
            ntp_timestamp=clock.current_ntp_time(),
            rtp_timestamp=self._timestamp,
            packet_count=self._packets,
            octet_count=self._packets * len(SILENCE),
        )
        source = RtcpSourceInfo(ssrc=self._ssrc, items=[(1, self._cname)])
        return [RtcpSrPacket(ssrc=self._ssrc, sender_info=info), RtcpSdesPacket(chunks=[source])]
