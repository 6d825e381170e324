"""The fleet as a gateway sees it: who lives, and whether requests can be served."""

from __future__ import annotations

import logging

from services.gateway.openai.health import FleetStatus
from shared.bus.liveness import Liveness
from shared.core import Role
from shared.errors import ProtocolError
from shared.protocol.pairing import apart
from shared.protocol.to_all import Beat
from shared.protocol.wire import decode

logger = logging.getLogger(__name__)


class GatewayFleet:
    """Listens to beats; answers /health (`services.gateway.openai.health.Fleet`)."""

    def __init__(self, model: str, beat_interval_s: float) -> None:
        """`beat_interval_s` is the gateway's own: it hears itself among the others."""
        self._model = model
        self.liveness = Liveness(own_interval_s=beat_interval_s)
        self.draining = False

    def hear(self, _subject: str, data: bytes) -> None:
        """Listener of the beats' subject."""
        try:
            self.liveness.hear(decode(Beat, data))
        except ProtocolError as error:
            logger.warning("beat refused: %s", error)

    def status(self) -> FleetStatus:
        prefills = self.liveness.ready(Role.PREFILL, self._model)
        decodes = self.liveness.ready(Role.DECODE, self._model)
        unlike = apart(prefills, decodes)
        schedulers = len(list(self.liveness.alive(Role.SCHEDULER)))
        checks = (
            (bool(prefills), f"no prefill worker of {self._model} is ready"),
            (bool(decodes), f"no decode worker of {self._model} is ready"),
            (not unlike, f"no prefill worker of {self._model} pairs with a decode worker: {unlike}"),
            (bool(schedulers), "no scheduler is alive"),
            (not self.draining, "this gateway is shutting down"),
        )
        reasons = tuple(reason for fine, reason in checks if not fine)
        return FleetStatus(prefill_workers=len(prefills), decode_workers=len(decodes), reasons=reasons)
