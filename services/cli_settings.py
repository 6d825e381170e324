"""The settings of every subcommand that has some, loaded with the knowledge of the others' names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from services.chat.settings import ChatSettings
from services.decode.settings import DecodeSettings
from services.gateway.settings import GatewaySettings
from services.local.settings import QuickstartSettings, UpSettings
from services.prefill.settings import PrefillSettings
from services.scheduler.settings import SchedulerSettings
from shared.bus.settings import BusSettings
from shared.runtime.settings import load

S = TypeVar("S", bound=msgspec.Struct)


class WorkersSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of `baton workers`: where to listen, and for how long."""

    nats: BusSettings = BusSettings()
    listen_s: Annotated[float, Meta(gt=0, description="how long to listen for beats")] = 1.5


KINDS: dict[str, type[msgspec.Struct]] = {
    "gateway": GatewaySettings,
    "scheduler": SchedulerSettings,
    "prefill": PrefillSettings,
    "decode": DecodeSettings,
    "up": UpSettings,
    "quickstart": QuickstartSettings,
    "workers": WorkersSettings,
    "chat": ChatSettings,
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
