"""Text to token ids and back, by the `tokenizer.json` of a model folder.

The same ids and text as the transformers library gives for that folder, without importing it. The one thing left out
is `clean_up_tokenization_spaces`, which alters what the model wrote. Knows no model and no chat format. The gateway
loads one at its start.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import tokenizers
import xxhash

from shared.errors import InvalidRequest, UnsupportedModel
from shared.text.token_bytes import byte_level_bytes, fallback_byte
from shared.text.tokenizer_files import TOKENIZER_FILE, TokenizerFiles, read_tokenizer_files


class Tokenizer:
    """Encodes and decodes; immutable once loaded, so that one serves all requests.

    `digest` is that of its file, as in `ModelParts`; empty: not from a file.
    """

    def __init__(self, backend: tokenizers.Tokenizer, digest: str = "") -> None:
        self.digest = digest
        decoders = _decoder_types(msgspec.json.decode(backend.to_str()).get("decoder"))
        self._backend = backend
        self._bytes: dict[int, bytes] = {}
        self.byte_level = decoders == ["ByteLevel"]
        self.byte_fallback = "ByteFallback" in decoders
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.vocab_size = 1 + max(backend.get_vocab().values(), default=-1)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The tokenizer of the model in `folder`. Raises UnsupportedModel when its files are missing or broken."""
        files = read_tokenizer_files(folder)
        try:
            backend = tokenizers.Tokenizer.from_str(files.tokenizer_json)
            _add_declared_tokens(backend, files)
        except Exception as error:  # the library raises nothing more exact
            raise UnsupportedModel(f"cannot load {folder / TOKENIZER_FILE}: {error}") from error
        backend.no_truncation()
        backend.no_padding()
        return cls(backend, xxhash.xxh3_64_hexdigest((folder / TOKENIZER_FILE).read_bytes()))

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`. Special tokens spelled out in `text` become themselves.

        `add_special_tokens`: put what the model wants around a prompt (often a beginning-of-sequence token), as for
        plain completions; a rendered chat template has it already. Raises InvalidRequest for text with lone surrogates.
        """
        try:
            # Unlike `encode` it lets go of the interpreter lock, so that a long text in a thread stalls nobody.
            ids: list[int] = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        except TypeError as error:  # what the library makes of text that UTF-8 cannot hold
            raise InvalidRequest("the text is not valid Unicode: it has a lone surrogate", param="prompt") from error
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`; what is not valid UTF-8 becomes U+FFFD. Ids outside the vocabulary are passed over."""
        text: str = self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def token_text(self, token_id: int) -> str:
        """One token's own text inside a longer one (with its leading space); lossy where a character spans tokens."""
        return self.token_bytes(token_id).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """One token's own bytes inside a longer text: exact even where a character spans tokens. b"" if unknown."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._token_bytes(token_id)
        return known

    def is_text(self, token_id: int) -> bool:
        """Whether decoding looks at the token: it is in the vocabulary and not special."""
        return token_id not in self.special_ids and self._backend.id_to_token(token_id) is not None

    def is_fallback_byte(self, token_id: int) -> bool:
        """Whether the token stands for one byte of a character that the vocabulary lacks."""
        return self.byte_fallback and fallback_byte(self._backend.id_to_token(token_id) or "") is not None

    def _token_bytes(self, token_id: int) -> bytes:
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self.special_ids:
            return token.encode()
        if self.byte_level:
            return byte_level_bytes(token)
        byte = fallback_byte(token) if self.byte_fallback else None
        if byte is not None:
            return bytes([byte])
        # Decoders treat a leading token apart; behind another token it shows what it adds to a longer text.
        alone = self.decode([token_id], skip_special_tokens=False)
        return self.decode([token_id, token_id], skip_special_tokens=False)[len(alone) :].encode()


def _add_declared_tokens(backend: tokenizers.Tokenizer, files: TokenizerFiles) -> None:
    """Add the special and added tokens that only the other files name, in the order that gives them their ids."""
    known = {repr(token) for token in backend.get_added_tokens_decoder().values()}
    declared = [tokenizers.AddedToken(**token) for _, token in sorted(files.declared.items())]
    missing = [token for token in declared if repr(token) not in known]
    spelled = {token.content for token in (*backend.get_added_tokens_decoder().values(), *missing)}
    for token in files.special:
        if token["content"] not in spelled:
            missing.append(tokenizers.AddedToken(**token))
            spelled.add(token["content"])
    backend.add_tokens(missing)


def _decoder_types(decoder: dict[str, Any] | None) -> list[str]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [kind for part in decoder["decoders"] for kind in _decoder_types(part)]
    return [decoder["type"]]
