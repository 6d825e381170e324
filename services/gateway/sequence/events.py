"""The events of one generation, made from its deltas. No I/O.

Knows deltas and events, nothing of who receives them. `SequenceRun` calls it.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import UNSET, UnsetType

from services.gateway import generation
from services.gateway.generation import DeltaToken, GenerationRequest
from shared.core import FinishReason
from shared.errors import BatonError, WorkerFailed
from shared.protocol.to_client import ClientLogprob, Delta, Failed, Finished, Started, TopToken, Usage

LOWEST_LOGPROB = -9999.0


class SequenceEvents:
    """Counts the tokens of one generation. `whole` keeps everything for the last event instead of saying deltas."""

    def __init__(self, request: GenerationRequest, model: str, *, whole: bool = False) -> None:
        self._prompt_tokens = len(request.prompt_ids)
        self._with_logprobs = request.sampling.logprobs is not None
        self._model = model
        self._whole: list[generation.Delta] | None = [] if whole else None
        self._tokens = 0

    def started(self, session: str) -> Started:
        return Started(session=session, model=self._model, prompt_tokens=self._prompt_tokens)

    def delta(self, delta: generation.Delta) -> Delta | None:
        """The new text and tokens, if there are any to say now. Raises WorkerFailed for an end that is a failure."""
        if delta.finish is FinishReason.ERROR:
            raise WorkerFailed("the generation failed")
        index = self._tokens
        self._tokens += len(delta.tokens)
        if delta.known:
            return None
        if self._whole is not None:
            self._whole.append(delta)
            return None
        if not delta.tokens and not delta.text:
            return None
        logprobs = self._logprobs(delta.tokens)
        return Delta(index=index, text=delta.text, token_ids=_ids(delta.tokens), logprobs=logprobs)

    def finished(self, reason: FinishReason, last: generation.Delta | None = None) -> Finished:
        """The end; `last` is the delta that brought it, None for a cancel."""
        text: str | UnsetType = UNSET
        token_ids: tuple[int, ...] | UnsetType = UNSET
        logprobs: tuple[ClientLogprob, ...] | UnsetType = UNSET
        if self._whole is not None:
            tokens = [token for delta in self._whole for token in delta.tokens]
            text, token_ids = "".join(delta.text for delta in self._whole), _ids(tokens)
            logprobs = self._logprobs(tokens)
        return Finished(
            finish_reason=reason,
            usage=Usage(self._prompt_tokens, self._tokens, self._prompt_tokens + self._tokens),
            stop_match=UNSET if last is None or last.stop_match is None else last.stop_match,
            timings=UNSET if last is None or last.timings is None else last.timings,
            text=text,
            token_ids=token_ids,
            logprobs=logprobs,
        )

    def _logprobs(self, tokens: Iterable[DeltaToken]) -> tuple[ClientLogprob, ...] | UnsetType:
        return tuple(_logprob(token) for token in tokens) if self._with_logprobs else UNSET


def failed(error: BatonError) -> Failed:
    """`error` as an event."""
    return Failed(
        code=error.code,
        message=error.message,
        param=UNSET if error.param is None else error.param,
        retry_after_ms=UNSET if error.retry_after_ms is None else error.retry_after_ms,
    )


def _ids(tokens: Iterable[DeltaToken]) -> tuple[int, ...]:
    return tuple(token.token_id for token in tokens)


def _logprob(token: DeltaToken) -> ClientLogprob:
    """JSON has no infinity: what cannot be sampled gets the conventional lowest value."""
    if token.logprob is None:
        return ClientLogprob(LOWEST_LOGPROB, ())
    top = tuple(TopToken(token_id, max(value, LOWEST_LOGPROB)) for token_id, value in token.logprob.top)
    return ClientLogprob(max(token.logprob.logprob, LOWEST_LOGPROB), top)
