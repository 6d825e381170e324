"""What prefill and decode workers receive alike."""

from __future__ import annotations

import msgspec

from shared.protocol.wire import U32, Count, Message, Name, SessionId


class Awaited(msgspec.Struct, frozen=True, kw_only=True):
    """A session in one epoch, and the index of the token that its gateway has not got."""

    session: SessionId
    epoch: U32
    next_index: Count


class Repeat(Message, frozen=True, kw_only=True):
    """A gateway may have missed frames of these sessions: say again what was said of late. Frames count once."""

    gateway: Name
    sessions: tuple[Awaited, ...]
