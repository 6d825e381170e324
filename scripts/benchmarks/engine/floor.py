"""The floor of one forward pass: its linear layers on weights prepacked for torch's bf16 library, and nothing else.

Merged as the fused runner has them, which is faster than one by one; logits of the wanted rows alone. Where the matrix
kernel is faster on a few rows of filling, the floor takes them too. The engine is not used here, only its weights; with
products of its own it can be below.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from shared.engine.checkpoint import read_checkpoint
from shared.engine.llama_config import read_config
from shared.engine.llama_weights import read_weights

FILLED_ROWS = 4


class Floor:
    """The linear layers of one model in bf16."""

    def __init__(self, folder: Path) -> None:
        checkpoint = read_checkpoint(folder)
        self._config = read_config(checkpoint.config)
        self._weights = read_weights(checkpoint.weights, self._config, torch.bfloat16, torch.device("cpu"))

    def seconds(self, rows: int, logits: int, clock: Callable[[], float] = time.perf_counter) -> float:
        """One pass over `rows` tokens with `logits` rows of logits; the faster of bare and filled rows."""
        bare = self._timed(rows, logits, clock)
        filled = (max(rows, FILLED_ROWS), max(logits, FILLED_ROWS))
        return bare if filled == (rows, logits) else min(bare, self._timed(*filled, clock))

    def _timed(self, rows: int, logits: int, clock: Callable[[], float]) -> float:
        hidden = torch.ones((rows, self._config.hidden_size), dtype=torch.bfloat16)
        wide = torch.ones((rows, self._config.intermediate_size), dtype=torch.bfloat16)
        heads = torch.ones((rows, self._config.query_size), dtype=torch.bfloat16)
        with torch.inference_mode():
            start = clock()
            for layer in self._weights.layers:
                layer.qkv(hidden)
                layer.output(heads)
                layer.gate_up(hidden)
                layer.down(wide)
            self._weights.head(hidden[:logits])
            return clock() - start
