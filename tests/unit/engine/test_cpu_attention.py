"""CPU attention against the formula in float64."""

from __future__ import annotations

import pytest
import torch

from shared.core import KvLayout
from shared.engine.attention import AttentionKind
from shared.engine.cpu_attention import CpuAttention
from shared.engine.kv_memory import KvMemory
from shared.engine.packed import Piece, RowRule, pack

CPU = torch.device("cpu")
HEAD_DIM = 16
KINDS = [
    AttentionKind(0.25),
    AttentionKind(0.25, softcap=3.0),
    AttentionKind(0.25, window=16),
    AttentionKind(0.3, softcap=5.0, window=600),
]


def formula(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kind: AttentionKind) -> torch.Tensor:
    """One whole sequence, `[heads, tokens, head_dim]` each: `[tokens, heads, head_dim]`."""
    group = query.shape[0] // key.shape[0]
    key, value = key.double().repeat_interleave(group, 0), value.double().repeat_interleave(group, 0)
    scores = query.double() @ key.transpose(1, 2) * kind.scale
    if kind.softcap is not None:
        scores = torch.tanh(scores / kind.softcap) * kind.softcap
    position = torch.arange(query.shape[1])
    age = position.unsqueeze(1) - position
    hidden = (age < 0) | (age >= (kind.window or 10**6))
    return (scores.masked_fill(hidden, float("-inf")).softmax(-1) @ value).transpose(0, 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (6, 2), (4, 4)])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_equals_the_formula(dtype: str, heads: int, kv_heads: int, kind: AttentionKind) -> None:
    torch.manual_seed(0)
    memory = KvMemory(KvLayout(2, kv_heads, HEAD_DIM, dtype), 8 << 20, CPU)
    lengths, cut = (1, 70, 1300), 69
    spaces = [memory.reserve(length) for length in lengths]
    torch_dtype = memory.arena.dtype
    inputs = [
        [torch.randn(count, length, HEAD_DIM).to(torch_dtype) for count in (heads, kv_heads, kv_heads)]
        for length in lengths
    ]
    for spans in ([(0, 0), (0, cut), (0, 1299)], [(0, 1), (cut, 70), (1299, 1300)]):
        chosen = [index for index, (start, stop) in enumerate(spans) if start < stop]
        pieces = [
            Piece(spaces[index], range(spans[index][1] - spans[index][0]), spans[index][0], False) for index in chosen
        ]
        batch = pack(pieces, RowRule(minimum=2, multiple=1), CPU)
        filling = batch.input_ids.shape[1] - sum(one.tokens for one in batch.segments)
        query, key, value = (packed(inputs, which, chosen, spans, filling) for which in range(3))
        out = CpuAttention(memory, batch).attend(1, query, key, value, kind)
        for index, segment in zip(chosen, batch.segments, strict=True):
            expected = formula(*inputs[index], kind)[slice(*spans[index])]
            got = out[segment.row : segment.row + segment.tokens].double()
            torch.testing.assert_close(got, expected, atol=3e-2 if dtype == "bfloat16" else 1e-5, rtol=0)
        assert not out[out.shape[0] - filling :].any()


def packed(
    inputs: list[list[torch.Tensor]], which: int, chosen: list[int], spans: list[tuple[int, int]], filling: int
) -> torch.Tensor:
    """The chosen sequences' spans end to end, and ones where nobody may look."""
    parts = [inputs[index][which][:, slice(*spans[index])] for index in chosen]
    parts.append(parts[0].new_ones(parts[0].shape[0], filling, HEAD_DIM))
    return torch.cat(parts, dim=1)
