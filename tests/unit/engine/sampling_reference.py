"""A slow, plain-Python reading of what the sampler must do to one row. No tensors; the tests compare with it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from shared.core import SamplingParams


def adjusted(
    logits: Sequence[float],
    sampling: SamplingParams,
    prompt: Sequence[int],
    generated: Sequence[int],
    ends: Sequence[int],
) -> list[float]:
    """Logits after bias, ban, repetition penalty, presence and frequency penalty, in that order."""
    scores = [score + sampling.logit_bias.get(token, 0.0) for token, score in enumerate(logits)]
    if len(generated) < sampling.min_tokens:
        for token in {*sampling.stop_token_ids, *(() if sampling.ignore_eos else ends)}:
            scores[token] = -math.inf
    for token in {*prompt, *generated}:
        penalty = sampling.repetition_penalty
        scores[token] = scores[token] * penalty if scores[token] < 0 else scores[token] / penalty
    for token, count in Counter(generated).items():
        scores[token] -= sampling.frequency_penalty * count + sampling.presence_penalty
    return scores


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    best = max(logits)
    weights = [math.exp((logit - best) / temperature) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


def kept(logits: Sequence[float], sampling: SamplingParams) -> set[int]:
    """Tokens left by top_k, then top_p of the rest, then min_p; what ties with the last one kept is kept."""
    ranked = sorted(range(len(logits)), key=lambda token: -logits[token])
    if 0 < sampling.top_k < len(ranked):
        last = logits[ranked[sampling.top_k - 1]]
        ranked = [token for token in ranked if logits[token] >= last]
    probabilities = dict(zip(ranked, softmax([logits[token] for token in ranked], sampling.temperature), strict=True))
    if sampling.top_p < 1:
        mass, last = 0.0, ranked[-1]
        for token in ranked:
            mass += probabilities[token]
            if mass >= sampling.top_p:
                last = token
                break
        ranked = [token for token in ranked if logits[token] >= logits[last]]
    floor = sampling.min_p * probabilities[ranked[0]]
    return {token for token in ranked if probabilities[token] >= floor}
