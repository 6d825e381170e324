"""One decode step of up to 64 sequences on a device: inputs, graph, draw, and the way of the tokens to the host.

While the device computes, the host has already launched the greedy draw and the inputs of the step after it; then it
waits once, for the tokens. What is not greedy alone is drawn by the sampler, and its tokens go back to the device.
`engine` calls it; on a CPU it runs without graphs, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shared.core import SampledToken
from shared.engine.cuda.graphs import SIZES, DecodeGraphs
from shared.engine.cuda.place import wait_for
from shared.engine.cuda.step_inputs import Decoding, StepInputs
from shared.engine.runner import Runner
from shared.engine.sampling import SamplerState, greedy, raise_unless_finite, sample

LARGEST = max(SIZES)


class DeviceSteps:
    """For one runner whose batches may be `PagedBatch`."""

    def __init__(self, runner: Runner, blocks: int, device: torch.device) -> None:
        """`blocks` is how many the longest sequence may have."""
        self._runner = runner
        self._device = device
        self._inputs = StepInputs(LARGEST, blocks, device)
        self._graphs = DecodeGraphs(self._forward, device)
        self._host = torch.empty(2 * LARGEST, dtype=torch.float64, pin_memory=device.type == "cuda")

    def capture(self) -> None:
        """Capture the graphs; until then, steps run without. Takes seconds."""
        self._inputs.ready(())
        self._graphs.capture()

    def step(self, sequences: Sequence[Decoding]) -> list[SampledToken]:
        """The next token of each sequence. Appends nothing."""
        found: list[SampledToken] = []
        for first in range(0, len(sequences), LARGEST):
            found += self._step(sequences[first : first + LARGEST])
        return found

    def _step(self, sequences: Sequence[Decoding]) -> list[SampledToken]:
        states = [one.sampler for one in sequences]
        self._inputs.ready(sequences)
        try:
            logits = self._graphs.logits(_size(len(sequences)))[: len(sequences)]
            return self._greedy(logits) if _all_greedy(states) else self._sampled(logits, states)
        except BaseException:
            self._inputs.forget()
            raise

    def _greedy(self, logits: torch.Tensor) -> list[SampledToken]:
        token_ids, tops = greedy(logits)
        self._inputs.advance(token_ids)
        host = self._host[: 2 * len(logits)].view(2, -1)
        host.copy_(torch.stack((token_ids.double(), tops.double())), non_blocking=True)
        wait_for(self._device)
        ids, largest = host.tolist()
        raise_unless_finite(largest)
        return [SampledToken(int(token_id)) for token_id in ids]

    def _sampled(self, logits: torch.Tensor, states: Sequence[SamplerState]) -> list[SampledToken]:
        tokens = sample(logits, states)
        self._inputs.advance(torch.tensor([one.token_id for one in tokens]).to(self._device))
        return tokens

    def _forward(self, size: int) -> torch.Tensor:
        return self._runner.logits(self._inputs.batch(size))


def _size(rows: int) -> int:
    return next(size for size in SIZES if size >= rows)


def _all_greedy(states: Sequence[SamplerState]) -> bool:
    """Whether every row wants nothing but its largest logit."""
    return all(one.greedy and not one.adjusts_logits and one.sampling.logprobs is None for one in states)
