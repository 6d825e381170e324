from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.errors import UnsupportedModel
from shared.models.facts import ModelFacts, read_model_facts
from shared.models.manifest import write_manifest


def write(folder: Path, **config: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config))


def test_facts_come_from_the_configuration(local_folder: Path) -> None:
    expected = ModelFacts(name="my-model", vocab_size=300, context_tokens=64, eos_token_ids=(2,))
    assert read_model_facts(local_folder) == expected


def test_a_pulled_model_has_the_name_it_was_pulled_by(local_folder: Path) -> None:
    write_manifest(local_folder, name="org/name", source="test", licence=None)
    assert read_model_facts(local_folder).name == "org/name"


@pytest.mark.parametrize(("eos", "expected"), [(7, (7,)), ([7, 8], (7, 8)), (None, (2,))])
def test_the_generation_configuration_has_the_last_word_on_end_tokens(
    local_folder: Path, eos: object, expected: tuple[int, ...]
) -> None:
    (local_folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    assert read_model_facts(local_folder).eos_token_ids == expected


def test_a_model_may_have_no_end_token(local_folder: Path) -> None:
    write(local_folder, vocab_size=10, n_positions=8)
    assert read_model_facts(local_folder).eos_token_ids == ()


def test_a_nested_text_configuration_is_read(local_folder: Path) -> None:
    write(local_folder, text_config={"vocab_size": 10, "max_position_embeddings": 8, "eos_token_id": 1})
    facts = read_model_facts(local_folder)
    assert (facts.vocab_size, facts.context_tokens, facts.eos_token_ids) == (10, 8, (1,))


@pytest.mark.parametrize("config", [{}, {"vocab_size": 10}, {"vocab_size": "x", "n_ctx": 8}])
def test_a_configuration_without_what_is_needed_is_refused(local_folder: Path, config: dict[str, Any]) -> None:
    write(local_folder, **config)
    with pytest.raises(UnsupportedModel, match=r"config\.json"):
        read_model_facts(local_folder)


def test_a_broken_configuration_is_refused(local_folder: Path) -> None:
    (local_folder / "config.json").write_text("{")
    with pytest.raises(UnsupportedModel, match=r"config\.json"):
        read_model_facts(local_folder)
