"""Which runner a model gets: a fused one where its family is known in every detail, else the general path.

`torch_engine` calls it. Knows no sequences.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch

from shared.core import KvLayout
from shared.engine.attention import AttentionContext
from shared.engine.checkpoint import Checkpoint
from shared.engine.cuda.attention import PagedAttention
from shared.engine.cuda.kernels import PagedKernels
from shared.engine.kv_memory import KvMemory
from shared.engine.load_progress import OnProgress, nobody
from shared.engine.native import Kernels
from shared.engine.packed import PackedBatch
from shared.engine.runner import AnyKernels, Runner
from shared.engine.runner_kind import RunnerKind
from shared.errors import UnsupportedModel

_log = logging.getLogger(__name__)


class LoadedModel(Protocol):
    """A model's weights in memory, before the engine knows how much KV memory there is."""

    @property
    def vocab_size(self) -> int:
        """How many logits there are."""

    @property
    def context_tokens(self) -> int:
        """The longest sequence that is computed exactly."""

    @property
    def layout(self) -> KvLayout:
        """What one token takes in the cache."""

    def runner(self, memory: KvMemory, kernels: AnyKernels | None) -> Runner:
        """What computes logits, on that memory; without `kernels`, in torch calls alone."""


def load_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    kind: RunnerKind,
    progress: OnProgress = nobody,
    *,
    native: Kernels | None = None,
) -> LoadedModel:
    """`native` kernels multiply by the weights where they can.

    Raises UnsupportedModel for a model that `kind` does not honour exactly.
    """
    if kind is RunnerKind.GENERAL:
        return _GeneralModel(checkpoint, dtype, device)
    from shared.engine.llama_runner import LlamaModel  # noqa: PLC0415

    try:
        return LlamaModel.load(checkpoint, dtype, device, progress, native=native)
    except UnsupportedModel as error:
        if kind is RunnerKind.FUSED:
            raise
        _log.info("%s goes the general path: %s", checkpoint.folder.name, error)
    return _GeneralModel(checkpoint, dtype, device)


class _GeneralModel:
    """A transformers model. See `LoadedModel`."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
        from shared.engine import general_runner, support  # noqa: PLC0415

        self._model: Any = general_runner.load_model(checkpoint, dtype, device)
        config = self._model.config
        self.vocab_size = int(config.vocab_size)
        self.context_tokens = support.context_tokens(config)
        self.layout = general_runner.probe(self._model).layout(config, str(dtype).removeprefix("torch."))

    def runner(self, memory: KvMemory, kernels: AnyKernels | None) -> Runner:
        from shared.engine.general_runner import GeneralRunner  # noqa: PLC0415

        return GeneralRunner(self._model, self._attention(memory, kernels))

    def _attention(self, memory: KvMemory, kernels: AnyKernels | None) -> Callable[[PackedBatch], AttentionContext]:
        if isinstance(kernels, PagedKernels):
            return partial(PagedAttention, kernels, memory.arena)
        from shared.engine.cpu_attention import CpuAttention  # noqa: PLC0415
        from shared.engine.native_attention import NativeAttention  # noqa: PLC0415

        if kernels is not None and kernels.supports(self._model.dtype, self.layout.head_dim):
            return partial(NativeAttention, kernels)
        return partial(CpuAttention, memory)
