"""Prepacked linear layers: the bits of `nn.Linear`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared.engine.linear import PackedLinear, can_pack, pack_linears

pytestmark = pytest.mark.skipif(
    not can_pack(torch.bfloat16, torch.device("cpu")), reason="this CPU has no prepacked bf16 kernel"
)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 9, 300])
def test_same_bits_as_linear(bias: bool, rows: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(192, 320, bias=bias, dtype=torch.bfloat16)
    x = torch.randn(1, rows, 192).bfloat16()
    with torch.inference_mode():
        assert torch.equal(PackedLinear(linear)(x), linear(x))


def test_no_rows_give_no_rows() -> None:
    packed = PackedLinear(nn.Linear(8, 16, dtype=torch.bfloat16))
    assert packed(torch.empty(1, 0, 8, dtype=torch.bfloat16)).shape == (1, 0, 16)


def test_every_linear_inside_is_replaced_and_shared_weights_stay() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(32, 16), "inner": nn.Sequential(nn.Linear(16, 32)), "head": None})
    model["head"] = nn.Linear(16, 32, bias=False)
    model["head"].weight = model["embed"].weight
    model.bfloat16()
    pack_linears(model)
    assert [type(module) for module in (model["inner"][0], model["head"])] == [PackedLinear, PackedLinear]
    assert model["embed"].weight.shape == (32, 16)


def test_float32_is_not_packed() -> None:
    assert not can_pack(torch.float32, torch.device("cpu"))
