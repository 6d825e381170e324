"""What the journal knows of one session, put together from its records. Plain object; no I/O.

`Journal` reads the records, `KeptSessions` goes on from here.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.gateway.generation import GenerationRequest, Timings
from shared.bus.memory_stream import Stored
from shared.core import FinishReason, SampledToken
from shared.errors import BatonError, ProtocolError, error_from
from shared.protocol.journal import Appended, Opened, Owned
from shared.protocol.wire import decode, pack_ids, unpack_ids


class History:
    """One session up to now: `tokens` without a gap, and `finish` or `error` once it has ended.

    `owner_sequence` is that of the record which says whose it is, 0 while it is that of its first gateway.
    """

    def __init__(self, opened: Opened) -> None:
        self.session = opened.session
        self.request = _request(opened)
        self.model = opened.model
        self.tenure = 0
        self.owner_sequence = 0
        self.left_s = opened.deadline_ms / 1000
        self.arithmetic = self.fingerprint = ""
        self.tokens: list[SampledToken] = []
        self.finish: FinishReason | None = None
        self.error: BatonError | None = None
        self.timings: Timings | None = None

    @classmethod
    def of(cls, records: Iterable[Stored]) -> History | None:
        """From a session's records, the oldest first; None without its request. Raises ProtocolError."""
        records = list(records)
        opened = next((record for record in records if record.subject.endswith(".request")), None)
        if opened is None:
            return None
        history = cls(decode(Opened, opened.data))
        for record in records:
            history._take_in(record)
        return history

    @property
    def ended(self) -> bool:
        return self.finish is not None or self.error is not None

    def _take_in(self, record: Stored) -> None:
        kind = record.subject.rsplit(".", 1)[-1]
        if kind == "owner":
            owned = decode(Owned, record.data)
            self.tenure = max(self.tenure, owned.tenure)
            self.owner_sequence = record.sequence
        elif kind == "tokens":
            self._append(decode(Appended, record.data))

    def _append(self, appended: Appended) -> None:
        """What an owner of the past still writes counts for nothing; nor does what comes after a gap."""
        known = len(self.tokens)
        if appended.tenure < self.tenure or appended.index > known or self.ended:
            return
        self.tokens += _tokens(appended)[known - appended.index :]
        self.left_s = appended.left_ms / 1000
        self.arithmetic = appended.arithmetic or self.arithmetic
        self.fingerprint = appended.fingerprint or self.fingerprint
        if appended.finish is not None or appended.error is not None:
            self.finish, self.timings = appended.finish, appended.timings
            self.error = None if appended.error is None else error_from(appended.error)


def opened(session: str, request: GenerationRequest, *, gateway: str, model: str) -> Opened:
    """The record of a request."""
    return Opened(
        session=session,
        request_id=request.request_id,
        gateway=gateway,
        model=model,
        prompt_ids=pack_ids(request.prompt_ids),
        max_tokens=request.max_tokens,
        sampling=request.sampling,
        stop=request.stop,
        cache_salt=request.cache_salt,
        deadline_ms=max(1, int(request.deadline_s * 1000)),
        rendering=request.rendering,
    )


def _request(opened: Opened) -> GenerationRequest:
    return GenerationRequest(
        request_id=opened.request_id,
        prompt_ids=tuple(unpack_ids(opened.prompt_ids)),
        max_tokens=opened.max_tokens,
        sampling=opened.sampling,
        stop=opened.stop,
        cache_salt=opened.cache_salt,
        deadline_s=opened.deadline_ms / 1000,
        resumable=True,
        rendering=opened.rendering,
    )


def _tokens(appended: Appended) -> list[SampledToken]:
    ids = unpack_ids(appended.ids)
    logprobs = appended.logprobs or (None,) * len(ids)
    if len(logprobs) != len(ids):
        raise ProtocolError(f"{len(ids)} tokens with {len(logprobs)} log-probabilities")
    return [SampledToken(token_id, logprob) for token_id, logprob in zip(ids, logprobs, strict=True)]
