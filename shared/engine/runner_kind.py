"""Which runner a model gets: a word of the settings, which must not need torch."""

from __future__ import annotations

import enum


class RunnerKind(enum.StrEnum):
    """What may run a model. `AUTO` takes the fused runner where it can."""

    AUTO = "auto"
    FUSED = "fused"
    GENERAL = "general"
