"""The engine on CUDA: the torch engine with paged kernels, graphs for decode, and KV through pinned memory.

A prefill call waits for the device before it returns, and tells of layers as the device is done with them; a step ends
with its tokens on the host. So whatever a later call on another thread reads is there. See `contract.Engine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch

from shared.core import KvLayout, KvRegion, ModelSpec, SampledToken, blocks_of
from shared.engine.contract import OnLayer
from shared.engine.cuda.layer_events import LayerEvents
from shared.engine.cuda.place import cuda_device, wait_for, within_memory
from shared.engine.cuda.steps import DeviceSteps
from shared.engine.cuda.transfer import DeviceTransfer
from shared.engine.kv_memory import BLOCK_TOKENS, TORCH_DTYPES, KvMemory
from shared.engine.llama_runner import LlamaRunner
from shared.engine.packed import Piece, pack, tell_nobody
from shared.engine.runner import AnyKernels, Runner
from shared.engine.sampling import sample
from shared.engine.torch_engine import EngineSequence, TorchEngine


class CudaEngine(TorchEngine):
    """See `contract.Engine`. What computes is for the thread that loaded it."""

    def __init__(self, spec: ModelSpec, runner: Runner, memory: KvMemory, device: torch.device) -> None:
        super().__init__(spec, runner, memory, device)
        self._transfer = DeviceTransfer(memory.arena)
        self._steps = DeviceSteps(runner, blocks_of(spec.context_tokens, BLOCK_TOKENS), device)

    @classmethod
    def load(cls, *arguments: Any, **settings: Any) -> Self:
        """See `TorchEngine.load`; `device` is cuda or cuda:N. Raises ConfigError where that is missing or too small."""
        # Partial sums of bf16 products stay in float32.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        with within_memory(f"the model with {settings.get('kv_bytes')} bytes of KV memory"):
            return super().load(*arguments, **{"device": "cuda"} | settings)

    @staticmethod
    def _place(device: str) -> torch.device:
        place = cuda_device(device)
        torch.cuda.set_device(place)
        return place

    @staticmethod
    def _native(_cache: Path | None, _threads: int) -> None:
        """None is for a GPU."""

    @staticmethod
    def _kernels(layout: KvLayout, _native: object) -> AnyKernels | None:
        from shared.engine.cuda.triton_kernels import TritonKernels  # noqa: PLC0415 - not on every machine

        return TritonKernels(TORCH_DTYPES[layout.dtype], layout.head_dim)

    def warm_up(self) -> None:
        """Compile every kernel and capture the graphs of decode. Call it while idle; takes tens of seconds.

        Raises ConfigError when KV memory has left too little for it.
        """
        with within_memory("the work of a pass beside the model and its KV memory"):
            super().warm_up()
            # What is built of a model's own modules may wait for the device, which a graph cannot hold.
            if isinstance(self._runner, LlamaRunner) and self._device.type == "cuda":
                self._steps.capture()

    def export_kv(self, key: str, region: KvRegion) -> memoryview:
        return self._transfer.read(self._sequences[key].space, region)

    def export_kv_parts(self, key: str, region: KvRegion) -> list[memoryview]:
        return [self.export_kv(key, region)]

    def import_kv(self, key: str, region: KvRegion, payload: memoryview) -> None:
        self._transfer.write(self._sequences[key].space, region, payload)

    def _next(self, sequences: Sequence[EngineSequence]) -> list[SampledToken]:
        with torch.inference_mode():
            return self._steps.step(sequences)

    def _forward(
        self, pieces: Sequence[Piece], sampled: Sequence[EngineSequence], on_layer: OnLayer | None
    ) -> list[SampledToken]:
        events = LayerEvents(self._device)
        with torch.inference_mode():
            note = tell_nobody if on_layer is None else events.note
            logits = self._runner.logits(pack(pieces, self._runner.row_rule, self._device, note))
            if on_layer is not None:
                events.tell(on_layer)
            tokens = sample(logits, [one.sampler for one in sampled])
        wait_for(self._device)
        return tokens
