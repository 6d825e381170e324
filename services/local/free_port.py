"""A port for the HTTP door where the wanted one may be taken."""

from __future__ import annotations

import socket


def port_or_free(host: str, port: int) -> int:
    """`port` if nobody listens there, or else some free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in (port, 0):
        try:
            with socket.create_server((host, candidate), family=family) as server:
                return int(server.getsockname()[1])
        except OSError:
            continue
    return port
