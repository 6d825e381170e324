"""What the sampler remembers of one sequence between draws: its parameters, its position, the tokens penalties count.

Knows no logits. The engine makes one per sequence at `open`, and appends every token, drawn here or elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from shared.core import SamplingParams
from shared.engine.sampling.noise import stream_key
from shared.engine.sampling.token_counts import TokenCounts
from shared.errors import InvalidRequest

MIN_TEMPERATURE = 1e-5


class SamplerState:
    """One sequence's side of sampling.

    `prompt_ids` are all tokens known at the start, the last `emitted` of them generated. Raises InvalidRequest when
    `logit_bias`, `stop_token_ids` or (where penalties need them) `prompt_ids` hold an id outside the vocabulary.
    """

    __slots__ = (
        "_ban_ids",
        "_generated",
        "_known_tokens",
        "_min_tokens",
        "bias_ids",
        "bias_values",
        "generated_counts",
        "greedy",
        "sampling",
        "seen_counts",
        "temperature",
    )

    def __init__(
        self,
        sampling: SamplingParams,
        prompt_ids: Sequence[int],
        emitted: int,
        vocab_size: int,
        eos_token_ids: tuple[int, ...],
    ) -> None:
        self.sampling = sampling
        self.greedy = sampling.greedy or sampling.top_k == 1
        self.temperature = max(sampling.temperature, MIN_TEMPERATURE)
        self._known_tokens, self._generated, self._min_tokens = len(prompt_ids), emitted, sampling.min_tokens
        self.bias_ids = _checked(sampling.logit_bias, vocab_size, "logit_bias")
        self.bias_values = np.array(list(sampling.logit_bias.values()), dtype=np.float32)
        stops = _checked(sampling.stop_token_ids, vocab_size, "stop_token_ids")
        ends = () if sampling.ignore_eos else [i for i in eos_token_ids if 0 <= i < vocab_size]
        self._ban_ids = np.union1d(stops, np.array(ends, dtype=np.int64))
        repeats = sampling.repetition_penalty != 1.0
        self.seen_counts = TokenCounts(_checked(prompt_ids, vocab_size, "prompt").tolist()) if repeats else None
        self.generated_counts: TokenCounts | None = None
        if sampling.presence_penalty or sampling.frequency_penalty:
            generated = prompt_ids[len(prompt_ids) - emitted :]
            self.generated_counts = TokenCounts(_checked(generated, vocab_size, "prompt").tolist())

    @property
    def known_tokens(self) -> int:
        """Tokens known so far, prompt and generated: the position of the next draw."""
        return self._known_tokens

    @property
    def banned_ids(self) -> npt.NDArray[np.int64]:
        """Ids that may not be drawn now: what would end the sequence, while it has fewer than `min_tokens`.

        With `ignore_eos` end-of-sequence ids end nothing, and are not banned.
        """
        return self._ban_ids if self._generated < self._min_tokens else self._ban_ids[:0]

    @property
    def adjusts_logits(self) -> bool:
        """Whether bias, ban or penalties touch the next logits."""
        return bool(
            self.bias_ids.size
            or self.seen_counts
            or (self.generated_counts and self.generated_counts.ids.size)
            or self.banned_ids.size
        )

    @property
    def stream_key(self) -> int:
        """The key of the next draw's noise."""
        return stream_key(self.sampling.seed, self._known_tokens)

    def append(self, token_id: int) -> None:
        """Take up a generated token."""
        self._known_tokens += 1
        self._generated += 1
        if self.seen_counts is not None:
            self.seen_counts.add(token_id)
        if self.generated_counts is not None:
            self.generated_counts.add(token_id)


def _checked(token_ids: Iterable[int], vocab_size: int, param: str) -> npt.NDArray[np.int64]:
    ids = list(token_ids)
    for token_id in ids:
        if not 0 <= token_id < vocab_size:
            raise InvalidRequest(
                f"{param} has token id {token_id}, outside the vocabulary of {vocab_size}", param=param
            )
    return np.array(ids, dtype=np.int64)
