"""LiveKit's signalling: the only module that knows its paths and messages.

Two paths. ``/rtc/v1``, what current SDKs use: one peer connection, the client offers, and its first offer
travels inside the join request. ``/rtc``: the server offers. A server that lacks the first answers 404.
"""

from __future__ import annotations

import base64
import enum
from typing import TYPE_CHECKING, Protocol

from livekit.protocol import models
from livekit.protocol import rtc as messages

from lk_users.clock import NS_PER_MS
from lk_users.version import VERSION
from lk_users.wire.armed import ArmedSocket
from lk_users.wire.ticks import TICK_MS, sleep_about

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lk_users.clock import Clock
    from lk_users.errors import WireError
    from lk_users.wire.endpoint import Endpoint

# The signalling protocol that livekit-server 1.8 and later speak in full.
PROTOCOL = 16
# The server ends a signalling connection after 15 s without a ping (its ping_timeout).
PING_INTERVAL_S = 5.0
FIRST_OFFER_ID = 1


class SignalPath(enum.StrEnum):
    """Which of the two the server speaks."""

    V1 = "/rtc/v1"
    V0 = "/rtc"


class SignalListener(Protocol):
    """What a signalling connection tells its participant."""

    def signal(self, kind: str, response: messages.SignalResponse) -> None:
        """One message; ``kind`` names its filled field."""

    def signal_lost(self, error: WireError) -> None:
        """Refused, cut or closed; nothing comes after it."""


class Signal:
    """One participant's signalling connection: armed, joined, heard."""

    def __init__(self, endpoint: Endpoint, clock: Clock, listener: SignalListener) -> None:
        self._listener = listener
        self._socket = ArmedSocket(endpoint, clock, self)

    @property
    def rearmed(self) -> bool:
        return self._socket.rearmed

    async def arm(self) -> None:
        """Open the connection. Raises ConnectionCut."""
        await self._socket.arm()

    def load_join(
        self,
        prefix: str,
        path: SignalPath,
        token: str,
        *,
        offer_sdp: str = "",
        track: messages.AddTrackRequest | None = None,
        subscribe: bool = True,
    ) -> None:
        """The join's bytes. ``prefix``: the path in the server's URL; ``offer_sdp``, ``track``: for V1."""
        if path is SignalPath.V1:
            # Of URL-safe base64 only the padding needs quoting.
            query = "join_request=" + join_request(offer_sdp, track, subscribe).replace("=", "%3D")
        else:
            query = f"auto_subscribe=1&sdk=python&version={VERSION}&protocol={PROTOCOL}"
        # The token goes into a header: query strings end up in access logs.
        headers = [("Authorization", f"Bearer {token}")]
        self._socket.load_upgrade(f"{prefix}{path}?{query}", headers)

    def fire(self) -> int:
        """Write the join; the moment of it on the monotonic clock, in ns."""
        return self._socket.fire()

    def send(self, request: messages.SignalRequest) -> None:
        self.send_bytes(request.SerializeToString())

    def offer(self, sdp: str, offer_id: int) -> None:
        request = messages.SignalRequest()
        request.offer.type, request.offer.sdp, request.offer.id = "offer", sdp, offer_id
        self.send(request)

    def answer(self, sdp: str, offer_id: int) -> None:
        request = messages.SignalRequest()
        request.answer.type, request.answer.sdp, request.answer.id = "answer", sdp, offer_id
        self.send(request)

    def add_track(self, track: messages.AddTrackRequest) -> None:
        request = messages.SignalRequest()
        request.add_track.CopyFrom(track)
        self.send(request)

    def set_attributes(self, attributes: Mapping[str, str], request_id: int) -> None:
        request = messages.SignalRequest()
        request.update_metadata.attributes.update(attributes)
        request.update_metadata.request_id = request_id
        self.send(request)

    def send_bytes(self, request: bytes) -> None:
        """A ``SignalRequest``."""
        self._socket.send(request)

    def leave(self) -> None:
        """Say that we leave on purpose, then hang up."""
        request = messages.SignalRequest()
        request.leave.reason = models.DisconnectReason.CLIENT_INITIATED
        self.send(request)
        self._socket.hang_up()

    def close(self) -> None:
        self._socket.close()

    def opened(self) -> None:
        """The upgrade was accepted; the join response follows."""

    def message(self, data: bytes) -> None:
        response = messages.SignalResponse()
        response.ParseFromString(data)
        kind = response.WhichOneof("message")
        if kind is not None:
            self._listener.signal(kind, response)

    def lost(self, error: WireError) -> None:
        self._listener.signal_lost(error)


class Pinger:
    """Pings every connection of a loop: one task for all, spread over the interval."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._signals: dict[Signal, None] = {}

    def add(self, signal: Signal) -> None:
        self._signals[signal] = None

    def discard(self, signal: Signal) -> None:
        self._signals.pop(signal, None)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            signals = list(self._signals)
            slices = round(1000 * PING_INTERVAL_S / TICK_MS)
            for start in range(slices):
                ping = self._ping()
                for signal in signals[start::slices]:
                    if signal in self._signals:
                        signal.send_bytes(ping)
                await sleep_about(0)

    def _ping(self) -> bytes:
        request = messages.SignalRequest()
        request.ping_req.timestamp = self._clock.wall_ns() // NS_PER_MS
        return bytes(request.SerializeToString())


def join_request(offer_sdp: str, track: messages.AddTrackRequest | None, subscribe: bool) -> str:
    """The ``join_request`` parameter of V1: a wrapped protobuf in URL-safe base64."""
    request = messages.JoinRequest()
    request.client_info.sdk = models.ClientInfo.SDK.PYTHON
    request.client_info.version = VERSION
    request.client_info.protocol = PROTOCOL
    request.client_info.other_sdks = f"lk-users:{VERSION}"
    request.connection_settings.auto_subscribe = subscribe
    if track is not None:
        request.add_track_requests.append(track)
    if offer_sdp:
        offer = request.publisher_offer
        offer.type, offer.sdp, offer.id = "offer", offer_sdp, FIRST_OFFER_ID
    wrapped = messages.WrappedJoinRequest(join_request=request.SerializeToString())
    return base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()
