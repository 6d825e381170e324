"""Where a served HTTP door is, and a fleet that says what a test wants, for tests of the gateway."""

from __future__ import annotations

from services.gateway.openai.health import FleetStatus


class FixedFleet:
    def __init__(self) -> None:
        self.now = FleetStatus(prefill_workers=1, decode_workers=2)

    def status(self) -> FleetStatus:
        return self.now


class Door:
    """The served application: where it is, and what is behind it."""

    def __init__(self, base_url: str, host: str, port: int) -> None:
        self.base_url = base_url
        self.host = host
        self.port = port
