"""`baton chat`."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Sequence

from services.chat.loop import ChatLoop
from services.chat.settings import ChatSettings
from services.cli_settings import load_settings


def main(argv: Sequence[str]) -> int:
    settings = load_settings(ChatSettings, "chat", argv, "Chat in the terminal, over a gateway's WebSocket.")
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")  # line editing and history in `input`, where there is such a library
    ChatLoop(settings, input, sys.stdout).run()
    return 0
