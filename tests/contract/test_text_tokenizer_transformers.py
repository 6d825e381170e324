"""Our reading of a tokenizer's files against the transformers library's, for the ways files name special tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from shared.text.chat_template import ChatTemplate
from shared.text.tokenizer import Tokenizer

TEXT = "<s>ab a<end><more> <pad></s>"
MORE = {
    "content": "<more>",
    "lstrip": False,
    "normalized": False,
    "rstrip": True,
    "single_word": False,
    "special": True,
}
TOKENIZER_CONFIGS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "named": {"eos_token": "</s>", "bos_token": "<s>"},
    "named as objects": {"eos_token": {**MORE, "__type": "AddedToken"}},
    "named but not added": {"eos_token": "<end>", "pad_token": "<pad>"},
    "declared": {"added_tokens_decoder": {"300": MORE}, "eos_token": "</s>"},
    "declared and not special": {"added_tokens_decoder": {"300": {**MORE, "special": False}}},
    "additional": {"additional_special_tokens": ["<more>", "<end>"]},
    "extra": {"extra_special_tokens": ["<more>", "<pad>"]},
    "extra by name": {"extra_special_tokens": {"more_token": "<more>"}, "image_token": "<pad>"},
    "flags are not tokens": {"add_bos_token": True, "add_eos_token": True, "bos_token": "<s>", "eos_token": "</s>"},
}


def backend() -> Backend:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "</s>", *alphabet, "ab", "<end>"]
    built = Backend(models.BPE({word: index for index, word in enumerate(words)}, [("a", "b")]))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(["<s>", "</s>"])
    built.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    built.enable_truncation(3)
    return built


@pytest.fixture(params=sorted(TOKENIZER_CONFIGS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    config = TOKENIZER_CONFIGS[request.param]
    backend().save(str(tmp_path / "tokenizer.json"))
    text = json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"})
    (tmp_path / "tokenizer_config.json").write_text(text)
    return tmp_path


@pytest.fixture
def legacy_folder(tmp_path: Path) -> Path:
    backend().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": MORE, "pad_token": "<pad>"}))
    return tmp_path


def check(folder: Path) -> None:
    ours, reference = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    for add_special_tokens in (True, False):
        ids = ours.encode(TEXT, add_special_tokens=add_special_tokens)
        assert ids == reference(TEXT, add_special_tokens=add_special_tokens, truncation=False)["input_ids"]
        for skip_special_tokens in (True, False):
            text = reference.decode(ids, skip_special_tokens=skip_special_tokens)
            assert ours.decode(ids, skip_special_tokens=skip_special_tokens) == text
    names = "{% for n in [bos_token, eos_token, pad_token, more_token, image_token] %}{{ n }},{% endfor %}"
    (folder / "chat_template.jinja").write_text(names)
    chat = [{"role": "user", "content": "x"}]
    expected = reference.apply_chat_template(chat, chat_template=names, tokenize=False)
    assert ChatTemplate.load(folder, "m").render(chat) == expected


def test_special_tokens_mean_the_same(folder: Path) -> None:
    check(folder)


def test_special_tokens_of_the_old_file_mean_the_same(legacy_folder: Path) -> None:
    check(legacy_folder)
