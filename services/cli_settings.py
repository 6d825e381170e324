"""The settings of every subcommand that has some, loaded with the knowledge of the others' names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from services.decode.settings import DecodeSettings
from services.gateway.settings import GatewaySettings
from services.local.settings import QuickstartSettings, UpSettings
from services.prefill.settings import PrefillSettings
from services.scheduler.settings import SchedulerSettings
from shared.runtime.settings import load

S = TypeVar("S", bound=msgspec.Struct)

KINDS: dict[str, type[msgspec.Struct]] = {
    "gateway": GatewaySettings,
    "scheduler": SchedulerSettings,
    "prefill": PrefillSettings,
    "decode": DecodeSettings,
    "up": UpSettings,
    "quickstart": QuickstartSettings,
}
SCRIPT_VARIABLES = ("BATON_TORCH_INDEX", "BATON_PYTHON", "BATON_VENV")


def load_settings(kind: type[S], command: str, argv: Sequence[str], description: str = "", positional: str = "") -> S:
    """The settings of `baton COMMAND`. Raises ConfigError; SystemExit(0) after `--help`."""
    return load(
        kind,
        service=command,
        argv=argv,
        others=KINDS,
        other_variables=SCRIPT_VARIABLES,
        prog=f"baton {command}",
        description=description,
        positional=positional,
    )
