"""Decode steps as CUDA graphs, one for each batch size: one launch where there are hundreds.

All graphs share one memory pool, so they are captured from the largest down, and only one runs at a time. Knows no
sequence; `steps` calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

SIZES = (1, 2, 4, 8, 16, 32, 64)
_WARM_UPS = 2


class DecodeGraphs:
    """`forward` computes a batch of a given size from tensors that stay where they are, and returns its logits."""

    def __init__(self, forward: Callable[[int], torch.Tensor], device: torch.device) -> None:
        self._forward = forward
        self._device = device
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}

    def capture(self, sizes: Sequence[int] = SIZES) -> None:
        """Compile, warm up and capture every size. Other threads may go on using the device."""
        pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        for size in sorted(sizes, reverse=True):
            stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.inference_mode(), torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    self._forward(size)
                stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                    logits = self._forward(size)
            torch.cuda.current_stream(self._device).wait_stream(stream)
            self._captured[size] = graph, logits

    def logits(self, size: int) -> torch.Tensor:
        """`[size, vocab]`, valid until the next call; computed without a graph where none was captured."""
        if size not in self._captured:
            return self._forward(size)
        graph, logits = self._captured[size]
        graph.replay()
        return logits
