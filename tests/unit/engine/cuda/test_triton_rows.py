"""Norms, activation, rope and stores in Triton against plain torch, to the bit where roundings decide it."""

import pytest
import torch
from paged_cases import Shape, arena, scattered, slices
from triton_here import DEVICE

from shared.engine.cuda.kernels import Rope
from shared.engine.cuda.torch_kernels import TorchKernels
from shared.engine.cuda.triton_kernels import TritonKernels

DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [
    pytest.param(Shape(4, 2, 16, torch.float32), id="gqa-f32"),
    pytest.param(Shape(9, 3, 64, torch.bfloat16), id="smollm-bf16"),
    pytest.param(Shape(3, 3, 40, torch.float32), id="odd-dim-f32"),
]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3}


def close(ours: torch.Tensor, reference: torch.Tensor) -> None:
    error = (ours.float() - reference.float()).norm() / reference.float().norm()
    assert error < TOLERANCE[ours.dtype], f"relative error {error}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 576, 1000])
@pytest.mark.parametrize("adds", [True, False])
def test_add_rms_norm(dtype: torch.dtype, width: int, adds: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden, update = torch.randn((2, 5, width), generator=generator).to(DEVICE, dtype)
    weight = torch.randn(width, generator=generator).to(DEVICE, dtype)
    other = hidden.clone()
    ours = TritonKernels(dtype, 64).add_rms_norm(hidden, update if adds else None, weight, 1e-5)
    reference = TorchKernels().add_rms_norm(other, update if adds else None, weight, 1e-5)
    assert torch.equal(hidden, other)
    close(ours, reference)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [96, 1536])
def test_silu_mul(dtype: torch.dtype, width: int) -> None:
    gate_up = (3 * torch.randn((4, 2 * width), generator=torch.Generator().manual_seed(2))).to(DEVICE, dtype)
    close(TritonKernels(dtype, 64).silu_mul(gate_up), TorchKernels().silu_mul(gate_up))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rotates", [True, False])
@pytest.mark.parametrize("norms", [True, False])
def test_rope_store(shape: Shape, rotates: bool, norms: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    stops = [3, 130]
    spaces, blocks = scattered(stops, generator)
    pages = slices([(spaces[0], 0, 3), (spaces[1], 60, 130)], 2, 64, DEVICE)
    width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    qkv = torch.randn((75, width), generator=generator).to(DEVICE, shape.dtype)
    angles = torch.rand((200, shape.head_dim // 2), generator=generator) * 6
    weights = torch.randn((2, shape.head_dim), generator=generator).to(DEVICE, shape.dtype)
    rope = Rope(
        cosines=angles.cos().to(DEVICE, shape.dtype) if rotates else None,
        sines=angles.sin().to(DEVICE, shape.dtype) if rotates else None,
        query_norm=weights[0] if norms else None,
        key_norm=weights[1] if norms else None,
        eps=1e-5,
    )
    memory, other = arena(shape, blocks, DEVICE), arena(shape, blocks, DEVICE)
    reference = qkv.clone()
    TritonKernels(shape.dtype, shape.head_dim).rope_store(memory[1], qkv, pages, rope)
    TorchKernels().rope_store(other[1], reference, pages, rope)
    queries = shape.heads * shape.head_dim
    close(qkv[:, :queries], reference[:, :queries])
    same_places(memory, other)
    if shape.dtype == torch.bfloat16 and not norms:
        assert torch.equal(qkv[:, :queries], reference[:, :queries])


@pytest.mark.parametrize("shape", SHAPES)
def test_store(shape: Shape) -> None:
    generator = torch.Generator().manual_seed(4)
    spaces, blocks = scattered([70, 64], generator)
    pages = slices([(spaces[0], 0, 70), (spaces[1], 63, 64)], 1, 64, DEVICE)
    key, value = torch.randn((2, 72, shape.kv_heads, shape.head_dim), generator=generator).to(DEVICE, shape.dtype)
    memory, other = arena(shape, blocks, DEVICE), arena(shape, blocks, DEVICE)
    TritonKernels(shape.dtype, shape.head_dim).store(memory[0], key.transpose(0, 1), value.transpose(0, 1), pages)
    TorchKernels().store(other[0], key.transpose(0, 1), value.transpose(0, 1), pages)
    assert torch.equal(memory.nan_to_num(77.0), other.nan_to_num(77.0))


def same_places(ours: torch.Tensor, reference: torch.Tensor) -> None:
    """What was written is alike, and nothing else was written."""
    assert torch.equal(ours.isnan(), reference.isnan())
    close(ours.nan_to_num(0.0), reference.nan_to_num(0.0))
