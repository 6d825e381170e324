"""Which layers senders are told of, from which thread, and that every cell is told of once."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from services.prefill.layer_stream import LayerStream
from shared.core import KvLayout, SamplingParams
from shared.engine.contract import PrefillSlice, SequenceSpec
from shared.engine.fake import FakeEngine, fake_spec
from shared.kv.plan import layers_per_chunk
from shared.kv.sender import Sender

LAYOUT = KvLayout(layers=30, kv_heads=3, head_dim=64, dtype="bfloat16")
CHUNK_BYTES = 1 << 20


class Told:
    """A sender that notes what it is told of, and on which thread."""

    def __init__(self, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.layers: list[tuple[int, int]] = []
        self.tokens: set[tuple[int, int]] = set()
        self.threads: set[int] = set()
        self._chunk_bytes = chunk_bytes

    def computed(self, token_start: int, token_stop: int, *, layers: tuple[int, int]) -> None:
        self.layers.append(layers)
        self.tokens.add((token_start, token_stop))
        self.threads.add(threading.get_ident())

    def layers_per_chunk(self, tokens: int) -> int:
        return layers_per_chunk(LAYOUT, tokens, self._chunk_bytes)


def as_sender(told: Told) -> Sender:
    return cast(Sender, told)


async def test_a_slice_goes_in_groups_of_layers_that_fill_a_chunk() -> None:
    told = Told()
    stream = LayerStream([(as_sender(told), PrefillSlice("a", 256, 512))], asyncio.get_running_loop())
    await asyncio.to_thread(lambda: [stream.on_layer(layer) for layer in range(1, 31)])
    stream.finish(as_sender(told), 30)
    assert told.layers == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 25), (25, 30)]
    assert told.tokens == {(256, 512)}
    assert told.threads == {threading.get_ident()}


async def test_an_engine_that_tells_nothing_has_computed_it_all_the_same() -> None:
    told = Told()
    LayerStream([(as_sender(told), PrefillSlice("a", 0, 8))], asyncio.get_running_loop()).finish(as_sender(told), 30)
    assert told.layers == [(0, 30)]


async def test_a_computed_call_was_told_of_and_has_an_end() -> None:
    spec = fake_spec()
    engine = FakeEngine(spec, 100 * spec.layout.token_bytes)
    sampling = SamplingParams(temperature=0.0)
    engine.open(SequenceSpec(key="a", prompt_ids=[1, 2, 3], sampling=sampling, capacity_tokens=4))
    told = Told()
    part = PrefillSlice("a", 0, 3)
    stream = LayerStream([(as_sender(told), part)], asyncio.get_running_loop())
    before_s = time.monotonic()
    (token,), ended_s = await asyncio.to_thread(stream.compute, engine, [part])
    stream.finish(as_sender(told), spec.layout.layers)
    assert token is not None
    assert before_s <= ended_s <= time.monotonic()
    assert [layer for start, stop in told.layers for layer in range(start, stop)] == list(range(spec.layout.layers))


async def test_each_slice_of_a_call_has_groups_of_its_own() -> None:
    long, short = Told(), Told()
    feeds = [(as_sender(long), PrefillSlice("long", 0, 256)), (as_sender(short), PrefillSlice("short", 0, 8))]
    stream = LayerStream(feeds, asyncio.get_running_loop())
    for layer in range(1, 8):
        stream.on_layer(layer)
    await asyncio.sleep(0)
    assert (long.layers, short.layers) == ([(0, 5)], [])
    stream.finish(as_sender(short), 30)
    assert (long.layers, short.layers) == ([(0, 5)], [(0, 30)])
    stream.finish(as_sender(long), 30)
    assert long.layers == [(0, 5), (5, 30)]


@given(st.integers(1, 512), st.integers(1, 1 << 22), st.lists(st.integers(1, 30), unique=True).map(sorted))
def test_whatever_the_engine_tells_every_layer_is_told_of_once(
    tokens: int, chunk_bytes: int, layers: list[int]
) -> None:
    told = Told(chunk_bytes)

    async def run() -> None:
        stream = LayerStream([(as_sender(told), PrefillSlice("a", 0, tokens))], asyncio.get_running_loop())
        for layer in layers:
            stream.on_layer(layer)
        await asyncio.sleep(0)
        stream.finish(as_sender(told), 30)

    asyncio.run(run())
    assert [layer for start, stop in told.layers for layer in range(start, stop)] == list(range(30))


async def test_a_call_for_some_of_the_slices_tells_of_those_and_of_no_layer_twice() -> None:
    spec = fake_spec()
    engine = FakeEngine(spec, 100 * spec.layout.token_bytes)
    parts = [PrefillSlice("a", 0, 3), PrefillSlice("b", 0, 3)]
    for part in parts:
        sampling = SamplingParams(temperature=0.0)
        engine.open(SequenceSpec(key=part.key, prompt_ids=[1, 2, 3], sampling=sampling, capacity_tokens=4))
    told, other = Told(chunk_bytes=1), Told(chunk_bytes=1)
    feeds = [(as_sender(told), parts[0]), (as_sender(other), parts[1])]
    stream = LayerStream(feeds, asyncio.get_running_loop())
    stream.on_layer(1)
    await asyncio.to_thread(stream.compute, engine, parts[:1])
    stream.finish(as_sender(told), spec.layout.layers)
    assert [layer for start, stop in told.layers for layer in range(start, stop)] == list(range(spec.layout.layers))
    assert other.layers == [(0, 1)]


async def test_a_late_slice_goes_when_the_call_has_returned_and_the_others_before() -> None:
    early, late = Told(chunk_bytes=1), Told(chunk_bytes=1)
    parts = [PrefillSlice("a", 0, 256), PrefillSlice("b", 0, 256)]
    engine = FakeEngine(fake_spec())
    for part in parts:
        engine.open(SequenceSpec(key=part.key, prompt_ids=[1] * 300, sampling=SamplingParams(), capacity_tokens=300))
    stream = LayerStream(
        [(as_sender(early), parts[0]), (as_sender(late), parts[1])], asyncio.get_running_loop(), late=parts[1:]
    )
    await asyncio.to_thread(stream.compute, engine, parts)
    await asyncio.sleep(0)
    assert early.layers
    assert not late.layers
    stream.finish(as_sender(late), 4)
    assert late.layers == [(0, 4)]
