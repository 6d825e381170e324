"""A model folder as it lies on disk: its configuration, end-of-sequence ids, weights files, and digests of its parts.

Only safetensors count as weights; code that ships with a model is never run. Knows nothing of what the engine can do
with the model (`support`); `torch_engine` and the tools that list models call it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from shared.core import ModelParts
from shared.errors import ConfigError, UnsupportedModel

_NOT_COMPUTATION = frozenset(
    {
        "_name_or_path",
        "_model_name_or_path",
        "_attn_implementation",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "label2id",
        "pad_token_id",
        "torch_dtype",
        "transformers_version",
        "unk_token_id",
        "use_cache",
    }
)


_ROPE = frozenset(
    {
        "max_position_embeddings",
        "no_rope_layer_interval",
        "no_rope_layers",
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "rope_interleaved",
        "rope_local_base_freq",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "rotary_emb_base",
        "rotary_pct",
    }
)
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model folder. `config` is `config.json` as it stands, `weights` the safetensors files by name."""

    folder: Path
    config: dict[str, Any]
    eos_token_ids: tuple[int, ...]
    weights: tuple[Path, ...]

    def parts(self) -> ModelParts:
        """Digests (xxh3, 64 bits) of what defines the computation, and of all bytes of weights and tokenizer.

        Independent of the dtype it is loaded in. Reads every byte: about a second per 5 GB once they are in memory.
        """
        defining = {name: value for name, value in self.config.items() if name not in _NOT_COMPUTATION}
        rope = {name: value for name, value in defining.items() if name in _ROPE}
        rest = {name: value for name, value in defining.items() if name not in _ROPE}
        tokenizer = self.folder / TOKENIZER
        return ModelParts(
            weights=_digest_of_files(self.weights),
            rope=_digest_of_keys(rope),
            config=_digest_of_keys(rest),
            tokenizer=xxhash.xxh3_64_hexdigest(tokenizer.read_bytes()) if tokenizer.is_file() else "",
        )


def fingerprint(parts: ModelParts) -> str:
    """16 hex digits over all parts."""
    return xxhash.xxh3_64_hexdigest(msgspec.msgpack.encode(msgspec.structs.astuple(parts)))


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read `folder`. Raises ConfigError when it is no model folder, UnsupportedModel when it has no safetensors."""
    config = _read_json(folder / "config.json")
    if config is None:
        raise ConfigError(f"{folder} is not a model folder: it has no config.json")
    weights = tuple(sorted(folder.glob("*.safetensors")))
    if not weights:
        raise UnsupportedModel(f"{folder} holds no safetensors; weights in other formats are not loaded")
    generation = _read_json(folder / "generation_config.json") or {}
    eos = generation.get("eos_token_id", config.get("eos_token_id"))
    return Checkpoint(folder=folder, config=config, eos_token_ids=_as_ids(eos), weights=weights)


def _digest_of_keys(keys: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(msgspec.json.encode(keys, order="deterministic"))


def _digest_of_files(paths: Iterable[Path]) -> str:
    digest = xxhash.xxh3_64()
    for path in paths:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            digest.update(content)
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error


def _as_ids(eos: object) -> tuple[int, ...]:
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, list) else (int(str(eos)),)
