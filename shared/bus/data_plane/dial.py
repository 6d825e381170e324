"""How a connection begins: TCP, the server's INFO, TLS where either side wants it, CONNECT, and a first PONG."""

from __future__ import annotations

import asyncio
import ssl

from shared.bus.data_plane import operations
from shared.bus.data_plane.credentials import identify
from shared.bus.data_plane.server_info import ServerInfo
from shared.bus.data_plane.servers import Address
from shared.bus.data_plane.stream import Owner, Stream
from shared.bus.settings import BusSettings
from shared.bus.tls import tls_context
from shared.errors import Unavailable

CONNECT_TIMEOUT_S = 5.0


async def dial(settings: BusSettings, name: str, address: Address, owner: Owner) -> Stream:
    """A stream the server has accepted. Raises BatonError, OSError or TimeoutError; then nothing is left open."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        transport, stream = await loop.create_connection(
            lambda: Stream(name, address, owner), address.host, address.port
        )
        try:
            info = await stream.greeting()
            context = _context(settings, info, address)
            if context is not None:
                await _encrypt(stream, transport, context, address.tls_name)
            stream.write(operations.connect(_introduction(settings, name, info, address)))
            await stream.ping()
        except BaseException:
            stream.fail("not accepted")
            raise
    return stream


def _context(settings: BusSettings, info: ServerInfo, address: Address) -> ssl.SSLContext | None:
    """None for a connection in the clear. Where we ask for TLS, a server without it is refused."""
    context = tls_context(settings)
    if info.tls_required or (info.tls_available and (context is not None or address.tls)):
        return context or ssl.create_default_context()
    if context is not None or address.tls:
        raise Unavailable(f"NATS server {address} offers no TLS")
    return None


async def _encrypt(stream: Stream, transport: asyncio.Transport, context: ssl.SSLContext, name: str) -> None:
    loop = asyncio.get_running_loop()
    encrypted = await loop.start_tls(transport, stream, context, server_hostname=name)
    if encrypted is None:
        raise Unavailable("NATS: the connection ended during the TLS handshake")
    stream.use(encrypted)


def _introduction(settings: BusSettings, name: str, info: ServerInfo, address: Address) -> dict[str, object]:
    return {
        "verbose": False,
        "pedantic": False,
        "lang": "python",
        "version": "1",
        "protocol": 1,
        "headers": False,
        "name": name,
        **identify(settings, info, address),
    }
