"""What a gateway receives: who took its question; who holds its sessions; token frames, batched per step, with the
reports of a timeline."""

from __future__ import annotations

import msgspec

from shared.core import FinishReason, Role, TokenLogprob
from shared.errors import ErrorInfo
from shared.protocol.to_decode import PrefillReport
from shared.protocol.wire import U32, Count, Message, Name, SessionId


class Taken(Message, frozen=True, kw_only=True):
    """A scheduler has a `PlaceRequest`, and will answer it. `boot` and `connection` as in its beats at that moment.

    Without it a question that reached nobody would look like one that waits.
    """

    session: SessionId
    epoch: U32
    scheduler: Name
    boot: str
    connection: Count


class HeldSession(msgspec.Struct, frozen=True, kw_only=True):
    """One session, in one epoch, on a worker."""

    session: SessionId
    epoch: U32


class HeldSessions(Message, frozen=True, kw_only=True):
    """A worker whose connection was gone says which of the gateway's sessions it holds: all of them, or none.

    What it holds no more, and what it said before, may not have arrived.
    """

    worker: Name
    role: Role
    sessions: tuple[HeldSession, ...]


class StillHeld(Message, frozen=True, kw_only=True):
    """Reply to `HeldSessions`: those that nobody else has taken over. The worker drops the others."""

    sessions: tuple[HeldSession, ...]


class HandoffReport(Message, frozen=True, kw_only=True):
    """What the hand-off took, sent by both ends.

    `visible_ms`: prefill's last token computed -> decode's first step may start. Clocks are never compared, so decode
    says what it was told, until the manifest left; prefill says when it heard that all is there, one way back included.
    The larger one counts. Its stages: `publish_ms`, prefill's last token computed -> manifest sent; `wire_ms`, from
    there until prefill heard that all is there (prefill says it); `import_ms`, decode's work on all chunks, most of it
    done while prefill computed; `first_step_ms`, all there -> first step done (decode says both). `encoding` is how the
    cells came, in words, and whether that was lossy (decode says it).
    """

    worker: Name
    visible_ms: float
    payload_bytes: Count
    chunks: Count
    resent_chunks: Count = 0
    publish_ms: float | None = None
    wire_ms: float | None = None
    import_ms: float | None = None
    first_step_ms: float | None = None
    encoding: str | None = None


class TokenFrame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens `[index, index + n)` of one session, as int32 bytes, or its end, or both.

    `error` stands where the session ended without finishing. Reports travel once, with the first frame of a phase.
    `began` says that the engine of this phase takes the session up now: of prefill always, of decode for one on trial.
    """

    session: str
    epoch: U32
    index: Count
    ids: bytes
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish: FinishReason | None = None
    error: ErrorInfo | None = None
    prefill: PrefillReport | None = None
    handoff: HandoffReport | None = None
    began: Role | None = None


class TokenBatch(Message, frozen=True, kw_only=True):
    """All frames one worker has for one gateway after one step."""

    worker: Name
    frames: tuple[TokenFrame, ...]


class PromptQuarantined(Message, frozen=True, kw_only=True):
    """From one gateway to all: this prompt of `model` has crashed two workers, refuse it for so long.

    `prompt` is the BLAKE2b-128 of its token ids as int32 bytes, in hex.
    """

    gateway: Name
    model: str
    prompt: SessionId
    for_ms: Count
