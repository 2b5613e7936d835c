"""Session descriptions (RFC 8866), as far as one bundled WebRTC connection to LiveKit needs them.

All sections share one transport (RFC 9143), so fingerprints are said once for all of them and candidates in
the first. A general reader and writer makes an object of each line and says the whole transport in every
section, and a user negotiates twice. ``bench/descriptions.py`` has what that costs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lk_users.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Sequence

AUDIO: Final = "audio"
DATA: Final = "application"
RTP_PROFILE: Final = "UDP/TLS/RTP/SAVPF"
SCTP_PROFILE: Final = "UDP/DTLS/SCTP"
SCTP_FORMAT: Final = "webrtc-datachannel"
# RFC 7587: always this rate and two channels, whatever is inside.
OPUS: Final = "opus/48000/2"
# RTP and RTCP share one (RFC 5761), so there is no second.
COMPONENT: Final = "1"
# RFC 8841: these hold where nothing else is said.
SCTP_PORT: Final = 5000
MAX_MESSAGE_BYTES: Final = 65_536
_DIRECTIONS: Final = frozenset(("sendrecv", "sendonly", "recvonly", "inactive"))


@dataclass(frozen=True)
class Fingerprint:
    """A certificate's digest: ``sha-256``, and bytes in hexadecimal with colons."""

    algorithm: str
    value: str


@dataclass(frozen=True)
class Sent:
    """What is said of a track that its section sends. ``track_id``: by it LiveKit knows which one it is."""

    stream_id: str
    track_id: str
    ssrc: int
    cname: str


@dataclass
class Section:
    """One section of a description: an audio track's, or that of data channels.

    ``formats``: payload types, or what stands in their place, as the first line has them; ``codecs``: the
    name of each payload type, as in ``opus/48000/2``; ``extensions``: URI of an RTP header extension by id.
    """

    kind: str
    mid: str
    direction: str = "sendrecv"
    formats: tuple[str, ...] = ()
    codecs: dict[int, str] = field(default_factory=dict)
    extensions: dict[int, str] = field(default_factory=dict)
    sent: Sent | None = None
    ssrcs: tuple[int, ...] = ()
    """The streams that the other side announced for it."""
    track_id: str = ""
    """What the other side calls the track that it sends on it; with LiveKit, the track's sid."""
    sctp_port: int = SCTP_PORT
    max_message_bytes: int = MAX_MESSAGE_BYTES
    profile: str = RTP_PROFILE

    @property
    def opus(self) -> int | None:
        """Its payload type for Opus; None if it has none."""
        return next((number for number, name in self.codecs.items() if name.lower() == OPUS), None)


@dataclass
class Description:
    """An offer or answer. ``setup``: RFC 8842's word for the DTLS role; ``candidates``: as they are trickled,
    without ``candidate:``; ``complete``: there are no more of them."""

    username: str = ""
    password: str = ""
    fingerprints: tuple[Fingerprint, ...] = ()
    setup: str = ""
    lite: bool = False
    candidates: tuple[str, ...] = ()
    complete: bool = False
    sections: tuple[Section, ...] = ()


def write(description: Description, session_id: int, version: int) -> str:
    """The text of an offer or answer of ours. ``version``: of the session's descriptions, counted."""
    transport = [
        f"a=ice-ufrag:{description.username}",
        f"a=ice-pwd:{description.password}",
        # In each section: LiveKit's WebRTC looks for it nowhere else.
        f"a=setup:{description.setup}",
    ]
    lines = [
        "v=0",
        f"o=- {session_id} {version} IN IP4 0.0.0.0",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE " + " ".join(section.mid for section in description.sections),
        "a=msid-semantic:WMS *",
        *(f"a=fingerprint:{each.algorithm} {each.value}" for each in description.fingerprints),
    ]
    for number, section in enumerate(description.sections):
        lines += _section_lines(section)
        lines += transport
        if number == 0:
            lines += [f"a=candidate:{candidate}" for candidate in description.candidates]
            if description.complete:
                lines.append("a=end-of-candidates")
    lines.append("")
    return "\r\n".join(lines)


