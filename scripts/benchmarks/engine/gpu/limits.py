"""What one pass must move and must compute, and how fast this device does either: the floors the engine is held to."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from shared.engine.llama_config import LlamaConfig

BYTES_PER_S = 4.3e12
"""A large copy on an H200, read and written bytes together. An H100 does about 3.0e12."""
FLOPS_PER_S = 790e12
"""A large bf16 matrix product of random numbers on an H100 or an H200."""

_COPY_BYTES = 2 << 30
_MATRIX = 8192
_ROUNDS = 10


def matrix_weights(config: LlamaConfig) -> int:
    """Numbers in all matrices of one pass, that of the logits apart."""
    layer = config.hidden_size * (config.qkv_size + config.query_size + 3 * config.intermediate_size)
    return config.layers * layer


def decode_bytes(config: LlamaConfig, batch: int, context: int) -> int:
    """Bytes one step reads at the least: every matrix once, and the KV of every sequence; bf16."""
    kv = 2 * config.layers * config.kv_heads * config.head_dim * context * batch
    return 2 * (matrix_weights(config) + config.vocab_size * config.hidden_size + kv)


def prefill_flops(config: LlamaConfig, tokens: int) -> float:
    """Operations of a whole prompt: matrices, causal attention, and the logits of one row."""
    attention = 2 * config.layers * config.heads * config.head_dim * tokens * tokens
    return 2.0 * matrix_weights(config) * tokens + attention + 2 * config.vocab_size * config.hidden_size


def copy_rate(device: torch.device) -> float:
    """Bytes per second of a large copy on the device, read and written together."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / median_s(lambda: target.copy_(source))


def matrix_rate(device: torch.device) -> float:
    """Operations per second of a large bf16 matrix product of random numbers."""
    a, b = torch.randn((2, _MATRIX, _MATRIX), dtype=torch.bfloat16, device=device)
    return 2.0 * _MATRIX**3 / median_s(lambda: a @ b)


def median_s(work: Callable[[], object]) -> float:
    """Seconds the device takes for `work`, between two events; the first rounds do not count."""
    spent = []
    for _ in range(_ROUNDS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        stop.synchronize()
        spent.append(start.elapsed_time(stop) / 1000)
    return statistics.median(spent[2:])
