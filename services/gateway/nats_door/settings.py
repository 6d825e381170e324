"""Limits of the NATS door."""

from __future__ import annotations

import msgspec


class NatsDoorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`request_limit`: requests at once, beyond which they are refused.

    `probe_interval_s`: how long an inbox may stay unused before the door asks whether anyone still listens there.
    """

    request_limit: int = 4096
    probe_interval_s: float = 0.4
