"""Reads what a model folder says of its tokenizer, with the precedence the transformers library gives the files.

Knows the files, not what they mean for encoding. `tokenizer.py` and `chat_template.py` call it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from shared.errors import UnsupportedModel

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
TEMPLATE_FILE = "chat_template.jinja"
EXTRA_TEMPLATES_FOLDER = "additional_chat_templates"
DEFAULT_TEMPLATE = "default"
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TokenizerFiles(msgspec.Struct, frozen=True, kw_only=True):
    """`named` maps `bos_token` and the like to their text; `special` are all special tokens, named or not.

    `declared` are the added tokens `tokenizer_config.json` lists, by id. Both are given as the fields of an added
    token, of which `content` is the text. `templates` maps names to chat templates.
    """

    tokenizer_json: str
    named: dict[str, str]
    special: tuple[dict[str, Any], ...]
    declared: dict[int, dict[str, Any]]
    templates: dict[str, str]


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Raises UnsupportedModel when `tokenizer.json` is missing, or a file cannot be read or is not what it must be."""
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise UnsupportedModel(f"{folder} has no {TOKENIZER_FILE}: only models with a fast tokenizer are supported")
    config = _read_object(folder / CONFIG_FILE)
    declared = _declared(config, folder)
    if not declared:
        config |= _read_object(folder / SPECIAL_TOKENS_FILE)
    named, special = _special_tokens(config)
    return TokenizerFiles(
        tokenizer_json=_read_text(path),
        named=named,
        special=special,
        declared=declared,
        templates=_templates(folder, config.get("chat_template")),
    )


def _special_tokens(config: dict[str, Any]) -> tuple[dict[str, str], tuple[dict[str, Any], ...]]:
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    values = {key: config[key] for key in _SPECIAL_NAMES if key in config}
    values |= {key: value for key, value in config.items() if key.endswith("_token") and key not in values}
    values |= extra if isinstance(extra, dict) else {}
    tokens = {key: token for key, value in values.items() if (token := _token(value)) is not None}
    unnamed = [token for value in extra if (token := _token(value)) is not None] if isinstance(extra, list) else []
    return {key: token["content"] for key, token in tokens.items()}, (*tokens.values(), *unnamed)


def _token(value: object) -> dict[str, Any] | None:
    """The fields of a token written as its text or as an object; None for what is neither (`add_bos_token: true`)."""
    fields = {"content": value} if isinstance(value, str) else value
    if not isinstance(fields, dict) or not isinstance(fields.get("content"), str):
        return None
    return {key: field for key, field in fields.items() if key != "__type"} | {"special": True}


def _templates(folder: Path, configured: object) -> dict[str, str]:
    files = sorted((folder / EXTRA_TEMPLATES_FOLDER).glob("*.jinja"))
    templates = {path.stem: _read_text(path) for path in files}
    if (folder / TEMPLATE_FILE).is_file():
        templates[DEFAULT_TEMPLATE] = _read_text(folder / TEMPLATE_FILE)
    if templates or configured is None:
        return templates
    if isinstance(configured, str):
        return {DEFAULT_TEMPLATE: configured}
    try:
        return {entry["name"]: entry["template"] for entry in msgspec.convert(configured, list[dict[str, str]])}
    except (msgspec.ValidationError, KeyError) as error:
        raise UnsupportedModel(f"{folder / CONFIG_FILE}: chat_template is neither a string nor named ones") from error


def _declared(config: dict[str, Any], folder: Path) -> dict[int, dict[str, Any]]:
    try:
        return msgspec.convert(config.get("added_tokens_decoder") or {}, dict[int, dict[str, Any]], strict=False)
    except msgspec.ValidationError as error:
        raise UnsupportedModel(f"{folder / CONFIG_FILE}: added_tokens_decoder: {error}") from error


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(_read_text(path), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise UnsupportedModel(f"{path} is not a JSON object: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnsupportedModel(f"cannot read {path}: {error}") from error
