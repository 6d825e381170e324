"""The embedded NATS server's command and configuration, on the real program."""

from __future__ import annotations

import subprocess
from pathlib import Path

from services.local import nats_server
from shared.bus.connection import Bus
from shared.bus.settings import BusSettings
from shared.runtime.tasks import Tasks


def test_the_server_accepts_its_configuration(tmp_path: Path) -> None:
    checked = subprocess.run(
        [*nats_server.command(tmp_path), "-t"], capture_output=True, text=True, check=False, timeout=60
    )
    assert checked.returncode == 0, checked.stderr


def test_the_log_tells_the_port_before_it_says_ready() -> None:
    start_up = nats_server.StartUp()
    start_up.read("[1] 2030/01/01 [INF] Listening for client connections on 127.0.0.1:38231")
    assert not start_up.ready
    start_up.read("[1] 2030/01/01 [INF] Server is ready")
    assert (start_up.ready, start_up.url) == (True, "nats://127.0.0.1:38231")


async def test_messages_up_to_8_mb_are_allowed(nats_url: str) -> None:
    async with Tasks("test") as tasks:
        bus = await Bus.connect(BusSettings(url=nats_url), name="test", spawn=tasks.start)
        assert bus.max_payload == 8 << 20
        await bus.close()
