"""Layers as they are finished on the device: events recorded while a pass is launched, waited for once it is.

A pass is launched in a fraction of the time it computes, so `tell` has the whole pass to tell of. The engine makes one
for a prefill call that somebody listens to.
"""

from __future__ import annotations

import torch

from shared.engine.contract import OnLayer


class LayerEvents:
    """Of one forward pass, on the current stream of `device`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._recorded: list[tuple[int, torch.cuda.Event | None]] = []

    def note(self, layers: int) -> None:
        """An `OnLayer` for the runner: what has been launched so far writes the KV of `layers` layers."""
        event = None
        if self._device.type == "cuda":
            # Waiting threads shall sleep: a worker's other threads have work to do.
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
        self._recorded.append((layers, event))

    def tell(self, on_layer: OnLayer) -> None:
        """Wait for each event in turn, and pass it on. Returns when the last layer's KV is written."""
        for layers, event in self._recorded:
            if event is not None:
                event.synchronize()
            on_layer(layers)
        self._recorded.clear()
