"""The server's score of a user's connection, as the user keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from livekit.protocol import models
from livekit.protocol import rtc as messages
from virtual import AGENT_NAME, VirtualClock

from lk_users.address import Address
from lk_users.engines.listen import ListenEngine, Surroundings
from lk_users.plan import planned
from lk_users.settings.run import Settings
from lk_users.wire.aiortc_seam import SharedCertificate
from lk_users.wire.endpoint import Endpoint
from lk_users.wire.microphone import Microphones
from lk_users.wire.servers import Servers
from lk_users.wire.signalling import Pinger, SignalPath

if TYPE_CHECKING:
    from lk_users.engines.port import EngineListener

OWN_SID = "PA_user"
POOR, GOOD, EXCELLENT, LOST = 0, 1, 2, 3
NEWER = 7


class Listener:
    """Takes whatever it is told."""

    def __getattr__(self, name: str) -> object:
        return lambda *args: None


@pytest.mark.parametrize(
    ("scores", "worst"),
    [
        ([], None),
        ([EXCELLENT], "excellent"),
        ([EXCELLENT, GOOD, EXCELLENT], "good"),
        ([GOOD, LOST, POOR], "lost"),
        ([NEWER], None),
        ([POOR, NEWER, GOOD], "poor"),
    ],
)
def test_the_worst_is_kept(scores: list[int], worst: str | None) -> None:
    """One that only a newer server knows is none, and ends nothing."""
    clock = VirtualClock()
    around = Surroundings(
        address=Address.parse("ws://127.0.0.1:7880", ("ws",)),
        endpoint=Endpoint.nowhere(),
        keys=None,
        servers=Servers(),
        clock=clock,
        path=SignalPath.V1,
        addresses=(),
        pinger=Pinger(clock),
        certificate=SharedCertificate.generateCertificate(),
        microphones=Microphones(),
    )
    settings = Settings.from_options({"agent_name": AGENT_NAME}, 1)
    item = planned("run", 1, 0, settings, "local")
    engine = ListenEngine(item, settings, around, cast("EngineListener", Listener()))
    joined = messages.SignalResponse(join=messages.JoinResponse(participant={"sid": OWN_SID}))
    engine.signal("join", joined)
    for score in scores:
        said = messages.SignalResponse()
        for sid, quality in ((OWN_SID, score), ("PA_agent", LOST)):
            update = said.connection_quality.updates.add()
            update.participant_sid, update.quality = sid, cast("models.ConnectionQuality", quality)
        engine.signal("connection_quality", said)
    assert engine.evidence().get("worst_quality") == worst
