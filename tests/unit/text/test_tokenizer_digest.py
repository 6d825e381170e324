"""A gateway and an engine of one model folder know its tokenizer by one name."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import models

from shared.engine.checkpoint import read_checkpoint
from shared.text.tokenizer import Tokenizer


def folder_with(path: Path, words: dict[str, int]) -> Path:
    path.mkdir()
    Backend(models.WordLevel(words, unk_token="a")).save(str(path / "tokenizer.json"))
    (path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_both_ends_name_a_tokenizer_alike(tmp_path: Path) -> None:
    here, there = (folder_with(tmp_path / name, words) for name, words in (("a", {"a": 0}), ("b", {"a": 0, "b": 1})))
    assert Tokenizer.load(here).digest == read_checkpoint(here).parts().tokenizer
    assert Tokenizer.load(here).digest != Tokenizer.load(there).digest
