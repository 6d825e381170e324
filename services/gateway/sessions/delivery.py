"""Exactly once, in order: what of the frames that arrive is new to the client. Plain object, one per session."""

from __future__ import annotations

from shared.core import FinishReason, SampledToken, TokenLogprob
from shared.errors import BatonError, ProtocolError, error_from
from shared.protocol.to_gateway import TokenFrame
from shared.protocol.wire import unpack_ids


class Delivery:
    """Orders tokens by index and shuts out other epochs. `next_index` tokens have been delivered.

    Frames come from two workers over two connections, so a later index may arrive first: it is held until the gap
    closes. An end counts once all tokens before it are there.
    """

    def __init__(self, epoch: int = 0, next_index: int = 0) -> None:
        self.epoch = epoch
        self.next_index = next_index
        self.finish: FinishReason | None = None
        self.error: BatonError | None = None
        self._held: dict[int, SampledToken] = {}
        self._end: tuple[int, FinishReason] | None = None

    @property
    def waits(self) -> bool:
        """Whether something later has arrived, and what comes before it has not."""
        return bool(self._held) or (self._end is not None and self.finish is None)

    def begin(self, epoch: int) -> None:
        """Frames of `epoch` count from now on, and no others."""
        self.epoch = epoch
        self.error = None
        self._held.clear()
        self._end = None

    def accept(self, frame: TokenFrame) -> list[SampledToken]:
        """The tokens that are next, now that `frame` is here. Sets `finish` or `error` when it brings the end."""
        if frame.epoch != self.epoch or self.finish is not None:
            return []
        if frame.error is not None:
            self.error = error_from(frame.error)
            return []
        tokens = _tokens(frame)
        for index, token in enumerate(tokens, start=frame.index):
            if index >= self.next_index:
                self._held.setdefault(index, token)
        if frame.finish is not None:
            self._end = (frame.index + len(tokens), frame.finish)
        return self._release()

    def _release(self) -> list[SampledToken]:
        released = []
        while (token := self._held.pop(self.next_index, None)) is not None:
            released.append(token)
            self.next_index += 1
        if self._end is not None and self._end[0] <= self.next_index:
            self.finish = self._end[1]
        return released


def _tokens(frame: TokenFrame) -> list[SampledToken]:
    ids = unpack_ids(frame.ids)
    if any(token_id < 0 for token_id in ids):
        raise ProtocolError("a token id is negative")
    logprobs: tuple[TokenLogprob | None, ...] = (None,) * len(ids) if frame.logprobs is None else frame.logprobs
    if len(logprobs) != len(ids):
        raise ProtocolError(f"{len(ids)} tokens with {len(logprobs)} log-probabilities")
    return [SampledToken(token_id, logprob) for token_id, logprob in zip(ids, logprobs, strict=True)]
