"""What the fleet says, token for token, against transformers' `generate` on the same weights."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nats
import pytest
import torch
from nats_client import whole_answer
from stack import Stack, running_stack
from ties import assert_same_or_tied

from shared.text.tokenizer import Tokenizer

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 63, 64, 65, 89, 144, 255, 256, 257, 400, 700, 1500)
TOKENS = 16
AT_ONCE = 8
VOCABULARY = (
    "the a of to and in that it was for on are with as his they be at one have this from or had by hot word but what "
    "some we can out other were all there when up use your how said an each she which do their time if will way about "
    "many then them write would like so these her long make thing see him two has look more day could go come did"
)


class Reference:
    """transformers' answers for one dtype, and the same weights in float32 to judge ties by."""

    def __init__(self, folder: Path, dtype: str, prompts: Sequence[Sequence[int]]) -> None:
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)  # two threads wait for each other at every operation once another process is busy
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        self.exact = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.answers = [self._generate(prompt) for prompt in prompts]

    def _generate(self, prompt: Sequence[int]) -> list[int]:
        ids = torch.tensor([list(prompt)])
        generated: Any = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
        )
        return [int(token) for token in generated[0, len(prompt) :]]


@pytest.fixture(scope="module")
def prompts(model_folder: Path) -> list[list[int]]:
    """One prompt of ordinary words for each length."""
    rng, words = random.Random(7), VOCABULARY.split()
    text = " ".join(rng.choice(words) for _ in range(2 * max(LENGTHS)))
    ids = Tokenizer.load(model_folder).encode(text, add_special_tokens=False)
    starts = [rng.randrange(len(ids) - length) for length in LENGTHS]
    return [ids[start : start + length] for start, length in zip(starts, LENGTHS, strict=True)]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def reference(request: pytest.FixtureRequest, model_folder: Path, prompts: list[list[int]]) -> tuple[str, Reference]:
    return request.param, Reference(model_folder, request.param, prompts)


@pytest.fixture(scope="module", params=[1, 2], ids=["1x1", "2x2"])
def fleet(
    request: pytest.FixtureRequest, reference: tuple[str, Reference], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    count, (dtype, _) = str(request.param), reference
    with running_stack(
        tmp_path_factory.mktemp("parity"), "--prefill", count, "--decode", count, "--dtype", dtype
    ) as stack:
        yield stack


async def answers(stack: Stack, prompts: Sequence[Sequence[int]], at_once: int) -> list[list[int]]:
    """Greedy tokens for every prompt, at most `at_once` of them under way."""
    client = await nats.connect(stack.nats_url)
    turns = asyncio.Semaphore(at_once)

    async def answer(prompt: Sequence[int]) -> list[int]:
        async with turns:
            body = await whole_answer(client, prompt=list(prompt), max_tokens=TOKENS, temperature=0)
            ids: list[int] = body["token_ids"]
            return ids

    try:
        return await asyncio.gather(*(answer(prompt) for prompt in prompts))
    finally:
        await client.close()


@pytest.mark.parametrize("at_once", [1, AT_ONCE], ids=["alone", "8-at-once"])
async def test_greedy_equals_generate(
    fleet: Stack, reference: tuple[str, Reference], prompts: list[list[int]], at_once: int
) -> None:
    dtype, expected = reference
    for prompt, ours, theirs in zip(prompts, await answers(fleet, prompts, at_once), expected.answers, strict=True):
        if dtype == "float32":
            assert ours == theirs, f"prompt of {len(prompt)} tokens"
        else:
            assert_same_or_tied(prompt, ours, theirs, expected.model, expected.exact)
