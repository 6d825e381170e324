"""What both ends of a hand-off say of it, as the gateway hears it."""

from __future__ import annotations

from shared.bus.connection import Bus
from shared.protocol import subjects
from shared.protocol.to_gateway import HandoffReport, TokenBatch
from shared.protocol.wire import decode

from .fleet import GATEWAY


async def handoff_reports(bus: Bus) -> list[HandoffReport]:
    """The reports that the gateway will hear from now on; two for each hand-off."""
    heard: list[HandoffReport] = []

    def listener(_subject: str, data: bytes) -> None:
        heard.extend(frame.handoff for frame in decode(TokenBatch, data).frames if frame.handoff is not None)

    await bus.listen(subjects.tokens(GATEWAY), listener)
    await bus.flush()
    return heard
