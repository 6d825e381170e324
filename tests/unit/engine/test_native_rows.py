"""The native element-wise kernels against the modules of transformers they stand for: the same bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kv_views import kv_of
from native_library import native_kernels, needs_compiler, plain_kernels, shared_kernels
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from shared.core import KvLayout
from shared.engine.kv_memory import KvMemory
from shared.engine.native import HeadNorms, Kernels, KvTable, RopeTables
from shared.engine.packed import PackedBatch, Piece, RowRule, pack

CPU = torch.device("cpu")
pytestmark = needs_compiler


@pytest.fixture(
    scope="module", params=[native_kernels, plain_kernels, shared_kernels], ids=["native", "plain", "threads"]
)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    build: Callable[[], Kernels] = request.param
    return build()


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    torch.manual_seed(1)
    assert isinstance(request.param, torch.dtype)
    return request.param


def norm_of(width: int, dtype: torch.dtype, eps: float = 1e-5) -> LlamaRMSNorm:
    norm = LlamaRMSNorm(width, eps).to(dtype)
    torch.nn.init.normal_(norm.weight)
    return norm


@pytest.mark.parametrize("width", [16, 64, 72, 576, 1000, 4096, 14336])
@torch.inference_mode()
def test_residual_and_norm(kernels: Kernels, dtype: torch.dtype, width: int) -> None:
    norm = norm_of(width, dtype)
    hidden, delta = (torch.randn(37, width).mul_(3).to(dtype) for _ in range(2))
    expected = hidden + delta
    out = torch.empty_like(hidden)
    kernels.add_rms_norm(hidden, delta, norm.weight, 1e-5, out)
    assert torch.equal(hidden, expected)
    assert torch.equal(out, norm(expected))
    kernels.add_rms_norm(hidden, None, norm.weight, 1e-5, out)
    assert torch.equal(hidden, expected)
    assert torch.equal(out, norm(expected))


@torch.inference_mode()
def test_silu_of_every_bf16_number(kernels: Kernels) -> None:
    gate = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16).view(16, -1)
    gate = torch.where(gate.isfinite(), gate, torch.zeros_like(gate))
    up = torch.randn(gate.shape).to(torch.bfloat16)
    out = torch.empty_like(gate)
    kernels.silu_mul(torch.cat((gate, up), dim=1), out)
    assert torch.equal(out, torch.nn.functional.silu(gate) * up)


@torch.inference_mode()
def test_silu_of_float32(kernels: Kernels) -> None:
    gate, up = torch.linspace(-120, 120, 40_000).view(8, -1), torch.randn(8, 5000)
    out = torch.empty_like(gate)
    kernels.silu_mul(torch.cat((gate, up), dim=1), out)
    torch.testing.assert_close(out, torch.nn.functional.silu(gate) * up, rtol=5e-7, atol=1e-37)


def packed(memory: KvMemory, spans: list[tuple[int, int]]) -> PackedBatch:
    return pack(
        [Piece(memory.reserve(stop), range(stop - start), start, False) for start, stop in spans],
        RowRule(minimum=2, multiple=8),
        CPU,
    )


@pytest.mark.parametrize("with_norms", [False, True])
@pytest.mark.parametrize("shape", [(9, 3, 64), (4, 2, 16), (6, 1, 128), (3, 3, 48)], ids=str)
@torch.inference_mode()
def test_rope_and_cache(kernels: Kernels, dtype: torch.dtype, shape: tuple[int, int, int], with_norms: bool) -> None:
    heads, kv_heads, head_dim = shape
    memory = KvMemory(KvLayout(2, kv_heads, head_dim, str(dtype).removeprefix("torch.")), 4 << 20, CPU)
    batch = packed(memory, [(0, 70), (100, 101), (3, 9)])
    rows = batch.input_ids.shape[1]
    qkv = torch.randn(rows, (heads + 2 * kv_heads) * head_dim).to(dtype)
    angles = torch.arange(200)[:, None] / 1e4 ** (torch.arange(0, head_dim, 2) / head_dim)
    rope = RopeTables(angles.cos() * 1.1, angles.sin() * 1.1)
    norms = [norm_of(head_dim, dtype, 1e-6) for _ in range(2)]
    split = qkv.clone().view(rows, -1, head_dim).split((heads, kv_heads, kv_heads), dim=1)
    query, key, value = (one.transpose(0, 1)[None] for one in split)
    if with_norms:
        query, key = norms[0](query), norms[1](key)
    cos, sin = (torch.cat((one, one), 1)[batch.position_ids].to(dtype) for one in (rope.cos, rope.sin))
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    weights = HeadNorms(norms[0].weight, norms[1].weight, 1e-6) if with_norms else None
    kernels.rope_store(KvTable(batch), 1, qkv, rope, weights)
    for one in batch.segments:
        chosen = slice(one.row, one.row + one.tokens)
        assert torch.equal(
            qkv[chosen, : heads * head_dim].view(-1, heads, head_dim), query[0, :, chosen].transpose(0, 1)
        )
        kv = kv_of(one.space)[1, :, :, one.start : one.stop]
        assert torch.equal(kv[0], key[0, :, chosen])
        assert torch.equal(kv[1], value[0, :, chosen])
        assert not kv_of(one.space)[0].any()


@torch.inference_mode()
def test_rope_of_a_part_of_each_head(kernels: Kernels, dtype: torch.dtype) -> None:
    memory = KvMemory(KvLayout(1, 2, 32, str(dtype).removeprefix("torch.")), 1 << 20, CPU)
    batch = packed(memory, [(5, 13)])
    qkv = torch.randn(8, 6 * 32).to(dtype)
    angles = torch.arange(20)[:, None] / 1e4 ** (torch.arange(0, 8, 2) / 8)
    heads = qkv.clone().view(8, 6, 32)[:, :4].transpose(0, 1)[None]
    cos, sin = (torch.cat((one, one), 1)[batch.position_ids].to(dtype) for one in (angles.cos(), angles.sin()))
    turned, _ = apply_rotary_pos_emb(heads[..., :8], heads[..., :8], cos, sin)
    kernels.rope_store(KvTable(batch), 0, qkv, RopeTables(angles.cos(), angles.sin()))
    expected = torch.cat((turned, heads[..., 8:]), dim=-1)[0]
    assert torch.equal(qkv.view(8, 6, 32)[:, :2].transpose(0, 1), expected[:2])
    assert torch.equal(kv_of(batch.segments[0].space)[0, 0, :, 5:13], expected[2:4])


def test_tensors_that_do_not_fit_are_refused(kernels: Kernels) -> None:
    rows = torch.zeros(4, 32)
    with pytest.raises(ValueError, match="out"):
        kernels.silu_mul(torch.zeros(4, 64), rows.to(torch.bfloat16))
    with pytest.raises(ValueError, match="delta"):
        kernels.add_rms_norm(rows, torch.zeros(4, 31), torch.ones(32), 1e-5, torch.empty(4, 32))
    with pytest.raises(ValueError, match="weight"):
        kernels.add_rms_norm(rows, None, torch.ones(31), 1e-5, torch.empty(4, 32))
