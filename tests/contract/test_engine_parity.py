"""The torch engine against transformers' own `generate`: greedy, token for token, on tiny random models."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from ties import assert_same_or_tied
from tiny_models import (
    ARCHITECTURES,
    load_engine,
    load_reference,
    open_prompt,
    prefill_in,
    random_cuts,
    random_prompts,
    reference_tokens,
    save_tiny,
)

from shared.core import KvRegion
from shared.engine.contract import PrefillSlice
from shared.engine.torch_engine import TorchEngine

TOKENS = 20
PROMPTS = random_prompts([1, 2, 15, 17, 40, 64, 90, 130])


class Case:
    """One architecture: its folder, an engine, and the expected continuation of every prompt."""

    def __init__(self, architecture: str, folder: Path, *, native_kernels: bool) -> None:
        self.folder = save_tiny(architecture, folder)
        self.settings = {"native_kernels": native_kernels}
        self.engine = load_engine(self.folder, **self.settings)
        reference = load_reference(self.folder)
        self.expected = [reference_tokens(reference, prompt, TOKENS) for prompt in PROMPTS]


@pytest.fixture(
    scope="module",
    params=itertools.product(sorted(ARCHITECTURES), (True, False)),
    ids=lambda param: f"{param[0]}-{'native' if param[1] else 'torch'}",
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    architecture, native_kernels = request.param
    return Case(architecture, tmp_path_factory.mktemp(architecture), native_kernels=native_kernels)


def decode(engine: TorchEngine, keys: Sequence[str], steps: int) -> dict[str, list[int]]:
    tokens: dict[str, list[int]] = {key: [] for key in keys}
    for _ in range(steps):
        for key, token in zip(keys, engine.step(keys), strict=True):
            tokens[key].append(token.token_id)
    return tokens


def test_alone(case: Case) -> None:
    for prompt, expected in zip(PROMPTS, case.expected, strict=True):
        open_prompt(case.engine, "s", prompt, TOKENS)
        first = prefill_in(case.engine, "s", [0, len(prompt)])
        assert [first, *decode(case.engine, ["s"], TOKENS - 1)["s"]] == expected
        case.engine.close("s")


def test_all_at_once(case: Case) -> None:
    keys = [str(index) for index in range(len(PROMPTS))]
    for key, prompt in zip(keys, PROMPTS, strict=True):
        open_prompt(case.engine, key, prompt, TOKENS)
    slices = [PrefillSlice(key, 0, len(prompt)) for key, prompt in zip(keys, PROMPTS, strict=True)]
    first = [token.token_id for token in case.engine.prefill(slices) if token is not None]
    rest = decode(case.engine, keys, TOKENS - 1)
    for key in keys:
        case.engine.close(key)
    assert [[one, *rest[key]] for one, key in zip(first, keys, strict=True)] == case.expected


def test_prompt_cut_anywhere(case: Case) -> None:
    rng = random.Random(11)
    for prompt, expected in list(zip(PROMPTS, case.expected, strict=True))[2:]:
        open_prompt(case.engine, "s", prompt, TOKENS)
        first = prefill_in(case.engine, "s", random_cuts(len(prompt), rng))
        assert [first, *decode(case.engine, ["s"], TOKENS - 1)["s"]] == expected
        case.engine.close("s")


def test_handed_over_to_another_engine(case: Case) -> None:
    other = load_engine(case.folder, **case.settings)
    layers = case.engine.spec.layout.layers
    for prompt, expected in zip(PROMPTS, case.expected, strict=True):
        open_prompt(case.engine, "s", prompt, 1)
        open_prompt(other, "s", prompt, TOKENS)
        first = prefill_in(case.engine, "s", [0, len(prompt)])
        for start in range(0, len(prompt), 48):
            for layer in range(layers):
                region = KvRegion(layer, layer + 1, start, min(start + 48, len(prompt)))
                other.import_kv("s", region, case.engine.export_kv("s", region))
        case.engine.close("s")
        other.append("s", first)
        assert [first, *decode(other, ["s"], TOKENS - 1)["s"]] == expected
        other.close("s")


def test_resumed_elsewhere_after_some_tokens(case: Case) -> None:
    for prompt, expected in zip(PROMPTS, case.expected, strict=True):
        known = [*prompt, *expected[:9]]
        open_prompt(case.engine, "s", known, TOKENS, emitted=9)
        next_token = prefill_in(case.engine, "s", [0, len(known)])
        assert [next_token, *decode(case.engine, ["s"], TOKENS - 10)["s"]] == expected[9:]
        case.engine.close("s")


def test_bf16_equals_generate_or_ties(case: Case) -> None:
    engine, reference = (
        load_engine(case.folder, "bfloat16", **case.settings),
        load_reference(case.folder, torch.bfloat16),
    )
    exact = load_reference(case.folder, torch.bfloat16).float()
    for prompt in PROMPTS:
        open_prompt(engine, "s", prompt, TOKENS)
        ours = [prefill_in(engine, "s", [0, len(prompt)]), *decode(engine, ["s"], TOKENS - 1)["s"]]
        engine.close("s")
        assert_same_or_tied(prompt, ours, reference_tokens(reference, prompt, TOKENS), reference, exact)
