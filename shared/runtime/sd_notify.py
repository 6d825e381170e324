"""What a process tells its service manager: ready, status, stopping, still alive. Silent where there is none.

The protocol is one datagram of `KEY=value` lines to the socket named in NOTIFY_SOCKET (see sd_notify(3)).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping

logger = logging.getLogger(__name__)


class Notifier:
    """`watchdog_s`: how often the manager wants to hear `alive`; None when it does not watch."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Notifier:
        watchdog_us = environ.get("WATCHDOG_USEC", "")
        return cls(environ.get("NOTIFY_SOCKET", ""), int(watchdog_us) / 1e6 if watchdog_us.isdigit() else None)

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}")

    def ready(self) -> None:
        self._send("READY=1\nSTATUS=ready")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=draining")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.connect(self._address)
                sock.sendall(state.encode())
        except OSError as error:
            logger.warning("cannot notify the service manager: %s", error)
