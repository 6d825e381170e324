"""Rectangles of one sequence's KV as bytes, and back, from and to a device: the counterpart of `kv_bytes`.

Bytes are gathered on the device, cross in one copy through pinned memory, and have crossed when a call returns. On a
CUDA device all that has a stream of its own, before which nothing else has to be done, so that a transfer does not wait
for the pass that runs. `engine` calls it, always on one thread; on a CPU it runs as well, for tests.
"""

from __future__ import annotations

import contextlib

import numpy as np
import torch

from shared.core import KvRegion
from shared.engine.cuda.views import paged_view
from shared.engine.kv_memory import BLOCK_TOKENS, KvSpace

_INCOMING_BYTES = 1 << 20


class DeviceTransfer:
    """For sequences in `arena`, which is `KvMemory.arena`."""

    def __init__(self, arena: torch.Tensor) -> None:
        self._arena = paged_view(arena)
        self._device = arena.device
        self._on_cuda = arena.device.type == "cuda"
        self._stream: torch.cuda.Stream | None = None
        if self._on_cuda:
            self._stream = torch.cuda.Stream(arena.device, priority=-1)  # type: ignore[no-untyped-call]
        self._incoming = self._host(_INCOMING_BYTES)

    def read(self, space: KvSpace, region: KvRegion) -> memoryview:
        """A copy of `region`, in pinned memory of its own."""
        layers = self._arena[region.layer_start : region.layer_stop]
        with self._streamed():
            blocks, rows = self._places(space, region)
            values = layers[:, blocks, :, :, rows].permute(1, 2, 3, 0, 4).contiguous()
            host = self._host(values.nbytes)
            host.copy_(values.view(-1).view(torch.uint8), non_blocking=True)
        self._finish()
        return host.numpy().data

    def write(self, space: KvSpace, region: KvRegion, payload: memoryview) -> None:
        """Copy `payload` into `region`. Raises ValueError when the sizes differ."""
        layers = self._arena[region.layer_start : region.layer_stop]
        shape = (len(layers), *layers.shape[2:4], region.tokens, layers.shape[5])
        given = np.frombuffer(payload, dtype=np.uint8)
        if given.size != region.layers * region.tokens * self._arena[0, 0, :, :, 0].nbytes:
            raise ValueError(f"{given.size} bytes are not those of {region}")
        with self._streamed():
            if len(self._incoming) < given.size:
                self._incoming = self._host(given.size)
            host = self._incoming[: given.size]
            host.numpy()[:] = given
            blocks, rows = self._places(space, region)
            values = host.to(self._device, non_blocking=True).view(self._arena.dtype).view(shape)
            layers[:, blocks, :, :, rows] = values.permute(3, 0, 1, 2, 4)
        self._finish()

    def _places(self, space: KvSpace, region: KvRegion) -> tuple[torch.Tensor, torch.Tensor]:
        """Block number and row within the block of each token."""
        tokens = np.arange(region.token_start, region.token_stop)
        first, last = region.token_start // BLOCK_TOKENS, -(-region.token_stop // BLOCK_TOKENS)
        numbers = np.array(space.numbers[first:last], dtype=np.int64)
        both = np.stack((numbers[tokens // BLOCK_TOKENS - first], tokens % BLOCK_TOKENS))
        blocks, rows = torch.from_numpy(both).to(self._device)
        return blocks, rows

    def _host(self, size_bytes: int) -> torch.Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=self._on_cuda)

    def _streamed(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _finish(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()
