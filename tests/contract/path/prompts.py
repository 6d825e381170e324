"""Prompts of tests."""

from __future__ import annotations

from .engines import VOCAB_SIZE


def prompt(length: int, salt: int = 0) -> list[int]:
    """`length` token ids; another `salt` gives others."""
    return [(7 * position + salt) % VOCAB_SIZE for position in range(length)]
