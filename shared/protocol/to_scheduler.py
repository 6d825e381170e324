"""What a scheduler receives: a gateway's request to place one session, or to forget it."""

from __future__ import annotations

from shared.core import SamplingParams
from shared.protocol.wire import Message


class PlaceRequest(Message, frozen=True, kw_only=True):
    """Find a decode that claims the session and a prefill that runs it.

    `prompt_ids` are int32 bytes (`wire.pack_ids`). `emitted` counts how many of its last ids were generated already
    by an earlier epoch, so that token indexes go on. `deadline_ms` is what is left at sending.
    """

    session: str
    epoch: int
    gateway: str
    model: str
    prompt_ids: bytes
    max_tokens: int
    sampling: SamplingParams
    deadline_ms: int
    emitted: int = 0


class Placed(Message, frozen=True, kw_only=True):
    """Reply to `PlaceRequest`: who holds the session now, and how long it waited."""

    session: str
    epoch: int
    prefill: str
    decode: str
    queue_ms: float


class CancelPlacement(Message, frozen=True, kw_only=True):
    """Sent to every scheduler: drop the session if it still waits; if it is being placed, undo that."""

    session: str
    epoch: int
