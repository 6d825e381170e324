"""What everyone may hear: beats. State rebuilt from them is soft; nobody persists it."""

from __future__ import annotations

import enum

from shared.core import KvEncoding, ModelParts, Role
from shared.protocol.wire import Count, Message, Name, SessionId


class WorkerState(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


class Beat(Message, frozen=True, kw_only=True):
    """A process says it lives. Silent for three `interval_ms`, it is taken for dead.

    `boot` changes at every start, `connection` counts how often the process has connected again since: what it said
    around such a moment may be lost. Workers count their beats in `number`; `taken` are the sessions they have taken
    since their last one. Gateways and schedulers leave model and capacity empty. `begun_waiting` is what streams wait
    for at a scheduler that have begun and lost their workers: a fingerprint, or a model whose every worker will do.
    `queued_tokens` are prompt tokens accepted and not yet computed; `kv_free_bytes` is what a new session could
    reserve. `parts` say in what two models of one name differ; workers of equal `arithmetic` compute the same bits.
    `kv_encodings` are how prefill can send cells, or how decode takes them, first what it prefers.
    """

    worker: Name
    role: Role
    boot: str
    state: WorkerState
    interval_ms: Count
    connection: Count = 0
    number: Count = 0
    taken: tuple[SessionId, ...] = ()
    model: str = ""
    fingerprint: str = ""
    context_tokens: Count = 0
    kv_token_bytes: Count = 0
    kv_total_bytes: Count = 0
    kv_free_bytes: Count = 0
    sessions: Count = 0
    session_limit: Count = 0
    queued_tokens: Count = 0
    queue_limit_tokens: Count = 0
    tokens_per_s: float = 0.0
    parts: ModelParts = ModelParts()
    arithmetic: str = ""
    kv_encodings: tuple[str, ...] = (KvEncoding.EXACT.value,)
    begun_waiting: tuple[str, ...] = ()
