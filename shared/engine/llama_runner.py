"""The fused path: the Llama-like families with four matrix products and a few calls per layer.

Reads its weights itself and loads nothing of transformers. A model it does not know in every detail is refused, and
goes the general path. Knows tensors, not sequences; `torch_engine` loads and calls it.
"""

from __future__ import annotations

from functools import partial

import torch

from shared.core import KvLayout
from shared.engine.checkpoint import Checkpoint
from shared.engine.cpu_attention import CpuAttention
from shared.engine.cuda.kernels import PagedKernels
from shared.engine.cuda.ops import PagedOps
from shared.engine.kv_memory import KvMemory
from shared.engine.llama_config import LlamaConfig, read_config
from shared.engine.llama_native import NativeOps
from shared.engine.llama_ops import LlamaOps, TorchOps
from shared.engine.llama_rope import angle_tables
from shared.engine.llama_weights import LlamaWeights, read_weights
from shared.engine.load_progress import OnProgress, nobody
from shared.engine.native import Kernels
from shared.engine.packed import PackedBatch
from shared.engine.runner import AnyKernels


class LlamaModel:
    """A loaded model, before it has its memory."""

    def __init__(self, config: LlamaConfig, weights: LlamaWeights, dtype: torch.dtype) -> None:
        self.config, self.weights, self.dtype = config, weights, dtype

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        device: torch.device,
        progress: OnProgress = nobody,
        *,
        native: Kernels | None = None,
    ) -> LlamaModel:
        """`native` kernels multiply by the weights where they can.

        Raises UnsupportedModel for a model that is not known in every detail.
        """
        config = read_config(checkpoint.config)
        return cls(config, read_weights(checkpoint.weights, config, dtype, device, progress, kernels=native), dtype)

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def context_tokens(self) -> int:
        return self.config.context_tokens

    @property
    def layout(self) -> KvLayout:
        config = self.config
        name = str(self.dtype).removeprefix("torch.")
        return KvLayout(layers=config.layers, kv_heads=config.kv_heads, head_dim=config.head_dim, dtype=name)

    def runner(self, memory: KvMemory, kernels: AnyKernels | None) -> LlamaRunner:
        """What runs it on the KV memory of its sequences, with native `kernels` where they know its shape."""
        tokens = min(self.config.context_tokens, memory.usage.total_bytes // self.layout.token_bytes)
        angles = angle_tables(self.config.rope, self.config.head_dim, tokens, self.dtype)
        ops: LlamaOps
        if isinstance(kernels, PagedKernels):
            ops = PagedOps(self.config, self.dtype, angles, kernels, memory.arena)
        elif kernels is not None and kernels.supports(self.dtype, self.config.head_dim):
            ops = NativeOps(self.config, self.dtype, angles, kernels, own_products=self.weights.own_products)
        else:
            ops = TorchOps(self.config, self.dtype, angles, partial(CpuAttention, memory))
        return LlamaRunner(self.weights, ops)


class LlamaRunner:
    """See `runner.Runner`."""

    def __init__(self, weights: LlamaWeights, ops: LlamaOps) -> None:
        self._weights = weights
        self._ops = ops
        self._next_norms = (*(layer.input_norm for layer in weights.layers[1:]), weights.final_norm)
        self.row_rule = ops.row_rule
        self.own_products = weights.own_products

    def logits(self, batch: PackedBatch) -> torch.Tensor:
        """See `runner.Runner`. Behind the last layer's attention, rows whose logits nobody wants are dropped."""
        weights, ops = self._weights, self._ops
        one_pass = ops.begin(batch)
        hidden = weights.embedding.index_select(0, batch.input_ids[0])
        normed = ops.norm(hidden, weights.layers[0].input_norm)
        for index, (layer, next_norm) in enumerate(zip(weights.layers, self._next_norms, strict=True)):
            attended = one_pass.attend(index, layer, layer.qkv(normed))
            batch.on_layer(index + 1)
            if layer is weights.layers[-1]:
                if not batch.logits:
                    return hidden.new_empty((0, weights.head.outputs))
                attended, hidden = (rows.index_select(0, batch.logit_rows) for rows in (attended, hidden))
            normed = ops.add_norm(hidden, layer.output(attended), layer.mlp_norm)
            update = layer.down(ops.silu_mul(layer.gate_up(normed)))
            normed = ops.add_norm(hidden, update, next_norm)
        return weights.head(normed)[: batch.logits]
