"""The general path: any transformers decoder that leaves its attention to a registered function.

The model's own modules run, with linear layers prepacked and attention replaced. Knows tensors, not sequences;
`torch_engine` loads and calls it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from shared.engine import attention, linear
from shared.engine.checkpoint import Checkpoint
from shared.engine.contract import OnLayer
from shared.engine.packed import PackedBatch, RowRule
from shared.engine.support import ProbeAttention, check_config
from shared.engine.team import ROWS_AT_ONCE
from shared.errors import UnsupportedModel

_VECTOR_ELEMENTS = 64
_MIN_ROWS = {torch.float32: 4, torch.bfloat16: 2}


def load_model(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> Any:
    """The transformers model of `checkpoint`, checked against what the engine honours. Raises UnsupportedModel."""
    import transformers  # noqa: PLC0415

    attention.register()
    transformers.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(
            checkpoint.folder, local_files_only=True, trust_remote_code=False
        )
        check_config(config)
        model = _model_class(config).from_pretrained(
            checkpoint.folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention.ATTENTION_NAME,
            local_files_only=True,
            use_safetensors=True,
        )
    except ValueError as error:
        raise UnsupportedModel(f"{checkpoint.folder.name}: {error}") from error
    return model.to(device).eval()


def probe(model: Any) -> ProbeAttention:
    """Run four tokens through `model`, and see what each layer asks. Raises UnsupportedModel."""
    seen = ProbeAttention()
    tokens = torch.zeros((1, 4), dtype=torch.int64, device=model.device)
    with torch.inference_mode():
        _forward(model, tokens, torch.arange(4, device=model.device).unsqueeze(0), tokens[0, :0], seen)
    return seen


class GeneralRunner:
    """Runs a transformers model. See `runner.Runner`."""

    def __init__(self, model: Any, attention_of: Callable[[PackedBatch], attention.AttentionContext]) -> None:
        """`attention_of` makes the context that computes one forward pass's attention."""
        self._model = model
        self._attention_of = attention_of
        self.row_rule = _row_rule(model)
        self.own_products = False
        if linear.can_pack(model.dtype, model.device):
            linear.pack_linears(model)
        linear.share_linears(model)

    def logits(self, batch: PackedBatch) -> torch.Tensor:
        context = _Telling(self._attention_of(batch), batch.on_layer)
        logits = _forward(self._model, batch.input_ids, batch.position_ids, batch.logit_rows, context)
        return logits[: batch.logits]


class _Telling:
    """An attention context that tells of every layer it is done with."""

    def __init__(self, context: attention.AttentionContext, on_layer: OnLayer) -> None:
        self._context = context
        self._on_layer = on_layer

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kind: attention.AttentionKind
    ) -> torch.Tensor:
        attended = self._context.attend(layer, query, key, value, kind)
        self._on_layer(layer + 1)
        return attended


def _forward(
    model: Any,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    logit_rows: torch.Tensor,
    context: attention.AttentionContext,
) -> torch.Tensor:
    output = model(
        input_ids=input_ids,
        position_ids=position_ids,
        use_cache=False,
        logits_to_keep=logit_rows,
        **{attention.CONTEXT_ARGUMENT: context},
    )
    logits: torch.Tensor = output.logits[0]
    return logits


def _model_class(config: Any) -> Any:
    """The transformers class the checkpoint names. Raises UnsupportedModel unless the engine can drive it."""
    import transformers  # noqa: PLC0415

    name = (config.architectures or ["nothing"])[0]
    model_class = getattr(transformers, name, None)
    if model_class is None:
        raise UnsupportedModel(f"transformers has no architecture called {name}")
    if not getattr(model_class, "_supports_attention_backend", False):
        raise UnsupportedModel(f"{name} does not leave its attention to a registered function")
    if "logits_to_keep" not in inspect.signature(model_class.forward).parameters:
        raise UnsupportedModel(f"{name} cannot compute the logits of chosen rows")
    return model_class


def _row_rule(model: Any) -> RowRule:
    """How many rows make a row's bits independent of its place and its neighbours.

    Matrix kernels differ for fewer than two rows in bf16 and fewer than four in float32, and there, on several threads,
    for what whole fours leave over. Element-wise kernels compute the rest of a vector with other code than whole
    vectors, so every layer's output must be a whole number of them.
    """
    config = model.config
    widths = {module.out_features for module in model.base_model.modules() if isinstance(module, nn.Linear)}
    widths |= {
        config.hidden_size,
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
    }
    if getattr(config, "final_logit_softcapping", None):
        widths.add(config.vocab_size)
    multiple = max(_VECTOR_ELEMENTS // math.gcd(_VECTOR_ELEMENTS, width) for width in widths)
    return RowRule(minimum=_MIN_ROWS[model.dtype], multiple=max(multiple, ROWS_AT_ONCE[model.dtype]))
