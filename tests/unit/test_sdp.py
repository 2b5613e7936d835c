from __future__ import annotations

from dataclasses import replace

import pytest
from aiortc.sdp import SessionDescription

from lk_users.errors import WireError
from lk_users.wire import sdp

DIGEST = ":".join(["AB"] * 32)
FINGERPRINT = sdp.Fingerprint("sha-256", DIGEST)
CANDIDATE = "1 1 udp 2130706431 127.0.0.1 4000 typ host"
# As livekit-server 1.13 answers an offer of a microphone, data channels and one section to hear on.
ANSWER = f"""v=0
o=- 350 1795 IN IP4 0.0.0.0
s=-
t=0 0
a=msid-semantic:WMS *
a=fingerprint:sha-256 {DIGEST}
a=group:BUNDLE 0 1 2
m=audio 9 UDP/TLS/RTP/SAVPF 111
c=IN IP4 0.0.0.0
a=setup:active
a=mid:0
a=ice-ufrag:user
a=ice-pwd:password
a=rtcp-mux
a=rtcp-rsize
a=rtpmap:111 opus/48000/2
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=recvonly
a=candidate:{CANDIDATE} ufrag user
a=candidate:1 2 udp 2130706431 127.0.0.1 4000 typ host ufrag user
a=end-of-candidates
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=setup:active
a=mid:1
a=sendrecv
a=sctp-port:5000
a=max-message-size:65535
a=ice-ufrag:user
a=ice-pwd:password
m=audio 9 UDP/TLS/RTP/SAVPF 111 63
c=IN IP4 0.0.0.0
a=setup:active
a=mid:2
a=rtpmap:63 red/48000/2
a=rtpmap:111 OPUS/48000/2
a=fmtp:111 minptime=10
a=ssrc:1793678412 cname:PA_1|TR_1
a=ssrc:1793678412 msid:PA_1|TR_1 TR_1
a=msid:PA_1|TR_1 TR_1
a=sendonly
"""


def test_what_a_server_answers() -> None:
    read = sdp.read(ANSWER.replace("\n", "\r\n"))
    assert (read.username, read.password, read.setup, read.lite) == ("user", "password", "active", False)
    assert read.fingerprints == (FINGERPRINT,)
    # RTP and RTCP share one component, so there is nothing to learn of the second.
    assert read.candidates == (f"{CANDIDATE} ufrag user",)
    assert read.complete
    heard, data, spoken = read.sections
    assert (heard.kind, heard.mid, heard.direction, heard.opus) == ("audio", "0", "recvonly", 111)
    assert heard.extensions == {1: "urn:ietf:params:rtp-hdrext:ssrc-audio-level"}
    assert (data.kind, data.mid, data.sctp_port, data.max_message_bytes) == ("application", "1", 5000, 65_535)
    assert (spoken.direction, spoken.opus, spoken.ssrcs) == ("sendonly", 111, (1793678412,))
    assert [section.track_id for section in read.sections] == ["", "", "TR_1"]


def test_a_transport_of_the_session_a_lite_agent_and_trickled_candidates() -> None:
    read = sdp.read(
        f"v=0\na=ice-lite\na=ice-ufrag:u\na=ice-pwd:p\na=fingerprint:sha-256 {DIGEST}\na=setup:actpass\n"
        "m=audio 9 UDP/TLS/RTP/SAVPF 0\na=mid:0\na=rtpmap:0 PCMU/8000\n"
    )
    assert (read.username, read.password, read.setup, read.lite) == ("u", "p", "actpass", True)
    assert (read.candidates, read.complete) == ((), False)
    assert read.sections[0].opus is None
    assert read.sections[0].direction == "sendrecv"


