"""Limits of the WebSocket door, and the close codes it uses. No I/O."""

from __future__ import annotations

import enum

import msgspec


class SocketSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the door and of each socket.

    `generation_limit` counts those of one socket whose last event has not been sent. `pending_limit_bytes` is what a
    generation's unsent delta may grow to before the generation waits; `notice_limit` how many pongs and errors without
    a generation may wait. A client that takes nothing for `stall_timeout_s` is cut; so is one that leaves a ping
    unanswered for half of `heartbeat_s`. `send_buffer_bytes` is the kernel's share per socket: beyond it, deltas
    coalesce. A browser's page may connect from `allowed_origins` or from the gateway's own address; `*` is any.
    """

    socket_limit: int = 4096
    generation_limit: int = 64
    frame_limit_bytes: int = 4 << 20
    pending_limit_bytes: int = 32 << 10
    notice_limit: int = 256
    send_buffer_bytes: int = 64 << 10
    heartbeat_s: float = 30.0
    stall_timeout_s: float = 15.0
    close_timeout_s: float = 2.0
    allowed_origins: tuple[str, ...] = ()


class CloseCode(enum.IntEnum):
    """Why the gateway closes a socket. The WebSocket layer itself adds 1002, 1007 and 1009 (frame too big)."""

    GOING_AWAY = 1001
    UNSUPPORTED_DATA = 1003
    INTERNAL_ERROR = 1011
    STALLED = 4008
    FLOOD = 4029
