"""Linear layers of a model's own modules: laid out once, as the CPU's bf16 matrix kernel wants them, and on threads.

Packed ones have the bits of `torch.nn.Linear`, and are about twice as fast at few rows. Knows no model;
`general_runner` calls it.
"""

from __future__ import annotations

import torch
from torch import nn

from shared.engine import team
from shared.engine.team import Team


class PackedLinear(nn.Module):
    """A bias-or-not linear layer on a prepacked bf16 weight. Inference only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous())
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., in_features]` -> `[..., out_features]`."""
        if not x.numel():
            return x.new_empty((*x.shape[:-1], self.out_features))
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return result


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this machine's torch has the prepacked kernel for `dtype`."""
    return device.type == "cpu" and dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack_linears(model: nn.Module) -> None:
    """Replace every `nn.Linear` inside `model`; weights shared with an embedding stay there as well."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, PackedLinear(child))


def share_linears(model: nn.Module) -> None:
    """Compute every linear layer inside `model` on as many threads as torch has now."""
    if not team.helps_on(next(model.parameters()).device):
        return
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415 - slow to import, and only models of its own have any

    for module in model.modules():
        if isinstance(module, nn.Linear | PackedLinear | Conv1D):
            _share(module, Team())


def _share(module: nn.Module, threads: Team) -> None:
    forward = module.forward

    def shared(*arguments: torch.Tensor) -> torch.Tensor:
        with threads:
            result: torch.Tensor = forward(*arguments)
            return result

    setattr(module, "forward", shared)  # noqa: B010 - a method, to the type checker
