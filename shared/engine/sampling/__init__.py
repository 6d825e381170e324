"""The sampler of the torch engine: one next token per row of logits, for a batch of unlike requests.

A row's token depends on its logits, its `SamplerState` and nothing else; not on the other rows. Knows no model and no
cache; the engine's runner calls `sample` once per forward pass and appends what it returns.
"""

from shared.engine.sampling.blocks import NonFiniteLogits, greedy, raise_unless_finite
from shared.engine.sampling.sampler import sample
from shared.engine.sampling.state import SamplerState

__all__ = ["NonFiniteLogits", "SamplerState", "greedy", "raise_unless_finite", "sample"]
