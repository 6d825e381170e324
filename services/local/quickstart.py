"""`baton quickstart`: all services on this machine, one answer streamed to the terminal, and how it came about."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from services.cli_settings import load_settings
from services.local.answer import stream_answer
from services.local.free_port import port_or_free
from services.local.model import fetch_model
from services.local.run import run_local, say
from services.local.settings import QuickstartSettings
from services.local.supervisor import Supervisor
from services.local.timings_table import timings_table
from shared.models.store import ModelFolder
from shared.runtime.process_settings import LogLevel

DESCRIPTION = "Run all services on this machine, stream one answer, and show which worker did what, and how fast."


def main(argv: Sequence[str]) -> int:
    settings = load_settings(QuickstartSettings, "quickstart", argv, DESCRIPTION, positional="prompt")
    model = fetch_model(settings)
    with tempfile.TemporaryDirectory(prefix="baton-logs-") as logs:
        settings = msgspec.structs.replace(
            settings,
            http_port=port_or_free(settings.http_host, settings.http_port),
            log_dir=settings.log_dir or logs,
        )
        say(f"Starting {settings.prefill} prefill and {settings.decode} decode; logs are in {settings.log_dir}")
        show = _Show(settings, model)
        return run_local("quickstart", settings, argv, show.when_ready, log_level=LogLevel.WARNING)


class _Show:
    """What happens once all is ready."""

    def __init__(self, settings: QuickstartSettings, model: ModelFolder) -> None:
        self._settings = settings
        self._model = model

    async def when_ready(self, supervisor: Supervisor) -> None:
        settings = self._settings
        say(f"\n> {settings.prompt}\n")
        finished = await stream_answer(
            supervisor.http_url, settings.prompt, settings.max_tokens, lambda text: print(text, end="", flush=True)
        )
        print("\n", flush=True)
        Console(file=sys.stdout).print(timings_table(finished))
        if settings.once:
            signal.raise_signal(signal.SIGTERM)
            return
        say(_addresses(supervisor, self._model.name))


def _addresses(supervisor: Supervisor, model: str) -> str:
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}], "stream": true}}'
    baton = Path(sys.executable).with_name("baton")
    return "\n".join(
        [
            "",
            f"OpenAI API  {supervisor.http_url}/v1",
            f"WebSocket   {supervisor.http_url.replace('http', 'ws', 1)}/v1/stream",
            f"NATS        {supervisor.nats.url}",
            "",
            f"curl -N {supervisor.http_url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'",
            f"{baton} chat --url {supervisor.http_url}",
            "",
            "Serving until Ctrl-C.",
        ]
    )
