"""A WebRTC connection of one transport: its sections, the descriptions of them, and what starts when.

aiortc's peer connection writes and parses every description three times over, keeps a transport for each
section until it learns that they share one, offers codecs that LiveKit does not have, and makes a certificate
that nobody asked for. This is made of the same parts (ICE, DTLS, SCTP and senders) and does none of it.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from aiortc import RTCDataChannel, RTCRtpSender
from aiortc.rtcdatachannel import RTCDataChannelParameters
from aiortc.rtcdtlstransport import RTCDtlsFingerprint, RTCDtlsParameters
from aiortc.rtcicetransport import RTCIceParameters
from aiortc.rtcrtpparameters import (
    RTCRtcpParameters,
    RTCRtpCodecParameters,
    RTCRtpDecodingParameters,
    RTCRtpHeaderExtensionParameters,
    RTCRtpReceiveParameters,
    RTCRtpSendParameters,
)
from aiortc.rtcsctptransport import RTCSctpCapabilities
from aiortc.sdp import candidate_from_sdp

from lk_users.errors import WireError
from lk_users.wire import sdp
from lk_users.wire.aioice_seam import IcePath, Sockets
from lk_users.wire.aiortc_seam import PacketReceiver, Transports, ssrc_of
from lk_users.wire.microphone import Microphone, SilentSender
from lk_users.wire.rtp import OPUS_RATE_HZ, Rtp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aiortc import MediaStreamTrack, RTCIceServer

    from lk_users.clock import Clock
    from lk_users.wire.aiortc_seam import SharedCertificate
    from lk_users.wire.datagrams import TickReader

# As browsers number it.
OPUS_PAYLOAD_TYPE: Final = 111
LEVEL_EXTENSION: Final = 1
LEVEL_URI: Final = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
# The digest that every WebRTC knows; RFC 8122 asks for no more than one.
DIGEST: Final = "sha-256"


class _Line:
    """One section as we have it: what we say of it, what carries it, and what the other side said last."""

    def __init__(
        self, ours: sdp.Section, *, sender: RTCRtpSender | None = None, receiver: PacketReceiver | None = None
    ) -> None:
        self.ours = ours
        self.sender = sender
        self.receiver = receiver
        self.theirs: sdp.Section | None = None

    def learn(self, theirs: sdp.Section) -> None:
        """Their side of it. Raises WireError where it can't be heard."""
        self.theirs = theirs
        if self.receiver is not None:
            if sdp.sends(theirs.direction) and theirs.opus is None:
                raise WireError(f"section {theirs.mid} has no Opus, but {', '.join(theirs.codecs.values())}")
            self.receiver.announced(theirs.ssrcs)