def _section_lines(section: Section) -> Sequence[str]:
    # The address is in the candidates; port 9 says that it is not here.
    lines = [
        f"m={section.kind} 9 {section.profile} " + " ".join(section.formats),
        "c=IN IP4 0.0.0.0",
        f"a=mid:{section.mid}",
    ]
    if section.kind == DATA:
        return [
            *lines,
            f"a=sctp-port:{section.sctp_port}",
            f"a=max-message-size:{section.max_message_bytes}",
        ]
    lines += [f"a={section.direction}", "a=rtcp-mux"]
    lines += [f"a=rtpmap:{number} {name}" for number, name in section.codecs.items()]
    lines += [f"a=extmap:{number} {uri}" for number, uri in section.extensions.items()]
    if section.sent is not None:
        sent = section.sent
        lines += [f"a=msid:{sent.stream_id} {sent.track_id}", f"a=ssrc:{sent.ssrc} cname:{sent.cname}"]
    return lines


def read(text: str) -> Description:
    """A description of the other side's. Raises WireError where it is none, or names no transport."""
    found = Description()
    sections: list[Section] = []
    candidates: dict[str, None] = {}
    fingerprints: dict[Fingerprint, None] = {}
    section: Section | None = None
    try:
        for line in text.splitlines():
            if line[:2] == "m=":
                section = _opened(line)
                sections.append(section)
            elif line[:2] == "a=":
                name, _, value = line[2:].partition(":")
                if name == "candidate":
                    if value.split(" ", 2)[1] == COMPONENT:
                        candidates[value] = None
                elif name == "fingerprint":
                    algorithm, _, digest = value.partition(" ")
                    fingerprints[Fingerprint(algorithm, digest)] = None
                elif name == "ice-ufrag":
                    found.username = found.username or value
                elif name == "ice-pwd":
                    found.password = found.password or value
                elif name == "setup":
                    found.setup = found.setup or value
                elif name == "ice-lite":
                    found.lite = True
                elif name == "end-of-candidates":
                    found.complete = True
                elif section is not None:
                    _learn(section, name, value)
    except (ValueError, IndexError) as exc:
        raise WireError(f"a session description that can't be read: {line[:80]!r}") from exc
    if not (sections and found.username and found.password and fingerprints):
        raise WireError("a session description without sections or without a transport")
    found.sections = tuple(sections)
    found.candidates = tuple(candidates)
    found.fingerprints = tuple(fingerprints)
    return found


def _opened(line: str) -> Section:
    kind, _port, profile, *formats = line[2:].split(" ")
    return Section(kind, "", formats=tuple(formats), profile=profile)


def _learn(section: Section, name: str, value: str) -> None:
    """What an attribute says of a section; most are of no account to us."""
    if name == "rtpmap":
        number, _, codec = value.partition(" ")
        section.codecs[int(number)] = codec
    elif name == "ssrc":
        ssrc = int(value.partition(" ")[0])
        if ssrc not in section.ssrcs:
            section.ssrcs = (*section.ssrcs, ssrc)
    elif name in _DIRECTIONS:
        section.direction = name
    elif name == "mid":
        section.mid = value
    elif name == "extmap":
        number, _, uri = value.partition(" ")
        section.extensions[int(number.partition("/")[0])] = uri.partition(" ")[0]
    elif name == "msid":
        section.track_id = value.partition(" ")[2]
    elif name == "sctp-port":
        section.sctp_port = int(value)
    elif name == "max-message-size":
        section.max_message_bytes = int(value)


def sends(direction: str) -> bool:
    """Does who says this direction send?"""
    return direction in ("sendrecv", "sendonly")


def receives(direction: str) -> bool:
    """Does who says this direction want to hear?"""
    return direction in ("sendrecv", "recvonly")
