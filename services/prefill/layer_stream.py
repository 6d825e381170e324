"""What of a running engine call may be sent already: layer group by layer group, each as long as a chunk.

Sending takes the processor from the computing where a worker has no core to spare. A slice that ends a prompt may wait
then: its first token comes sooner, by as much as its cache comes later.

The engine tells of layers on its own thread; senders are told on the event loop's. `worker` makes one per call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence

from shared.core import SampledToken
from shared.engine.contract import Engine, PrefillSlice
from shared.kv.sender import Sender


class LayerStream:
    """One call's slices and their senders. `on_layer` is an `OnLayer`; `finish` covers what it was not told of."""

    def __init__(
        self,
        feeds: Sequence[tuple[Sender, PrefillSlice]],
        loop: asyncio.AbstractEventLoop,
        *,
        late: Collection[PrefillSlice] = (),
    ) -> None:
        """Slices that are `late` go when the call has returned."""
        self._feeds = [_Feed(sender, part) for sender, part in feeds]
        self._late = late
        self._called = self._feeds
        self._loop = loop

    def on_layer(self, layers: int) -> None:
        """On the engine's thread: the first `layers` layers of all slices are in the cache."""
        due = [feed for feed in self._called if layers % feed.group == 0]
        if due:
            self._loop.call_soon_threadsafe(_reach, due, layers)

    def compute(self, engine: Engine, parts: Sequence[PrefillSlice]) -> tuple[list[SampledToken | None], float]:
        """On the engine's thread: the call itself, or one for some of its `parts`; and when it ended (monotonic)."""
        self._called = [feed for feed in self._feeds if feed.part in parts and feed.part not in self._late]
        sampled = engine.prefill(parts, self.on_layer)
        return sampled, time.monotonic()

    def finish(self, sender: Sender, layers: int) -> None:
        """The call has returned: all `layers` layers of this sender's slice may go."""
        _reach([feed for feed in self._feeds if feed.sender is sender], layers)


class _Feed:
    """One slice, and how much of it its sender was told of."""

    def __init__(self, sender: Sender, part: PrefillSlice) -> None:
        self.sender = sender
        self.group = sender.layers_per_chunk(part.stop - part.start)
        self.part = part
        self._told = 0

    def reach(self, layers: int) -> None:
        if layers > self._told:
            self.sender.computed(self.part.start, self.part.stop, layers=(self._told, layers))
            self._told = layers


def _reach(feeds: list[_Feed], layers: int) -> None:
    for feed in feeds:
        feed.reach(layers)
