"""From sampled tokens to deltas: text through the detokenizer, ended by a stop string or by the workers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from services.gateway.generation import Delta, DeltaToken, GenerationRequest, Timings
from shared.core import FinishReason, SampledToken
from shared.errors import InvalidRequest
from shared.text.detokenizer import Detokenizer
from shared.text.tokenizer import Tokenizer


class DeltaWriter:
    """Writes the deltas of one generation."""

    def __init__(self, tokenizer: Tokenizer, request: GenerationRequest) -> None:
        self._detokenizer = Detokenizer(
            tokenizer, stop=request.stop, previous_ids=request.prompt_ids, min_tokens=request.sampling.min_tokens
        )

    def write(self, tokens: Sequence[SampledToken], finish: FinishReason | None) -> Delta:
        """The next delta. It has `finish` when the workers ended, or when a stop string did."""
        piece = self._detokenizer.push([token.token_id for token in tokens])
        text, stop_match = piece.text, piece.stop_match
        if finish is not None and stop_match is None:
            rest = self._detokenizer.finish()
            text, stop_match = text + rest.text, rest.stop_match
        return Delta(
            text=text,
            tokens=tuple(
                DeltaToken(token.token_id, token_text, token.logprob)
                for token, token_text in zip(tokens, piece.token_texts, strict=False)
            ),
            finish=FinishReason.STOP if stop_match is not None else finish,
            stop_match=stop_match,
        )


class RestWriter:
    """Writes the deltas of a generation for a client that has its first `after` tokens, and all text up to there.

    What is held back depends on the tokens alone, not on how they were cut, so its text goes on without a seam. The
    text of the last token is all the rest: where the client has that token, only the end is left to say.
    """

    def __init__(self, tokenizer: Tokenizer, request: GenerationRequest, after: int) -> None:
        self._writer = DeltaWriter(tokenizer, request)
        self._after = after

    def write(self, tokens: Sequence[SampledToken], finish: FinishReason | None) -> list[Delta]:
        """The next deltas; the last tokens must come together with the finish.

        Raises InvalidRequest when it ends by itself before the client's last token.
        """
        known, new = tokens[: self._after], tokens[self._after :]
        self._after -= len(known)
        if self._after and finish not in (None, FinishReason.CANCELLED):
            raise InvalidRequest(f"the answer ends {self._after} tokens before the one to go on after", param="after")
        deltas = [self._known(known, None if new else finish)] if known else []
        if deltas and deltas[0].finish is not None:
            return [_without_end(deltas[0]), *self._end(deltas[0])]
        if new:
            return [*deltas, self._writer.write(new, finish)]
        return deltas if finish is None else [Delta(text="", tokens=(), finish=finish)]

    def _known(self, tokens: Sequence[SampledToken], finish: FinishReason | None) -> Delta:
        return msgspec.structs.replace(self._writer.write(tokens, finish), known=True)

    def _end(self, known: Delta) -> list[Delta]:
        return [Delta(text="", tokens=(), finish=known.finish, stop_match=known.stop_match)]


def _without_end(delta: Delta) -> Delta:
    return msgspec.structs.replace(delta, finish=None, stop_match=None)


def with_timings(delta: Delta, timings: Timings | None) -> Delta:
    """`delta`, the last one, with the timeline."""
    return msgspec.structs.replace(delta, timings=timings)
