"""A decode pass reads nothing of the host, and waits for nothing: a CUDA graph can hold it.

On torch's `meta` device, whose tensors have no values: an operation that wants one, or mixes devices, fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_tiny
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shared.core import blocks_of
from shared.engine.attention import AttentionKind
from shared.engine.checkpoint import read_checkpoint
from shared.engine.cuda.graphs import SIZES
from shared.engine.cuda.kernels import PagedKernels, Rope
from shared.engine.cuda.pages import Pages
from shared.engine.cuda.step_inputs import StepInputs
from shared.engine.kv_memory import BLOCK_TOKENS, KvMemory
from shared.engine.llama_runner import LlamaModel, LlamaRunner
from shared.engine.packed import Piece, pack

META = torch.device("meta")
HOST = torch.device("cpu")


class ShapeKernels(PagedKernels):
    """Results of the right shape. Launching a kernel on anything that is not on the device is an AssertionError."""

    tile_tokens = 128

    def add_rms_norm(
        self, hidden: torch.Tensor, update: torch.Tensor | None, weight: torch.Tensor, _eps: float
    ) -> torch.Tensor:
        _check_on_device(hidden, update, weight)
        return torch.empty_like(hidden)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        _check_on_device(gate_up)
        return gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)

    def rope_store(self, kv: torch.Tensor, qkv: torch.Tensor, pages: Pages, rope: Rope) -> None:
        _check_on_device(kv, qkv, rope.cosines, rope.sines, rope.query_norm, rope.key_norm, *_tensors(pages))

    def store(self, kv: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pages: Pages) -> None:
        _check_on_device(kv, key, value, *_tensors(pages))

    def attend(self, kv: torch.Tensor, query: torch.Tensor, pages: Pages, _kind: AttentionKind) -> torch.Tensor:
        _check_on_device(kv, query, *_tensors(pages))
        return query.new_empty(query.shape)


class HostReads(TorchDispatchMode):
    """Which operations took a tensor of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, operation: Any, _types: Any, arguments: Sequence[Any] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        named = named or {}
        tensors = [leaf for leaf in tree_leaves((arguments, named)) if isinstance(leaf, torch.Tensor)]
        if any(tensor.device == HOST for tensor in tensors):
            self.found.append(str(operation))
        return operation(*arguments, **named)


def _tensors(pages: Pages) -> list[torch.Tensor]:
    return [pages.tables, pages.row_segments, pages.positions, pages.lengths, pages.segments, pages.tiles]


def _check_on_device(*tensors: torch.Tensor | None) -> None:
    assert all(tensor is None or tensor.device == META for tensor in tensors)


@pytest.fixture(params=["llama", "qwen3", "smollm3"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> LlamaModel:
    """With head norms, or with layers that turn nothing, or neither."""
    return LlamaModel.load(read_checkpoint(save_tiny(request.param, tmp_path)), torch.bfloat16, META)


@pytest.fixture
def memory(model: LlamaModel) -> KvMemory:
    return KvMemory(model.layout, 16 << 20, META)


@pytest.fixture
def runner(model: LlamaModel, memory: KvMemory) -> LlamaRunner:
    return model.runner(memory, ShapeKernels())


@pytest.mark.parametrize("size", SIZES)
def test_a_decode_pass_takes_nothing_from_the_host(runner: LlamaRunner, size: int) -> None:
    inputs = StepInputs(max(SIZES), blocks_of(256, BLOCK_TOKENS), META)
    with torch.inference_mode(), HostReads() as reads:
        logits = runner.logits(inputs.batch(size))
    assert (len(logits), logits.device, reads.found) == (size, META, [])


def test_a_prefill_pass_computes_on_the_device_alone(runner: LlamaRunner, memory: KvMemory) -> None:
    """Its tables come from the host once; no kernel and no product takes a tensor from there."""
    prompts = [[5] * 3, [7] * 200]
    pieces = [Piece(memory.reserve(len(one) + 1, one), one, 0, wants_logits=True) for one in prompts]
    with torch.inference_mode():
        logits = runner.logits(pack(pieces, runner.row_rule, META))
    assert (len(logits), logits.device) == (2, META)
