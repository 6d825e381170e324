"""Reading a model folder: what counts as one, its end-of-sequence ids and its fingerprint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.engine.checkpoint import fingerprint as fingerprint_of
from shared.engine.checkpoint import read_checkpoint
from shared.errors import ConfigError, UnsupportedModel

CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "rope_theta": 1e4, "dtype": "bfloat16"}


def make(
    folder: Path, weights: bytes = b"weights", generation: Any = None, tokenizer: bytes = b"", **changes: Any
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "model.safetensors").write_bytes(weights)
    if tokenizer:
        (folder / "tokenizer.json").write_bytes(tokenizer)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def fingerprint(folder: Path) -> str:
    return fingerprint_of(read_checkpoint(folder).parts())


@pytest.mark.parametrize(
    ("config_eos", "generation", "expected"),
    [(2, None, (2,)), ([2, 3], None, (2, 3)), (2, {"eos_token_id": [4, 5]}, (4, 5)), (None, {}, ()), (7, {}, (7,))],
)
def test_eos_ids(tmp_path: Path, config_eos: Any, generation: Any, expected: tuple[int, ...]) -> None:
    checkpoint = read_checkpoint(make(tmp_path, generation=generation, eos_token_id=config_eos))
    assert checkpoint.eos_token_ids == expected


def test_fingerprint_is_16_hex_digits(tmp_path: Path) -> None:
    assert len(fingerprint(make(tmp_path))) == 16
    assert int(fingerprint(tmp_path), 16) >= 0


@pytest.mark.parametrize("change", [{"weights": b"Weights"}, {"rope_theta": 2e4}, {"hidden_size": 9}])
def test_fingerprint_depends_on_weights_and_computation(tmp_path: Path, change: dict[str, Any]) -> None:
    assert fingerprint(make(tmp_path / "a")) != fingerprint(make(tmp_path / "b", **change))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"weights": b"Weights"}, "weights"),
        ({"rope_theta": 2e4}, "rope"),
        ({"rope_scaling": {"factor": 2.0}}, "rope"),
        ({"hidden_size": 9}, "config"),
        ({"tokenizer": b"{}"}, "tokenizer"),
    ],
)
def test_a_change_shows_in_one_part_alone(tmp_path: Path, change: dict[str, Any], part: str) -> None:
    one, other = (
        msgspec.structs.asdict(read_checkpoint(folder).parts())
        for folder in (make(tmp_path / "a"), make(tmp_path / "b", **change))
    )
    assert {name for name in one if one[name] != other[name]} == {part}
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


@pytest.mark.parametrize("change", [{"dtype": "float32"}, {"transformers_version": "9"}, {"_name_or_path": "x"}])
def test_fingerprint_does_not_depend_on_dtype_and_names(tmp_path: Path, change: dict[str, Any]) -> None:
    assert fingerprint(make(tmp_path / "a")) == fingerprint(make(tmp_path / "b", **change))


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_checkpoint(tmp_path)


def test_broken_config_is_named(tmp_path: Path) -> None:
    (make(tmp_path) / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        read_checkpoint(tmp_path)


def test_only_safetensors_are_weights(tmp_path: Path) -> None:
    (make(tmp_path) / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match="safetensors"):
        read_checkpoint(tmp_path)
