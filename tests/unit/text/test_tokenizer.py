from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.errors import InvalidRequest, UnsupportedModel
from shared.text.tokenizer import Tokenizer


def test_text_goes_to_ids_and_back(tokenizer_folder: Path) -> None:
    tokenizer = Tokenizer.load(tokenizer_folder)
    ids = tokenizer.encode("hello, 你 😀\n", add_special_tokens=False)
    assert tokenizer.decode(ids) == "hello, 你 😀\n"


def test_special_tokens_are_skipped_unless_asked_for(tokenizer_folder: Path) -> None:
    tokenizer = Tokenizer.load(tokenizer_folder)
    ids = tokenizer.encode("<s>a", add_special_tokens=False)
    assert ids[0] == 1
    assert tokenizer.decode(ids) == "a"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s>a"


def test_token_bytes_are_exact_and_token_text_is_lossy(byte_level: Tokenizer, sentencepiece: Tokenizer) -> None:
    for tokenizer in (byte_level, sentencepiece):
        ids = tokenizer.encode("😀", add_special_tokens=False)[-4:]
        assert [tokenizer.token_bytes(token_id) for token_id in ids[-2:]] == [b"\x98", b"\x80"]
        assert tokenizer.token_text(ids[-1]) == "�"


def test_token_text_keeps_its_leading_space(any_tokenizer: Tokenizer) -> None:
    text = "hello hello" if any_tokenizer.byte_level else "a a"
    assert any_tokenizer.token_text(any_tokenizer.encode(text, add_special_tokens=False)[-1]).startswith(" ")


def test_a_special_token_shows_its_name_and_an_unknown_one_nothing(any_tokenizer: Tokenizer) -> None:
    assert any_tokenizer.token_text(2) == "</s>"
    assert any_tokenizer.token_text(any_tokenizer.vocab_size) == ""


def test_a_token_that_only_the_configuration_calls_special_is_skipped(tokenizer_folder: Path) -> None:
    (tokenizer_folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>", "add_bos_token": True}))
    tokenizer = Tokenizer.load(tokenizer_folder)
    (end,) = tokenizer.encode("<end>", add_special_tokens=False)
    assert end in tokenizer.special_ids
    assert tokenizer.decode([end]) == ""


def test_tokens_declared_in_the_configuration_are_added(tokenizer_folder: Path) -> None:
    declared = {"999": {"content": "<more>", "special": False, "normalized": False}}
    (tokenizer_folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": declared}))
    tokenizer = Tokenizer.load(tokenizer_folder)
    ids = tokenizer.encode("<more>", add_special_tokens=False)
    assert len(ids) == 1
    assert tokenizer.decode(ids) == "<more>"


def test_a_lone_surrogate_is_a_bad_request(byte_level: Tokenizer) -> None:
    with pytest.raises(InvalidRequest):
        byte_level.encode("\ud83d", add_special_tokens=False)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", "\x00"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}'),
        ("special_tokens_map.json", "nonsense"),
    ],
)
def test_a_broken_file_is_named(tokenizer_folder: Path, file: str, content: str) -> None:
    (tokenizer_folder / file).write_text(content)
    with pytest.raises(UnsupportedModel, match=file.split(".", maxsplit=1)[0]):
        Tokenizer.load(tokenizer_folder)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