class BundledConnection:
    """A WebRTC connection in which all sections share one transport.

    ``addresses``: the host addresses to offer; ``reader``: reads its sockets while they can wait;
    ``on_state``: told of ``connected``, and then at most once of its end: ``closed``, or ``failed``, with a
    reason where there is one;
    ``on_channel``: told of each data channel that the other side opened.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        certificate: SharedCertificate,
        clock: Clock,
        reader: TickReader | None = None,
        *,
        on_state: Callable[[str], None] = lambda state: None,
        on_channel: Callable[[RTCDataChannel], None] = lambda channel: None,
    ) -> None:
        self._addresses = tuple(addresses)
        self._certificate = certificate
        self._on_state = on_state
        self._on_channel = on_channel
        self._rtp = Rtp(clock)
        self._sockets = Sockets(reader, self._rtp)
        self._relay: RTCIceServer | None = None
        self._carrier: Transports | None = None
        self._lines: dict[str, _Line] = {}
        self._own_id = random.getrandbits(62)
        self._versions = 0
        self._known: set[str] = set()
        self._state = ""
        self._connecting: asyncio.Task[None] | None = None
        self._hushing: asyncio.Task[None] | None = None
        self._up = self._closed = False

    def relay_through(self, turn: RTCIceServer) -> None:
        """Offer nothing but an address of this TURN server; before the first section."""
        self._relay = turn

    # Sections.

    def add_channel(self, label: str, *, ordered: bool, retransmits: int | None = None) -> RTCDataChannel:
        """A data channel; the first one brings the section of all."""
        if not any(line.ours.kind == sdp.DATA for line in self._lines.values()):
            self._add_data(str(len(self._lines)))
        return RTCDataChannel(
            self._transports.sctp,
            RTCDataChannelParameters(label=label, ordered=ordered, maxRetransmits=retransmits),
        )

    def add_audio(self, track: MediaStreamTrack | None = None) -> None:
        """One more section: to send this track, or to hear one."""
        self._add_audio(str(len(self._lines)), OPUS_PAYLOAD_TYPE, track)

    def _add_audio(self, mid: str, payload_type: int, track: MediaStreamTrack | None = None) -> _Line:
        section = sdp.Section(
            sdp.AUDIO, mid, "recvonly", formats=(str(payload_type),), codecs={payload_type: sdp.OPUS}
        )
        dtls = self._transports.dtls
        if track is None:
            line = _Line(section, receiver=PacketReceiver(dtls, self._rtp))
        else:
            sender = SilentSender(track, dtls) if isinstance(track, Microphone) else RTCRtpSender(track, dtls)
            name = f"{self._own_id:x}"
            section.direction = "sendonly"
            section.extensions = {LEVEL_EXTENSION: LEVEL_URI}
            section.sent = sdp.Sent(name, track.id, ssrc_of(sender), name)
            line = _Line(section, sender=sender)
        self._lines[mid] = line
        return line

    def _add_data(self, mid: str) -> _Line:
        line = _Line(
            sdp.Section(
                sdp.DATA,
                mid,
                formats=(sdp.SCTP_FORMAT,),
                profile=sdp.SCTP_PROFILE,
                max_message_bytes=self._transports.sctp.getCapabilities().maxMessageSize,
            )
        )
        self._lines[mid] = line
        return line

    def _add_unheard(self, theirs: sdp.Section) -> _Line:
        """A section that we have no use for, such as video: it is answered, and nothing is sent on it."""
        section = sdp.Section(
            theirs.kind, theirs.mid, "inactive", formats=theirs.formats, codecs=theirs.codecs,
            profile=theirs.profile,
        )  # fmt: skip
        line = self._lines[theirs.mid] = _Line(section)
        return line

    @property
    def _transports(self) -> Transports:
        """Made when first needed: only then is it known whether they lead through a relay."""
        if self._carrier is None:
            self._carrier = Transports(
                self._addresses, self._relay, self._certificate, self._rtp, self._sockets, self._changed
            )
            self._carrier.sctp.on("datachannel", self._on_channel)
        return self._carrier

    # Descriptions.

    async def offer(self) -> str:
        """Our offer of all sections that there are."""
        if self._connecting is None:
            # RFC 8445: who offers nominates.
            self._transports.control(yes=True)
        await self._transports.gather()
        return self._write("actpass")

    async def accept(self, answer: str) -> None:
        """The answer to our last offer. Raises WireError if it can't be used."""
        remote = sdp.read(answer)
        if self._connecting is None:
            # RFC 8842: who is active sends the first flight.
            self._transports.serve(yes=remote.setup == "active")
        for theirs in remote.sections:
            line = self._lines.get(theirs.mid)
            if line is not None:
                line.learn(theirs)
        await self._go_on(remote)

    async def answer(self, offer: str) -> str:
        """Our answer to an offer of the other side's. Raises WireError if it can't be used."""
        remote = sdp.read(offer)
        if self._connecting is None:
            self._transports.control(yes=remote.lite)
            self._transports.serve(yes=remote.setup == "active")
        for theirs in remote.sections:
            line = self._lines.get(theirs.mid) or self._answering(theirs)
            line.learn(theirs)
            if line.receiver is not None:
                line.ours.direction = "recvonly" if sdp.sends(theirs.direction) else "inactive"
        await self._transports.gather()
        await self._go_on(remote)
        return self._write("passive" if self._transports.serves else "active")

    def _answering(self, theirs: sdp.Section) -> _Line:
        """Our side of a section that they opened."""
        if theirs.kind == sdp.DATA:
            return self._add_data(theirs.mid)
        if theirs.kind == sdp.AUDIO and theirs.opus is not None:
            return self._add_audio(theirs.mid, theirs.opus)
        return self._add_unheard(theirs)

    def _write(self, setup: str) -> str:
        self._versions += 1
        description = sdp.Description(
            username=self._transports.username,
            password=self._transports.password,
            fingerprints=tuple(
                sdp.Fingerprint(each.algorithm, each.value)
                for each in self._certificate.getFingerprints()
                if each.algorithm == DIGEST
            ),
            setup=setup,
            candidates=self._transports.candidates(),
            complete=True,
            sections=tuple(line.ours for line in self._lines.values()),
        )
        return sdp.write(description, self._own_id, self._versions)

    # The way to the other side.

    async def add_candidate(self, candidate: str) -> None:
        """One of the other side's, without ``candidate:``; known ones are of no account."""
        if candidate not in self._known:
            self._known.add(candidate)
            await self._transports.ice.addRemoteCandidate(candidate_from_sdp(candidate))

    async def _go_on(self, remote: sdp.Description) -> None:
        for candidate in remote.candidates:
            await self.add_candidate(candidate)
        if remote.complete:
            await self._transports.ice.addRemoteCandidate(None)
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(remote))
        elif self._up:
            await self._start_media()

    async def _connect(self, remote: sdp.Description) -> None:
        ice, dtls = self._transports.ice, self._transports.dtls
        if self._closed:
            return
        await ice.start(RTCIceParameters(remote.username, remote.password, iceLite=remote.lite))
        if ice.state != "completed" or self._closed:
            return
        fingerprints = [RTCDtlsFingerprint(each.algorithm, each.value) for each in remote.fingerprints]
        await dtls.start(RTCDtlsParameters(fingerprints))
        if dtls.state != "connected" or self._closed:
            return
        self._up = True
        try:
            await self._start_media()
        except WireError as exc:
            self._tell(f"failed: {exc}")

    async def _start_media(self) -> None:
        """What was agreed upon; senders and data channels start once, however often they are told."""
        for line in list(self._lines.values()):
            theirs = line.theirs
            if theirs is None:
                continue
            if theirs.kind == sdp.DATA:
                capabilities = RTCSctpCapabilities(theirs.max_message_bytes)
                await self._transports.sctp.start(capabilities, theirs.sctp_port)
            elif line.sender is not None and sdp.receives(theirs.direction):
                await line.sender.send(_sending(line.ours, theirs))
            elif line.receiver is not None and sdp.sends(theirs.direction):
                line.receiver.receive(_receiving(theirs))

    def _changed(self) -> None:
        """ICE or DTLS has another state."""
        ice, dtls = self._transports.ice.state, self._transports.dtls.state
        state = "failed" if "failed" in (ice, dtls) else dtls
        if state in ("failed", "closed") and not self._closed and self._hushing is None:
            # It would go on to send again what was not confirmed, and to fail at that.
            self._hushing = asyncio.get_running_loop().create_task(self._transports.sctp.stop())
        if state in ("connected", "closed", "failed"):
            self._tell(state)

    def _tell(self, state: str) -> None:
        """The connection's state, once; nothing comes after its end."""
        if not self._closed and state != self._state and self._state in ("", "connected"):
            self._state = state
            self._on_state(state)

    async def close(self) -> None:
        """Idempotent."""
        if self._closed:
            return
        self._closed = True
        carrier = self._carrier
        if carrier is None:
            return
        for line in self._lines.values():
            if line.receiver is not None:
                line.receiver.stop()
            if line.sender is not None:
                await line.sender.stop()
        await carrier.sctp.stop()
        await carrier.dtls.stop()
        await carrier.ice.stop()

    # What is known of it.

    def local_ports(self) -> list[int]:
        """The UDP ports of our own candidates."""
        return self._carrier.ports() if self._carrier is not None else []

    @property
    def gather_ns(self) -> int | None:
        """How long our own candidates took; None before they are there."""
        return self._carrier.gather_ns if self._carrier is not None else None

    def path(self) -> IcePath | None:
        """The way that media takes; None as long as there is none."""
        return self._carrier.path() if self._carrier is not None else None

    def receivers(self) -> Iterable[PacketReceiver]:
        """Of the sections that hear."""
        return (line.receiver for line in self._lines.values() if line.receiver is not None)

    def tracks_by_mid(self) -> dict[str, str]:
        """The tracks that the other side's last description names, by the section that hears them."""
        return {
            mid: line.theirs.track_id
            for mid, line in self._lines.items()
            if line.receiver is not None and line.theirs is not None and line.theirs.track_id
            and sdp.sends(line.theirs.direction)
        }  # fmt: skip

    def receiver(self, mid: str) -> PacketReceiver | None:
        """Of this section; None if it hears nothing."""
        line = self._lines.get(mid)
        return line.receiver if line is not None else None

    def can_wait(self, *, yes: bool) -> None:
        """May what comes be read up to a tick later?"""
        self._sockets.can_wait(yes=yes)

    @property
    def data_ns(self) -> int:
        """When what a data channel tells now came, on the monotonic clock; 0: just now."""
        return self._sockets.data_ns

    def deafen(self, receiver: PacketReceiver) -> None:
        """Nobody listens to its track any more: the packets are only counted."""
        receiver.on_packet = None
        self._rtp.deaf.update(receiver.streams)

    def hear(self, receiver: PacketReceiver) -> None:
        """Listen to its track again; ``on_packet`` is the caller's to set."""
        for ssrc in receiver.streams:
            self._rtp.deaf.pop(ssrc, None)

    def reached_ns(self, receiver: PacketReceiver) -> int:
        """When its track's first packet came to our socket, be it before we knew which section it is of; on
        the monotonic clock, 0 if none did."""
        return min((self._rtp.reached_ns.get(ssrc, 0) for ssrc in receiver.streams), default=0)


