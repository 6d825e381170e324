"""Rotary position embeddings whose angles depend on the position alone, as tables by position.

The arithmetic is that of transformers' `modeling_rope_utils`, so that angles have the same bits. Ropes that change
with a sequence's length are not known here. `llama_config` reads them, `llama_runner` makes the tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from shared.errors import UnsupportedModel

_LLAMA3 = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_KEYS = {
    "default": {"rope_theta", "rope_type", "type"},
    "linear": {"rope_theta", "rope_type", "type", "factor"},
    "llama3": {"rope_theta", "rope_type", "type", "factor", *_LLAMA3},
}
_ROWS_MULTIPLE = 64


@dataclass(frozen=True, slots=True)
class Rope:
    """`kind` is default, linear or llama3; the last three fields are llama3's."""

    kind: str
    theta: float
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_tokens: int = 0


def read_rope(config: Mapping[str, Any]) -> Rope:
    """The rope of a `config.json`, in its old form (`rope_theta`, `rope_scaling`) or its new one (`rope_parameters`).

    Raises UnsupportedModel for any rope that is not known exactly.
    """
    if "rope_parameters" in config and {"rope_theta", "rope_scaling"} & set(config):
        raise UnsupportedModel("a rope that is written down twice is not known to the fused runner")
    given = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    given.setdefault("rope_theta", config.get("rope_theta"))
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in _KEYS or set(given) - _KEYS[kind]:
        raise UnsupportedModel(f"the fused runner does not know the rope {given}")
    numbers = {name: value for name, value in given.items() if name not in {"rope_type", "type"}}
    missing = _KEYS[kind] - set(given) - {"rope_type", "type"}
    if missing or not all(isinstance(value, int | float) and value > 0 for value in numbers.values()):
        raise UnsupportedModel(f"the fused runner does not know the rope {given}")
    return Rope(
        kind=kind,
        theta=numbers["rope_theta"],
        factor=numbers.get("factor", 1.0),
        low_freq_factor=numbers.get("low_freq_factor", 1.0),
        high_freq_factor=numbers.get("high_freq_factor", 4.0),
        original_tokens=numbers.get("original_max_position_embeddings", 0),
    )


def angle_tables(rope: Rope, head_dim: int, tokens: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, each `[positions, head_dim / 2]` in `dtype`, for at least `tokens` positions.

    Positions are rounded up, so that a position's bits do not depend on how many there are.
    """
    rows = -(-tokens // _ROWS_MULTIPLE) * _ROWS_MULTIPLE
    angles = torch.arange(rows)[:, None].float() * _frequencies(rope, head_dim)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _frequencies(rope: Rope, head_dim: int) -> torch.Tensor:
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).to(torch.float) / head_dim
    frequencies: torch.Tensor = 1.0 / (rope.theta**exponents)
    if rope.kind == "linear":
        return frequencies / rope.factor
    return _llama3(rope, frequencies) if rope.kind == "llama3" else frequencies


def _llama3(rope: Rope, frequencies: torch.Tensor) -> torch.Tensor:
    """Long waves are slowed down by the factor, short ones left alone, those between blended."""
    low_wavelength = rope.original_tokens / rope.low_freq_factor
    high_wavelength = rope.original_tokens / rope.high_freq_factor
    wavelengths = 2 * math.pi / frequencies
    slowed = torch.where(wavelengths > low_wavelength, frequencies / rope.factor, frequencies)
    smooth = (rope.original_tokens / wavelengths - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    blended = (1 - smooth) * slowed / rope.factor + smooth * slowed
    between = ~(wavelengths < high_wavelength) * ~(wavelengths > low_wavelength)
    return torch.where(between, blended, slowed)
