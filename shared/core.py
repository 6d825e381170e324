"""The words of the domain: models, KV layout, sampling parameters, sessions.

Knows nothing of NATS, torch or HTTP. Everything above imports it; it imports nothing of ours.
"""

from __future__ import annotations

import enum
import math

import msgspec

DTYPE_SIZE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class Role(enum.StrEnum):
    """What a process does in the fleet."""

    GATEWAY = "gateway"
    SCHEDULER = "scheduler"
    PREFILL = "prefill"
    DECODE = "decode"


class FinishReason(enum.StrEnum):
    """Why a generation ended. `STOP` covers end-of-sequence tokens and stop strings alike."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


class KvEncoding(enum.StrEnum):
    """How cells travel. `EXACT`: as they are; `INT8`: a byte each, with a scale per head and chunk, which is lossy."""

    EXACT = "exact"
    INT8 = "int8"

    @property
    def label(self) -> str:
        """For people, who must see that it is lossy."""
        return f"{self.value} (lossy)" if self is KvEncoding.INT8 else self.value


class KvLayout(msgspec.Struct, frozen=True):
    """Shape of the KV cache of one model: every layer holds K and V of `[kv_heads, tokens, head_dim]`."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str

    @property
    def token_layer_bytes(self) -> int:
        """Bytes of K and V together for one token in one layer."""
        return 2 * self.kv_heads * self.head_dim * DTYPE_SIZE_BYTES[self.dtype]

    @property
    def token_bytes(self) -> int:
        """Bytes of K and V together for one token over all layers."""
        return self.layers * self.token_layer_bytes


class KvRegion(msgspec.Struct, frozen=True):
    """A rectangle of one sequence's KV: layers `[layer_start, layer_stop)` x tokens `[token_start, token_stop)`.

    Its bytes are ordered `[layer, k|v, kv_head, token, head_dim]`, C-contiguous, native little-endian.
    """

    layer_start: int
    layer_stop: int
    token_start: int
    token_stop: int

    @property
    def layers(self) -> int:
        return self.layer_stop - self.layer_start

    @property
    def tokens(self) -> int:
        return self.token_stop - self.token_start

    def size_bytes(self, layout: KvLayout) -> int:
        return self.layers * self.tokens * layout.token_layer_bytes

    def fits(self, layout: KvLayout, tokens: int) -> bool:
        """Whether this is a non-empty rectangle inside `layout` and a sequence of `tokens` tokens."""
        return (
            0 <= self.layer_start < self.layer_stop <= layout.layers
            and 0 <= self.token_start < self.token_stop <= tokens
        )


class ModelParts(msgspec.Struct, frozen=True, kw_only=True):
    """Digests of what makes a model, 16 hex digits each, so that two that differ can say in what. Empty: not there."""

    weights: str = ""
    rope: str = ""
    config: str = ""
    tokenizer: str = ""


class ModelSpec(msgspec.Struct, frozen=True):
    """What two workers must agree on before one may hand a cache to the other, and how this one computes.

    `fingerprint` is 16 hex digits over all `parts`; equal fingerprints may pair, whatever the dtype of their caches.
    Workers of equal `arithmetic` compute the same bits; between others bf16 may round differently.
    """

    name: str
    fingerprint: str
    vocab_size: int
    context_tokens: int
    eos_token_ids: tuple[int, ...]
    layout: KvLayout
    parts: ModelParts = ModelParts()
    arithmetic: str = ""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is chosen. Ranges are checked at the edge; defaults leave the model's distribution alone.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 are off. The noise of a draw is a function of
    `(seed, position)` alone, so that any worker draws the same token. `logprobs` is how many alternatives to report
    (0: the chosen token only; None: nothing). `min_tokens` bans end-of-sequence and `stop_token_ids` before that many.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    logprobs: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Natural-log probabilities at one position, before temperature: the chosen token's and the top alternatives'."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class SampledToken(msgspec.Struct, frozen=True):
    """One sampled token; `logprob` is present when the request asked for it."""

    token_id: int
    logprob: TokenLogprob | None = None


def finish_reason(
    token_id: int, emitted: int, max_tokens: int, eos_token_ids: tuple[int, ...], sampling: SamplingParams
) -> FinishReason | None:
    """Whether a generation ends with `token_id` as its `emitted`-th token (counted from 1). None: it goes on."""
    if token_id in sampling.stop_token_ids or (token_id in eos_token_ids and not sampling.ignore_eos):
        return FinishReason.STOP
    if emitted >= max_tokens:
        return FinishReason.LENGTH
    return None


def blocks_of(tokens: int, block_tokens: int) -> int:
    """How many blocks of `block_tokens` hold `tokens`."""
    return math.ceil(tokens / block_tokens)
