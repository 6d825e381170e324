"""Products on several threads, and all else on one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from shared.engine.linear import share_linears
from shared.engine.matrix import matrix
from shared.engine.team import Team, made_on


@pytest.fixture(autouse=True)
def one_thread_before_and_after() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def of_three() -> Team:
    torch.set_num_threads(3)
    team = Team()
    torch.set_num_threads(1)
    return team


def test_threads_are_there_within_alone() -> None:
    with of_three():
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 1


def test_an_error_within_ends_it_too() -> None:
    with pytest.raises(RuntimeError), of_three():
        raise RuntimeError


class Threads:
    """Notes how many threads there are when torch multiplies."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[int] = []
        monkeypatch.setattr(nn.functional, "linear", self._noting(nn.functional.linear))
        monkeypatch.setattr(torch, "addmm", self._noting(torch.addmm))

    def _noting(self, real: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def product(*arguments: torch.Tensor) -> torch.Tensor:
            self.seen.append(torch.get_num_threads())
            return real(*arguments)

        return product


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    return Threads(monkeypatch)


def test_a_matrix_keeps_the_threads_it_was_made_with(threads: Threads) -> None:
    weight, x = torch.randn(96, 64), torch.randn(8, 64)
    alone = matrix(weight, None)
    torch.set_num_threads(3)
    shared = matrix(weight, None)
    torch.set_num_threads(1)
    assert torch.equal(shared(x), alone(x))
    assert (shared.inputs, shared.outputs) == (64, 96)
    assert threads.seen == [3, 1]


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_so_do_the_linear_layers_of_a_model(threads: Threads, kind: Callable[[int, int], nn.Module]) -> None:
    model = nn.Sequential(kind(8, 8), nn.SiLU(), nn.ModuleDict({"head": kind(8, 8)})["head"])
    torch.set_num_threads(3)
    share_linears(model)
    torch.set_num_threads(1)
    with torch.inference_mode():
        model(torch.randn(4, 8))
    assert threads.seen == [3, 3]
    with pytest.raises(RuntimeError):
        model(torch.randn(4, 9))
    assert torch.get_num_threads() == 1


def test_on_one_thread_nothing_is_in_the_way() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    share_linears(model)
    assert "forward" not in vars(model[0])


def test_what_is_made_on_threads_leaves_one_behind() -> None:
    with made_on(3):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 1
    with pytest.raises(RuntimeError), made_on(3):
        raise RuntimeError
