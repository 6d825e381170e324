"""Writes the tokenizer files of a model from the metadata of its GGUF file.

Done here and not by the transformers library because its versions build different tokenizers from the same GGUF file:
some name the wrong end-of-sequence token, all leave out the splitting of digits. Only the pre-tokenizers listed below
are known; others are refused. `convert.py` calls it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import msgspec
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from shared.errors import UnsupportedModel

_CONTROL, _USER_DEFINED = 3, 4
_SPECIAL_KEYS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def write_tokenizer(gguf_file: Path, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` (with the chat template) to `folder`.

    Raises UnsupportedModel for a tokenizer of another kind than byte-level BPE with a known pre-tokenizer.
    """
    metadata = _Metadata(gguf_file)
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if (kind, split) != ("gpt2", "smollm") or metadata.get("tokenizer.ggml.add_bos_token"):
        raise UnsupportedModel(f"{gguf_file.name} has a tokenizer of unknown kind: {kind}, {split}")
    tokens: list[str] = metadata.get("tokenizer.ggml.tokens")
    _byte_level_bpe(metadata, tokens).save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": metadata.get("llama.context_length"),
        "clean_up_tokenization_spaces": False,
        "chat_template": metadata.get("tokenizer.chat_template"),
    }
    for name, key in _SPECIAL_KEYS.items():
        token_id = metadata.get(f"tokenizer.ggml.{key}_token_id")
        config[name] = None if token_id is None else tokens[token_id]
    known = {key: value for key, value in config.items() if value is not None}
    (folder / "tokenizer_config.json").write_bytes(msgspec.json.format(msgspec.json.encode(known)))


def _byte_level_bpe(metadata: _Metadata, tokens: list[str]) -> Tokenizer:
    merges = [tuple(merge.split(" ", 1)) for merge in metadata.get("tokenizer.ggml.merges")]
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    types = metadata.get("tokenizer.ggml.token_type")
    added = [
        AddedToken(token, special=kind == _CONTROL, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    backend.add_tokens(added)
    return backend


class _Metadata:
    """The key-value part of a GGUF file."""

    def __init__(self, gguf_file: Path) -> None:
        self._fields = gguf.GGUFReader(gguf_file).fields

    def get(self, key: str) -> Any:
        field = self._fields.get(key)
        return None if field is None else field.contents()
