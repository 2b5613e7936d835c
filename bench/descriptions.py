"""What a user's two negotiations cost: our connection of one transport, and aiortc's own peer connection.

    python bench/descriptions.py [--users 200] [--rounds 5]

Each user offers data channels, takes the answer, offers one section of audio more and takes that answer, as
LiveKit has it. The answers name no candidate, so nothing goes over a network: microseconds of CPU a user, the
best of so many rounds in turn, and the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import TYPE_CHECKING, Final

from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from lk_users.clock import SystemClock
from lk_users.wire.aiortc_seam import SharedCertificate
from lk_users.wire.connection import BundledConnection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DIGEST: Final = ":".join(["AB"] * 32)
TRANSPORT: Final = (
    "a=setup:active\na=ice-ufrag:dbJusubtIJBcGsCB\na=ice-pwd:ZKuiGplamJiyWgbjGnIkkhvreFCHXtHI\n"
)
DATA: Final = (
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\nc=IN IP4 0.0.0.0\na=mid:0\na=sendrecv\n"
    f"a=sctp-port:5000\na=max-message-size:65535\n{TRANSPORT}"
)
AUDIO: Final = (
    "m=audio 9 UDP/TLS/RTP/SAVPF 111\nc=IN IP4 0.0.0.0\na=mid:1\na=rtcp-mux\na=rtcp-rsize\n"
    "a=rtpmap:111 opus/48000/2\na=ssrc:1793678412 cname:PA_1|TR_1\na=ssrc:1793678412 msid:PA_1|TR_1 TR_1\n"
    f"a=msid:PA_1|TR_1 TR_1\na=sendonly\n{TRANSPORT}"
)
_HEAD: Final = (
    "v=0\no=- 350 1795 IN IP4 0.0.0.0\ns=-\nt=0 0\na=msid-semantic:WMS *\n"
    f"a=fingerprint:sha-256 {DIGEST}\na=group:BUNDLE"
)
ANSWERS: Final = (f"{_HEAD} 0\n{DATA}", f"{_HEAD} 0 1\n{DATA}{AUDIO}")


async def ours(certificate: SharedCertificate) -> Callable[[], Awaitable[None]]:
    connection = BundledConnection(["127.0.0.1"], certificate, SystemClock())
    connection.add_channel("_reliable", ordered=True)
    connection.add_channel("_lossy", ordered=False, retransmits=0)
    await connection.offer()
    await connection.accept(ANSWERS[0])
    connection.add_audio()
    await connection.offer()
    await connection.accept(ANSWERS[1])
    return connection.close


async def aiortcs(certificate: SharedCertificate) -> Callable[[], Awaitable[None]]:
    # An audio section of it offers four codecs, as ours does not; else both say the same.
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
    connection.createDataChannel("_reliable")
    connection.createDataChannel("_lossy", ordered=False, maxRetransmits=0)
    await connection.setLocalDescription()
    await connection.setRemoteDescription(RTCSessionDescription(ANSWERS[0], "answer"))
    connection.addTransceiver("audio", direction="recvonly")
    await connection.setLocalDescription()
    await connection.setRemoteDescription(RTCSessionDescription(ANSWERS[1].replace("111", "96"), "answer"))
    return connection.close


async def cpu_us(
    negotiate: Callable[[SharedCertificate], Awaitable[Callable[[], Awaitable[None]]]], users: int
) -> float:
    certificate = SharedCertificate.generateCertificate()
    assert isinstance(certificate, SharedCertificate)
    began_s = time.process_time()
    closes = [await negotiate(certificate) for _ in range(users)]
    took_s = time.process_time() - began_s
    for close in closes:
        await close()
    return 1e6 * took_s / users


def main() -> None:
    parser = argparse.ArgumentParser(description="what a user's negotiations cost, ours and aiortc's own")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    took_us = [
        [asyncio.run(cpu_us(each, args.users)) for each in (ours, aiortcs)] for _ in range(args.rounds)
    ]
    ours_us, theirs_us = map(min, zip(*took_us, strict=True))
    print(
        f"two negotiations: ours {ours_us:.0f} us, aiortc's {theirs_us:.0f}, {ours_us / theirs_us:.2f} times"
    )


if __name__ == "__main__":
    main()