OURS = sdp.Description(
    username="abcd",
    password="0123456789abcdef012345",
    fingerprints=(FINGERPRINT,),
    setup="actpass",
    candidates=(CANDIDATE,),
    complete=True,
    sections=(
        sdp.Section(
            sdp.AUDIO,
            "0",
            "sendonly",
            formats=("111",),
            codecs={111: sdp.OPUS},
            extensions={1: "urn:ietf:params:rtp-hdrext:ssrc-audio-level"},
            sent=sdp.Sent("stream", "track", 7, "name"),
        ),
        sdp.Section(sdp.DATA, "1", formats=(sdp.SCTP_FORMAT,), profile=sdp.SCTP_PROFILE),
        sdp.Section(sdp.AUDIO, "2", "recvonly", formats=("111",), codecs={111: sdp.OPUS}),
    ),
)


def test_what_we_write_is_read_the_same_by_ourselves() -> None:
    read = sdp.read(sdp.write(OURS, 1, 2))
    # Who sends says so by its streams, and is read as who announced them.
    sections = (replace(OURS.sections[0], sent=None, ssrcs=(7,), track_id="track"), *OURS.sections[1:])
    assert read == replace(OURS, sections=sections)


def test_what_we_write_is_what_another_reader_understands() -> None:
    text = sdp.write(OURS, 12, 3)
    read = SessionDescription.parse(text)
    assert read.origin == "- 12 3 IN IP4 0.0.0.0"
    assert [str(group) for group in read.group] == ["BUNDLE 0 1 2"]
    assert [media.kind for media in read.media] == ["audio", "application", "audio"]
    assert [media.rtp.muxId for media in read.media] == ["0", "1", "2"]
    assert [media.direction for media in read.media] == ["sendonly", None, "recvonly"]
    for media in read.media:
        assert media.ice is not None
        assert media.dtls is not None
        assert (media.ice.usernameFragment, media.ice.password) == ("abcd", "0123456789abcdef012345")
        assert [(item.algorithm, item.value) for item in media.dtls.fingerprints] == [("sha-256", DIGEST)]
        assert media.dtls.role == "auto"
    (candidate,) = read.media[0].ice_candidates
    assert (candidate.ip, candidate.port, candidate.type) == ("127.0.0.1", 4000, "host")
    assert read.media[0].msid == "stream track"
    assert [(item.ssrc, item.cname) for item in read.media[0].ssrc] == [(7, "name")]
    (codec,) = read.media[2].rtp.codecs
    assert (codec.payloadType, codec.mimeType, codec.clockRate) == (111, "audio/opus", 48_000)
    sctp = read.media[1].sctpCapabilities
    assert sctp is not None
    assert (read.media[1].sctp_port, sctp.maxMessageSize) == (5000, 65_536)


@pytest.mark.parametrize(
    ("broken", "part"),
    [
        ("", "without sections or without a transport"),
        ("v=0\ns=-\n", "without sections or without a transport"),
        (ANSWER.replace("a=fingerprint", "a=footprint"), "without a transport"),
        (ANSWER.replace("a=ice-pwd", "a=ice-password"), "without a transport"),
        (ANSWER.replace("a=sctp-port:5000", "a=sctp-port:five"), "can't be read: 'a=sctp-port:five'"),
        (ANSWER.replace("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "m=data"), "'m=data'"),
        (ANSWER.replace(f"a=candidate:{CANDIDATE} ufrag user", "a=candidate:1"), "'a=candidate:1'"),
        (ANSWER.replace("a=ssrc:", "a=ssrc:no"), "a=ssrc:no"),
    ],
)  # fmt: skip
def test_what_is_no_description_is_told_by_the_line(broken: str, part: str) -> None:
    with pytest.raises(WireError) as caught:
        sdp.read(broken)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("direction", "sends", "receives"),
    [
        ("sendrecv", True, True),
        ("sendonly", True, False),
        ("recvonly", False, True),
        ("inactive", False, False),
    ],
)
def test_directions(direction: str, sends: bool, receives: bool) -> None:
    assert (sdp.sends(direction), sdp.receives(direction)) == (sends, receives)
