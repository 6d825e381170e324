"""Small tokenizers of each kind, built here: byte-level BPE, sentencepiece-like with byte fallback, and others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from shared.text.tokenizer import Tokenizer

SPECIAL = ["<unk>", "<s>", "</s>"]


def byte_level_backend() -> Backend:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "hello"), ("Ã", "©"), ("ð", "Ł")]
    words = SPECIAL + alphabet + [left + right for left, right in merges]
    backend = Backend(models.BPE({word: index for index, word in enumerate(words)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    backend.add_tokens([AddedToken("<tool>", special=False), AddedToken("→ next", special=False)])
    return backend


def sentencepiece_backend() -> Backend:
    pieces = ["▁", "a", "b", "é", "你", "▁a", "▁b", "ab", "▁ab", "�", "▁▁", "\n"]
    words = SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)] + pieces
    merges = [("▁", "a"), ("▁", "b"), ("a", "b"), ("▁", "ab"), ("▁", "▁")]
    backend = Backend(
        models.BPE(
            {word: index for index, word in enumerate(words)},
            merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(SPECIAL)
    return backend


def metaspace_backend() -> Backend:
    words = [*SPECIAL, "▁", "a", "b", "▁a", "▁b", "▁▁a", "é", "."]
    backend = Backend(models.Unigram([(word, -float(index)) for index, word in enumerate(words)], 0, False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(SPECIAL)
    return backend


def wordpiece_backend() -> Backend:
    words = [*SPECIAL, "a", "##b", "##c", "hello", ".", ",", "do", "n't", "'"]
    backend = Backend(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(SPECIAL)
    return backend


BACKENDS = {
    "byte_level": byte_level_backend,
    "sentencepiece": sentencepiece_backend,
    "metaspace": metaspace_backend,
    "wordpiece": wordpiece_backend,
}


@pytest.fixture(scope="session", params=sorted(BACKENDS))
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(BACKENDS[request.param]())


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    return Tokenizer(byte_level_backend())


@pytest.fixture(scope="session")
def sentencepiece() -> Tokenizer:
    return Tokenizer(sentencepiece_backend())


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    """A model folder with the byte-level tokenizer and a `tokenizer_config.json` that tests may overwrite."""
    (tmp_path / "tokenizer.json").write_text(byte_level_backend().to_str())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "bos_token": "<s>"}))
    return tmp_path