def _opus(payload_type: int) -> RTCRtpCodecParameters:
    return RTCRtpCodecParameters(
        mimeType="audio/opus", clockRate=OPUS_RATE_HZ, channels=2, payloadType=payload_type
    )


def _receiving(theirs: sdp.Section) -> RTCRtpReceiveParameters:
    """How the other side sends."""
    payload_type = theirs.opus
    assert payload_type is not None
    return RTCRtpReceiveParameters(
        codecs=[_opus(payload_type)],
        headerExtensions=_extensions(theirs),
        muxId=theirs.mid,
        encodings=[RTCRtpDecodingParameters(ssrc, payload_type) for ssrc in theirs.ssrcs],
    )


def _sending(ours: sdp.Section, theirs: sdp.Section) -> RTCRtpSendParameters:
    """How the other side wants it. Raises WireError where that can't be done."""
    payload_type = theirs.opus
    if payload_type is None or ours.sent is None:
        raise WireError(f"section {theirs.mid} was answered without Opus")
    return RTCRtpSendParameters(
        codecs=[_opus(payload_type)],
        headerExtensions=_extensions(theirs),
        muxId=theirs.mid,
        rtcp=RTCRtcpParameters(cname=ours.sent.cname, mux=True, ssrc=ours.sent.ssrc),
    )


def _extensions(section: sdp.Section) -> list[RTCRtpHeaderExtensionParameters]:
    return [RTCRtpHeaderExtensionParameters(number, uri) for number, uri in section.extensions.items()]
