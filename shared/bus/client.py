"""nats-py's client, with five of its weak spots mended. Used by `connection`; knows nothing of our messages.

- It reads subjects, reply subjects and headers as text inside its read loop, and leaves the loop when that fails: the
  connection then counts as connected and hears nothing until its pings go unanswered. Whoever may publish could do that
  to all who listen. Here such a message is dropped alone.
- A connection that is taken, and then says nothing or something else, is left open when the next one is dialled.
- Closed while there is no server, it writes what waits to the old connection, which uvloop does not let pass.
- Between the end of a connection and its own notice of that, it publishes to the closed one, of which uvloop complains
  with a RuntimeError. Here that waits for the next connection, as what is published a moment later does.
- It sends the PING of a flush ahead of what waits in its buffer, so that neither a flush nor a subscription's drain
  keeps its promise.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import struct
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client, Server
from nats.aio.msg import Msg

from shared.bus.settings import BusSettings
from shared.bus.tls import tls_context

logger = logging.getLogger(__name__)


class SturdyClient(Client):  # type: ignore[misc]
    """Overrides private steps of the read loop; where a nats-py has them no more, it is just its client."""

    async def flush(self, timeout: float = 10) -> None:
        """Wait until the server has read all that was sent until now."""
        await super().flush(timeout)
        # By the first PONG the buffer has gone out: the second PING comes after all of it.
        await super().flush(timeout)

    def abort(self) -> None:
        """End the connection as if the network had: what was not sent is lost, and another one is dialled."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None and not writer.transport.is_closing():
            _forget_unsent(writer.transport)
            writer.transport.abort()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        if self._has_no_transport():
            self._pending: list[bytes] = []
            self._pending_data_size = 0
        await super()._close(status, do_cbs)

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        try:
            return await super()._flush_pending(force_flush)
        except RuntimeError:
            if not self._has_no_transport():
                raise
            # As when it knows that there is no connection: what waits goes out on the next one.
            nothing: asyncio.Future[None] = asyncio.Future()
            nothing.set_result(None)
            return nothing

    def _has_no_transport(self) -> bool:
        writer = getattr(self._transport, "_io_writer", None)
        return not self.is_connected or (writer is not None and writer.transport.is_closing())

    async def _connect_to_server(self, s: Any) -> None:
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            # One that was taken and then not accepted is left open.
            writer.transport.abort()
        await super()._connect_to_server(s)

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> Msg | None:
        try:
            return super()._build_message(sid, subject, reply, data, headers)
        except UnicodeDecodeError:
            logger.warning("message dropped: its subject or reply subject is not UTF-8: %r", subject[:64])
            return None

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        try:
            found: dict[str, str] | None = await super()._process_headers(headers)
        except (ValueError, IndexError):
            logger.warning("headers of a message dropped: they cannot be read")
            return None
        return found


def connect_options(settings: BusSettings) -> dict[str, Any]:
    """What `settings` mean to nats-py's `connect`."""
    return {
        "servers": settings.servers,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": settings.reconnect_wait_s,
        "reconnect_to_server_handler": _with_jitter(settings.reconnect_wait_s),
        "ping_interval": settings.ping_interval_s,
        "max_outstanding_pings": 2,
        **_credentials(settings),
    }


def _with_jitter(wait_s: float) -> Callable[[list[Server], dict[str, Any]], tuple[Server | None, float]]:
    """Choose any server, after 0.5 to 1.5 of `wait_s`: a restarted server is not stormed by all at once."""

    def choose(servers: list[Server], _info: dict[str, Any]) -> tuple[Server | None, float]:
        return random.choice(servers), wait_s * random.uniform(0.5, 1.5)

    return choose


def _credentials(settings: BusSettings) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if settings.credentials_file:
        options["user_credentials"] = settings.credentials_file
    if settings.nkey_seed_file:
        options["nkeys_seed"] = settings.nkey_seed_file
    if settings.token:
        options["token"] = settings.token
    context = tls_context(settings)
    if context is not None:
        options["tls"] = context
    return options


def _forget_unsent(transport: asyncio.BaseTransport) -> None:
    """Let the kernel drop what it has of a connection that ends, which it would else deliver when the network heals."""
    pseudo = transport.get_extra_info("socket")
    with socket.socket(fileno=os.dup(pseudo.fileno())) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
