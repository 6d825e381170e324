"""From sampled tokens to deltas: text through the detokenizer, ended by a stop string or by the workers."""

from __future__ import annotations

from collections.abc import Sequence

from services.gateway.generation import Delta, DeltaToken, GenerationRequest, Timings
from shared.core import FinishReason, SampledToken
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


def with_timings(delta: Delta, timings: Timings) -> Delta:
    """`delta`, the last one, with the timeline."""
    return Delta(
        text=delta.text, tokens=delta.tokens, finish=delta.finish, stop_match=delta.stop_match, timings=timings
    )
