"""The native kernels' attention against the formula, and row by row, bit by bit, against itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from attention_formula import formula
from native_library import lone_kernels, native_kernels, needs_compiler, plain_kernels, shared_kernels

from shared.core import KvLayout
from shared.engine.attention import AttentionKind
from shared.engine.kv_memory import KvMemory, KvSpace
from shared.engine.native import Kernels
from shared.engine.native_attention import NativeAttention
from shared.engine.packed import Piece, RowRule, pack

CPU = torch.device("cpu")
KINDS = [
    AttentionKind(0.25),
    AttentionKind(0.25, softcap=3.0),
    AttentionKind(0.25, window=16),
    AttentionKind(0.3, softcap=5.0, window=150),
]
DTYPES = ["float32", "bfloat16"]
pytestmark = needs_compiler


@pytest.fixture(
    scope="module", params=[native_kernels, plain_kernels, shared_kernels], ids=["native", "plain", "threads"]
)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    build: Callable[[], Kernels] = request.param
    return build()


class Case:
    """Sequences of random queries, keys and values, and their memory, which held NaN before."""

    def __init__(self, dtype: str, heads: int, kv_heads: int, head_dim: int, lengths: Sequence[int]) -> None:
        torch.manual_seed(0)
        self.memory = KvMemory(KvLayout(2, kv_heads, head_dim, dtype), 24 << 20, CPU)
        self.memory.arena.fill_(float("nan"))
        self.memory.arena[:, :, :, 1].zero_()
        self.spaces = scattered(self.memory, lengths)
        self.inputs = [
            [torch.randn(count, length, head_dim).to(self.memory.arena.dtype) for count in (heads, kv_heads, kv_heads)]
            for length in lengths
        ]

    def attend(self, kernels: Kernels, spans: dict[int, tuple[int, int]], kind: AttentionKind) -> list[torch.Tensor]:
        """One pass over tokens `spans[index]` of the sequences: `[tokens, heads, head_dim]` of each."""
        pieces = [Piece(self.spaces[index], range(span[1] - span[0]), span[0], False) for index, span in spans.items()]
        batch = pack(pieces, RowRule(minimum=2, multiple=1), CPU)
        filling = batch.input_ids.shape[1] - sum(one.tokens for one in batch.segments)
        query, key, value = (self._packed(which, spans, filling) for which in range(3))
        out = NativeAttention(kernels, batch).attend(1, query, key, value, kind)
        assert not out[out.shape[0] - filling :].any()
        return [out[one.row : one.row + one.tokens] for one in batch.segments]

    def _packed(self, which: int, spans: dict[int, tuple[int, int]], filling: int) -> torch.Tensor:
        """The spans end to end, and ones where nobody may look."""
        parts = [self.inputs[index][which][:, slice(*span)] for index, span in spans.items()]
        parts.append(parts[0].new_ones(parts[0].shape[0], filling, parts[0].shape[2]))
        return torch.cat(parts, dim=1)


def scattered(memory: KvMemory, lengths: Sequence[int]) -> list[KvSpace]:
    """Spaces whose blocks lie out of order, with others' between them."""
    blocks = [memory.reserve(1) for _ in range(2 * sum(length // 64 + 1 for length in lengths))]
    for one in blocks[::2]:
        memory.release(one)
    return [memory.reserve(length) for length in lengths]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 16), (6, 2, 64), (4, 4, 48), (14, 2, 128), (2, 1, 80), (2, 1, 256)], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_equals_the_formula(kernels: Kernels, dtype: str, shape: tuple[int, int, int], kind: AttentionKind) -> None:
    case = Case(dtype, *shape, (1, 70, 700))
    expected = [formula(*inputs, kind) for inputs in case.inputs]
    for spans in ({1: (0, 69), 2: (0, 699)}, {0: (0, 1), 1: (69, 70), 2: (699, 700)}):
        for (index, span), got in zip(spans.items(), case.attend(kernels, spans, kind), strict=True):
            tolerance = 3e-2 if dtype == "bfloat16" else 5e-5
            torch.testing.assert_close(got.double(), expected[index][slice(*span)], atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(9, 3, 64), (8, 1, 128), (2, 2, 48)], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_row_has_the_same_bits_in_every_cut_and_batch(
    kernels: Kernels, dtype: str, shape: tuple[int, int, int], kind: AttentionKind
) -> None:
    length = 203
    case = Case(dtype, *shape, (length, 130, 65))
    (whole,) = case.attend(kernels, {0: (0, length)}, kind)
    for first, second in ((1, 2), (63, 64), (64, 190), (17, 201)):
        cuts = [(0, first), (first, second), (second, length)]
        parts = [case.attend(kernels, {1: (0, 130), 0: span, 2: (0, 65)}, kind)[1] for span in cuts]
        assert torch.equal(torch.cat(parts), whole)
    steps = [case.attend(kernels, {0: (at, at + 1), 1: (129, 130)}, kind)[0] for at in range(length)]
    assert torch.equal(torch.cat(steps), whole)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_threads_change_no_bit(dtype: str, kind: AttentionKind) -> None:
    """Also where slices differ so much in length that they are taken out of order."""
    case = Case(dtype, 14, 2, 64, (600, 1, 130, 65))
    for spans in ({0: (0, 600), 1: (0, 1), 2: (0, 130), 3: (64, 65)}, {1: (0, 1), 3: (64, 65), 0: (599, 600)}):
        expected = case.attend(native_kernels(), spans, kind)
        for kernels in (shared_kernels(), lone_kernels()):
            found = case.attend(kernels, spans, kind)
            assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_queries_and_keys_of_any_strides(kernels: Kernels) -> None:
    case = Case("bfloat16", 4, 2, 32, (90,))
    (expected,) = case.attend(kernels, {0: (0, 90)}, KINDS[0])
    case.inputs = [[one.transpose(0, 1).contiguous().transpose(0, 1) for one in case.inputs[0]]]
    batch = pack([Piece(case.spaces[0], range(90), 0, False)], RowRule(minimum=2, multiple=1), CPU)
    assert torch.equal(NativeAttention(kernels, batch).attend(1, *case.inputs[0], KINDS[0]), expected)
    spread = [torch.repeat_interleave(one, 2, dim=2)[:, :, ::2] for one in case.inputs[0]]
    assert torch.equal(NativeAttention(kernels, batch).attend(1, *spread, KINDS[0]), expected)
