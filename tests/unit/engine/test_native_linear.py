"""The native linear layer: right, and each row's bits its own, however many rows there are and whoever computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from native_library import lone_kernels, native_kernels, needs_compiler, plain_kernels, shared_kernels

from shared.engine.matrix import matrix
from shared.engine.native import Kernels, NativeLinear
from shared.engine.native.linear import PANEL_OUTPUTS, in_panels

pytestmark = needs_compiler

SHAPES = [(1, 2), (31, 10), (33, 64), (100, 1536), (576, 576), (960, 576), (64, 4100), (130, 5000), (3072, 576)]
ROWS = 400


@pytest.fixture(scope="module", params=[native_kernels, shared_kernels], ids=["native", "threads"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    build: Callable[[], Kernels] = request.param
    kernels = build()
    if not kernels.multiplies(torch.bfloat16, 2):
        pytest.skip("this processor has no bf16 products")
    return kernels


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_product_rounded_once(kernels: Kernels, shape: tuple[int, int]) -> None:
    weight, bias, x = random(*shape), random(shape[0], seed=2), random(ROWS, shape[1], seed=3)
    exact = x.double() @ weight.double().T
    scale = x.double().abs() @ weight.double().abs().T
    found = kernels.linear(weight, bias)(x)
    assert found.dtype == torch.bfloat16
    with_bias = exact + bias.double()
    assert ((found.double() - with_bias).abs() <= with_bias.abs() * 2**-8 + scale * 1e-5).all()
    bare = kernels.linear(weight, None)(x)
    assert ((bare.double() - exact).abs() <= exact.abs() * 2**-8 + scale * 1e-5).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_has_the_same_bits_in_any_company(kernels: Kernels, shape: tuple[int, int]) -> None:
    """Also where other rows are not finite, and where several threads compute."""
    weight, bias, x = random(*shape), random(shape[0], seed=2), random(ROWS, shape[1], seed=3)
    layer, shared = (each.linear(weight, bias) for each in (kernels, shared_kernels()))
    whole = layer(x)
    assert torch.equal(shared(x), whole)
    for rows in (*range(1, 27), 37, 48, 97, 200):
        assert torch.equal(layer(x[:rows]), whole[:rows])
        assert torch.equal(layer(x[150 : 150 + rows]), whole[150 : 150 + rows])
        assert torch.equal(shared(x[:rows]), whole[:rows])
    x[::2] = float("nan")
    assert torch.equal(layer(x)[1::2], whole[1::2])


def test_rows_may_lie_apart(kernels: Kernels) -> None:
    layer, wide = kernels.linear(random(70, 40), None), random(50, 64)
    assert torch.equal(layer(wide[:, :40]), layer(wide[:, :40].contiguous()))


def test_no_rows_are_no_work(kernels: Kernels) -> None:
    assert kernels.linear(random(70, 40), None)(random(0, 40)).shape == (0, 70)


def test_a_large_result_is_written_whole(kernels: Kernels) -> None:
    """It goes past the caches."""
    weight, x = random(512, 64), random(4096, 64, seed=2)
    layer = kernels.linear(weight, None)
    assert torch.equal(layer(x), torch.cat([layer(one) for one in x.split(7)]))


@pytest.mark.parametrize(
    "x", [random(3, 41), random(3, 40).float(), random(40, 3).T], ids=["too wide", "float32", "by columns"]
)
def test_what_does_not_fit_is_refused(kernels: Kernels, x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        kernels.linear(random(70, 40), None)(x)


def test_panels_are_filled_up_with_zeros() -> None:
    weight = random(PANEL_OUTPUTS + 1, 6)
    panels = in_panels(weight)
    assert panels.shape == (2, 3, PANEL_OUTPUTS, 2)
    assert torch.equal(panels[1, 2, 0], weight[PANEL_OUTPUTS, 4:6])
    assert not panels[1, :, 1:].any()


def test_what_has_no_native_product_gets_another(kernels: Kernels) -> None:
    assert isinstance(matrix(random(4, 6), None, kernels), NativeLinear)
    assert not isinstance(matrix(random(4, 6), None), NativeLinear)
    assert not kernels.multiplies(torch.bfloat16, 7)
    assert not kernels.multiplies(torch.float32, 6)


def test_a_library_without_the_instructions_or_the_threads_says_so() -> None:
    assert not plain_kernels().multiplies(torch.bfloat16, 6)
    assert not lone_kernels().multiplies(torch.bfloat16, 6)
