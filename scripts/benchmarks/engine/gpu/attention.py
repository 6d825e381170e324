"""The paged attention kernels alone, and torch's own on keys and values that lie in one piece: is ours the brake?"""

from __future__ import annotations

import torch

from benchmarks.engine.gpu.limits import median_s
from shared.engine.attention import AttentionKind
from shared.engine.cuda.pages import decode_pages, pages_of
from shared.engine.cuda.triton_kernels import TritonKernels
from shared.engine.kv_memory import BLOCK_TOKENS
from shared.engine.llama_config import LlamaConfig
from shared.engine.packed import Segment

BATCH = 32


class _Space:
    """As much of a `KvSpace` as pages are made of."""

    def __init__(self, blocks: int) -> None:
        self.numbers = tuple(reversed(range(blocks)))


def attention_ms(config: LlamaConfig, tokens: int, device: torch.device) -> dict[str, float]:
    """One layer's attention: a prompt of `tokens`, and a step of `BATCH` sequences that share one cache of them."""
    blocks = -(-tokens // BLOCK_TOKENS)
    kv = torch.randn((blocks, 2, config.kv_heads, BLOCK_TOKENS, config.head_dim), device=device).bfloat16()
    query = torch.randn((tokens, config.heads, config.head_dim), device=device).bfloat16()
    kernels, kind = TritonKernels(torch.bfloat16, config.head_dim), AttentionKind(scale=config.head_dim**-0.5)
    space = _Space(blocks)
    prompt = pages_of([Segment(space, 0, tokens, 0)], tokens, device, kernels.tile_tokens)  # type: ignore[arg-type]
    tables = torch.tensor([space.numbers], dtype=torch.int32, device=device).repeat(BATCH, 1)
    lengths = torch.full((BATCH,), tokens, dtype=torch.int32, device=device)
    step = decode_pages(tables, lengths - 1, lengths)
    keys, values = torch.randn((2, 1, config.kv_heads, tokens, config.head_dim), device=device).bfloat16()
    by_head = query.transpose(0, 1)[None]
    found = {
        "attention_prefill_ms": median_s(lambda: kernels.attend(kv, query, prompt, kind)),
        "attention_decode_b32_ms": median_s(lambda: kernels.attend(kv, query[:BATCH], step, kind)),
        "sdpa_prefill_ms": median_s(
            lambda: torch.nn.functional.scaled_dot_product_attention(
                by_head, keys, values, is_causal=True, enable_gqa=True
            )
        ),
    }
    work = 2.0 * config.heads * config.head_dim * tokens * tokens
    for name in ("attention_prefill_ms", "sdpa_prefill_ms"):
        print(f"{name} of one layer: {1000 * found[name]:.3f}, {work / found[name] / 1e12:.0f} TFLOP/s")
    return {name: round(1000 * seconds, 4) for name, seconds in found.items()}
