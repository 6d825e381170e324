"""The default model as `baton pull` made it: whole, and talking sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.models.catalogue import DEFAULT_MODEL
from shared.models.facts import ModelFacts, read_model_facts
from shared.models.manifest import read_manifest

pytestmark = pytest.mark.model


def test_it_is_what_its_manifest_says(model_folder: Path) -> None:
    manifest = read_manifest(model_folder)
    assert manifest is not None
    assert manifest.is_intact(model_folder)


def test_its_facts_are_those_of_the_original(model_folder: Path) -> None:
    assert read_model_facts(model_folder) == ModelFacts(
        name=DEFAULT_MODEL, vocab_size=49152, context_tokens=8192, eos_token_ids=(2,)
    )


def test_it_answers_a_question(model_folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    answer = tokenizer.decode(ids)
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")
