"""Attention in Triton against plain torch: in the interpreter without a GPU, compiled with one."""

from __future__ import annotations

import pytest
import torch
from paged_cases import Shape, arena, fill, scattered, slices, steps
from triton_here import DEVICE

from shared.engine.attention import AttentionKind
from shared.engine.cuda.torch_kernels import TorchKernels
from shared.engine.cuda.triton_kernels import TritonKernels

SHAPES = [
    pytest.param(Shape(4, 2, 16, torch.float32), id="gqa-f32"),
    pytest.param(Shape(9, 3, 64, torch.bfloat16), id="smollm-bf16"),
    pytest.param(Shape(8, 2, 128, torch.bfloat16), id="llama3-bf16"),
    pytest.param(Shape(2, 2, 40, torch.float32), id="odd-dim-f32"),
    pytest.param(Shape(20, 1, 32, torch.float32), id="group-of-20-f32"),
]
KINDS = [
    pytest.param(AttentionKind(scale=0.3), id="plain"),
    pytest.param(AttentionKind(scale=0.5, softcap=5.0), id="softcap"),
    pytest.param(AttentionKind(scale=0.3, window=70), id="window"),
]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}


def close(ours: torch.Tensor, reference: torch.Tensor) -> None:
    error = (ours.float() - reference.float()).norm() / reference.float().norm()
    assert error < TOLERANCE[ours.dtype], f"relative error {error}"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_decode(shape: Shape, kind: AttentionKind) -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = [1, 64, 65, 300, 1100]
    spaces, blocks = scattered(lengths, generator)
    memory = arena(shape, blocks, DEVICE)
    for space, length in zip(spaces, lengths, strict=True):
        fill(memory, space, length, generator)
    pages = steps(spaces, lengths, 2, DEVICE)
    query = torch.randn((7, shape.heads, shape.head_dim), generator=generator).to(DEVICE, shape.dtype)
    ours = TritonKernels(shape.dtype, shape.head_dim).attend(memory[1], query, pages, kind)
    reference = TorchKernels().attend(memory[1], query, pages, kind)
    close(ours, reference)
    assert not ours[5:].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_decode_bits_do_not_depend_on_the_batch(shape: Shape) -> None:
    generator = torch.Generator().manual_seed(2)
    kind, lengths = AttentionKind(scale=0.3), [900, 130, 513]
    spaces, blocks = scattered(lengths, generator)
    memory = arena(shape, blocks, DEVICE)
    for space, length in zip(spaces, lengths, strict=True):
        fill(memory, space, length, generator)
    query = torch.randn((3, shape.heads, shape.head_dim), generator=generator).to(DEVICE, shape.dtype)
    kernels = TritonKernels(shape.dtype, shape.head_dim)
    together = kernels.attend(memory[0], query, steps(spaces, lengths, 1, DEVICE), kind)
    for index in range(3):
        pages = steps(spaces[index : index + 1], lengths[index : index + 1], 0, DEVICE)
        alone = kernels.attend(memory[0], query[index : index + 1], pages, kind)
        assert torch.equal(alone[0], together[index])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_prefill(shape: Shape, kind: AttentionKind) -> None:
    generator = torch.Generator().manual_seed(3)
    stops = [5, 200, 330]
    spaces, blocks = scattered(stops, generator)
    memory = arena(shape, blocks, DEVICE)
    for space, stop in zip(spaces, stops, strict=True):
        fill(memory, space, stop, generator)
    kernels = TritonKernels(shape.dtype, shape.head_dim)
    cuts = [(spaces[0], 0, 5), (spaces[1], 63, 200), (spaces[2], 329, 330)]
    pages = slices(cuts, 2, kernels.tile_tokens, DEVICE)
    query = torch.randn((5 + 137 + 1 + 2, shape.heads, shape.head_dim), generator=generator).to(DEVICE, shape.dtype)
    ours = kernels.attend(memory[1], query, pages, kind)
    close(ours, TorchKernels().attend(memory[1], query, pages, kind))
    assert not ours[-2:].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_prefill_bits_do_not_depend_on_the_cut(shape: Shape) -> None:
    generator = torch.Generator().manual_seed(4)
    kind = AttentionKind(scale=0.3)
    (space,), blocks = scattered([230], generator)
    memory = arena(shape, blocks, DEVICE)
    fill(memory, space, 230, generator)
    query = torch.randn((230, shape.heads, shape.head_dim), generator=generator).to(DEVICE, shape.dtype)
    kernels = TritonKernels(shape.dtype, shape.head_dim)
    whole = kernels.attend(memory[0], query, slices([(space, 0, 230)], 0, kernels.tile_tokens, DEVICE), kind)
    for start, stop in ((0, 100), (100, 101), (101, 230)):
        pages = slices([(space, start, stop)], 0, kernels.tile_tokens, DEVICE)
        part = kernels.attend(memory[0], query[start:stop], pages, kind)
        assert torch.equal(part, whole[start:stop])
