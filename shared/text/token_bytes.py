"""What single tokens stand for in bytes: the alphabet of byte-level tokenizers and the byte tokens of the others.

Knows no vocabulary. `tokenizer.py` calls it.
"""

from __future__ import annotations

import re

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """The character GPT-2's byte-level encoding writes for each byte: itself if printable, else one from U+0100 on."""
    unprintable = [byte for byte in range(256) if byte not in _PRINTABLE]
    return {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + n): byte for n, byte in enumerate(unprintable)}


_ALPHABET = _byte_level_alphabet()


def byte_level_bytes(token: str) -> bytes:
    """The bytes of a byte-level token; one with a foreign character (an added token) stands for its own UTF-8."""
    try:
        return bytes(_ALPHABET[character] for character in token)
    except KeyError:
        return token.encode()


def fallback_byte(token: str) -> int | None:
    """The byte that a byte-fallback token such as `<0x0A>` stands for; None for every other token."""
    match = _FALLBACK.fullmatch(token)
    return int(match[1], 16) if match else None
