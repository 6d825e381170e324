"""What a model folder says of its model, read without torch: for those who check requests but never run the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from shared.errors import UnsupportedModel
from shared.models.manifest import read_manifest

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is the pulled name or the folder's; `context_tokens` is the most prompt and answer may have together.

    `eos_token_ids` are the tokens that end an answer: the generation configuration's, or else the model's.
    """

    name: str
    vocab_size: int
    context_tokens: int
    eos_token_ids: tuple[int, ...]


def read_model_facts(folder: Path) -> ModelFacts:
    """Raises UnsupportedModel when `config.json` is missing, broken, or does not say what is needed."""
    config = _read_config(folder / "config.json")
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    generation_path = folder / "generation_config.json"
    generation = _read_config(generation_path) if generation_path.is_file() else {}
    eos: object = next(
        (part["eos_token_id"] for part in (generation, config, text) if part.get("eos_token_id") is not None), []
    )
    context = next((text[key] for key in _CONTEXT_KEYS if key in text), None)
    manifest = read_manifest(folder)
    try:
        return msgspec.convert(
            {
                "name": manifest.name if manifest else folder.resolve().name,
                "vocab_size": text.get("vocab_size"),
                "context_tokens": context,
                "eos_token_ids": (eos,) if isinstance(eos, int) else eos,
            },
            ModelFacts,
        )
    except msgspec.ValidationError as error:
        raise UnsupportedModel(f"{folder / 'config.json'} does not say what is needed: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise UnsupportedModel(f"cannot read {path}: {error}") from error
