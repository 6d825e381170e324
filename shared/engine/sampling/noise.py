"""The noise of a draw: exponential variables that are a function of (seed, position, token id) and nothing else.

Counter-based: SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, with
Stafford's "Mix13" finalizer; constants as in Vigna's public-domain splitmix64.c), used as a hash of its counter. Its
arithmetic is modulo 2**64; torch's int64 wraps around the same way, and a mask makes right shifts logical.

A vocabulary is cut into blocks of `BLOCK_TOKENS`. Exponential variables are memoryless, so those of a block can be
made from their minimum: it is Exp(BLOCK_TOKENS), each token is equally likely to have it, and every other token's
variable exceeds it by an Exp(1) of its own (Rényi, "On the theory of order statistics", 1953). Jointly they are
independent Exp(1), as if drawn one by one; but a draw may read a block's minimum and skip the block.
"""

from __future__ import annotations

import torch

BLOCK_TOKENS = 64

_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_WORD = (1 << 64) - 1
_UNIFORM_BITS = 52
_BLOCK_COUNTERS = 1 << 40


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def mix_word(word: int) -> int:
    """SplitMix64's finalizer of one unsigned 64-bit integer."""
    word = ((word ^ (word >> 30)) * _MIX_1) & _WORD
    word = ((word ^ (word >> 27)) * _MIX_2) & _WORD
    return word ^ (word >> 31)


def stream_key(seed: int, position: int) -> int:
    """The key of all noise at `position` of a sequence with `seed`, as a signed 64-bit integer."""
    seeded = mix_word((seed + _GAMMA) & _WORD)
    return _signed(mix_word((seeded + (position + 1) * _GAMMA) & _WORD))


def mix(words: torch.Tensor) -> torch.Tensor:
    """`mix_word` of each element; int64 bits stand for unsigned words. Overwrites and returns `words`."""
    words.bitwise_xor_((words >> 30).bitwise_and_(_WORD >> 30)).mul_(_signed(_MIX_1))
    words.bitwise_xor_((words >> 27).bitwise_and_(_WORD >> 27)).mul_(_signed(_MIX_2))
    return words.bitwise_xor_((words >> 31).bitwise_and_(_WORD >> 31))


def words_at(keys: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """The 64-bit words of streams `keys` at `counters` (both int64, broadcast): output number `counter` of each."""
    return mix(keys + (counters + 1) * _signed(_GAMMA))


def exponentials(words: torch.Tensor) -> torch.Tensor:
    """Exp(1) variables in float64 from the top 52 bits of each word; none is 0 or infinite."""
    uniforms = ((words >> (64 - _UNIFORM_BITS)) & ((1 << _UNIFORM_BITS) - 1)).double()
    return uniforms.add_(0.5).mul_(2.0**-_UNIFORM_BITS).log_().neg_()


def block_minima(keys: torch.Tensor, blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of streams `keys` [rows]: each block's smallest exponential (float64) and which of its tokens has it (int64).

    Both [rows, blocks]. The token is given as 0..BLOCK_TOKENS-1; it comes from bits the exponential does not use.
    """
    counters = torch.arange(_BLOCK_COUNTERS, _BLOCK_COUNTERS + blocks, device=keys.device)
    words = words_at(keys[:, None], counters)
    return exponentials(words).div_(BLOCK_TOKENS), words & (BLOCK_TOKENS - 1)


def block_exponentials(
    keys: torch.Tensor, block_ids: torch.Tensor, minima: torch.Tensor, first: torch.Tensor
) -> torch.Tensor:
    """All exponentials of some blocks: [rows, n, BLOCK_TOKENS] float64.

    `block_ids`, `minima` and `first` are [rows, n]; the latter two as `block_minima` gave them for these blocks.
    """
    lanes = torch.arange(BLOCK_TOKENS, device=keys.device)
    words = words_at(keys[:, None, None], block_ids[:, :, None] * BLOCK_TOKENS + lanes)
    beyond = exponentials(words).masked_fill_(lanes == first[:, :, None], 0.0)
    return beyond.add_(minima[:, :, None])
