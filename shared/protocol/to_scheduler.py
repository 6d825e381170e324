"""What a scheduler receives: a gateway's request to place one session, or to forget it."""

from __future__ import annotations

from shared.core import SamplingParams
from shared.protocol.wire import U32, CacheSalt, Count, Message, Name, SessionId


class PlaceRequest(Message, frozen=True, kw_only=True):
    """Find a decode that claims the session and a prefill that runs it.

    `prompt_ids` are int32 bytes (`wire.pack_ids`). `emitted` counts how many of its last ids were generated already
    by an earlier epoch, so that token indexes go on. `begun`: workers held it already, and it goes before all that have
    not begun. `deadline_ms` is what is left at sending. `avoid` names workers of earlier epochs, which failed: they are
    asked last. `arithmetic` is that of the decode that made the emitted tokens: workers of the same are asked first.
    `fingerprint` is that of the model that made them: no other may go on; empty: not known, or there are none.
    `tokenizer` is the digest of the gateway's own: workers that know theirs, and have another, are not asked; empty:
    not known. `trial`: a worker died of it, perhaps; whoever gets it computes it alone. Only prompts of equal
    `cache_salt` share what is cached.
    """

    session: SessionId
    epoch: U32
    gateway: Name
    model: str
    prompt_ids: bytes
    max_tokens: Count
    sampling: SamplingParams
    deadline_ms: Count
    emitted: Count = 0
    begun: bool = False
    avoid: tuple[Name, ...] = ()
    arithmetic: str = ""
    fingerprint: str = ""
    tokenizer: str = ""
    trial: bool = False
    cache_salt: CacheSalt = ""


class Placed(Message, frozen=True, kw_only=True):
    """Reply to `PlaceRequest`: who holds the session now, how its decode computes which model, and how long it waited.

    The boots are those of the starts that took it: a worker may have been started anew before this is heard.
    """

    session: SessionId
    epoch: U32
    prefill: Name
    decode: Name
    queue_ms: float
    arithmetic: str = ""
    fingerprint: str = ""
    prefill_boot: str = ""
    decode_boot: str = ""


class CancelPlacement(Message, frozen=True, kw_only=True):
    """Sent to every scheduler: drop the session if it still waits; if it is being placed, undo that."""

    session: SessionId
    epoch: U32
