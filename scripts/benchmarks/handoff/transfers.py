"""The hand-off of whole caches as workers do it, over either connection, without the workers around it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import torch

from benchmarks.handoff.arena import Arena, key
from benchmarks.handoff.plan import PROMPT_TOKENS, SESSION, SLICE_TOKENS, SPEC, Order, Times, Way
from services.prefill.handoff import HandoffBus
from services.prefill.layer_stream import LayerStream
from shared.bus.connection import Bus
from shared.bus.data_plane.connection import DataPlane
from shared.bus.outbox import Outbox
from shared.bus.settings import BusSettings
from shared.core import KvEncoding
from shared.engine.contract import OnLayer, PrefillSlice
from shared.kv.receiver import Receiver, TransferIdentity
from shared.kv.sender import ChunkBus, Sender, TransferTarget
from shared.protocol import subjects
from shared.protocol.to_decode import CreditProbe, Manifest
from shared.protocol.to_prefill import Feedback, Imported
from shared.protocol.wire import decode
from shared.runtime.engine_thread import EngineThread
from shared.runtime.tasks import Tasks

FIRST_TOKEN = 1
STEP_S = 0.01


class SendingSide:
    """`lanes` tasks, each sends `rounds` caches."""

    def __init__(self, order: Order, arena: Arena, connection: Bus | DataPlane) -> None:
        self._order = order
        self._arena = arena
        self._connection = connection
        self._thread = EngineThread("bench-engine")
        self._computed_s: dict[int, float] = {}

    async def move(self) -> Times:
        started_s, cpu_s = time.monotonic(), time.process_time()
        async with Tasks("lanes") as lanes:
            for lane in range(self._order.lanes):
                lanes.start(self._send_lane(lane), name=f"lane {lane}")
            await lanes.drain()
        self._thread.close()
        return Times(
            started_s=started_s,
            cpu_s=time.process_time() - cpu_s,
            computed_s=tuple(self._computed_s[transfer] for transfer in sorted(self._computed_s)),
        )

    async def _send_lane(self, lane: int) -> None:
        for transfer in _transfers(self._order, lane):
            target = TransferTarget(
                session=SESSION,
                epoch=transfer,
                transfer=transfer,
                credit_bytes=self._order.window_bytes,
                prompt_tokens=PROMPT_TOKENS,
                chunk_bytes=self._order.chunk_bytes,
                encoding=KvEncoding.INT8 if self._order.way is Way.INT8 else KvEncoding.EXACT,
            )
            bus = _chunk_bus(self._connection, transfer)
            sender = Sender(self._arena, key(lane), SPEC, target, bus, codec=self._arena.int8)
            listening = await self._connection.listen(
                subjects.kv_feedback(SESSION, transfer),
                lambda _subject, data, sender=sender: sender.on_feedback(decode(Feedback, data)),  # type: ignore[misc]
            )
            async with Tasks(f"transfer {transfer}") as sending:
                task = sending.start(sender.send(), name="send")
                await self._compute(sender, transfer)
                await task
            await listening.close()

    async def _compute(self, sender: Sender, transfer: int) -> None:
        computed_at_s = time.monotonic()
        for start in range(0, PROMPT_TOKENS, SLICE_TOKENS):
            part = PrefillSlice(key(0), start, min(start + SLICE_TOKENS, PROMPT_TOKENS))
            stream = LayerStream([(sender, part)], asyncio.get_running_loop())
            if self._order.slice_s:
                on_layer = stream.on_layer if self._order.by_layers else None
                computed_at_s = await self._thread.call(
                    compute_slice, self._order.slice_s, SPEC.layout.layers, on_layer
                )
            stream.finish(sender, SPEC.layout.layers)
        self._computed_s[transfer] = computed_at_s
        sender.finish(FIRST_TOKEN, computed_at_s)


class ReceivingSide:
    """Receivers for all transfers; done when the last cache is complete."""

    def __init__(self, order: Order, arena: Arena, connection: Bus | DataPlane, tasks: Tasks) -> None:
        self._order = order
        self._arena = arena
        self._connection = connection
        self._outbox = Outbox(connection)
        self._ready_s: dict[int, float] = {}
        self._complete = asyncio.Event()
        tasks.start(self._outbox.run(), name="outbox")

    async def listen(self) -> None:
        """Be sure to hear all chunks."""
        for lane in range(self._order.lanes):
            for transfer in _transfers(self._order, lane):
                await self._connection.listen(f"{subjects.kv(SESSION, transfer)}.*", self._listener(lane, transfer))
        await self._connection.flush()

    async def move(self) -> Times:
        cpu_s = time.process_time()
        await self._complete.wait()
        times = Times(
            ended_s=time.monotonic(),
            cpu_s=time.process_time() - cpu_s,
            ready_s=tuple(self._ready_s[transfer] for transfer in sorted(self._ready_s)),
        )
        await self._outbox.drain()
        await self._connection.flush()
        return times

    def _listener(self, lane: int, transfer: int) -> Callable[[str, bytes | memoryview], None]:
        receiver = Receiver(
            self._arena,
            key(lane),
            SPEC,
            TransferIdentity(session=SESSION, epoch=transfer, transfer=transfer),
            prompt_tokens=PROMPT_TOKENS,
            cached_tokens=0,
            window_bytes=self._order.window_bytes,
            accepts=tuple(KvEncoding),
            codec=self._arena.int8,
        )

        def take_in(subject: str, data: bytes | memoryview) -> None:
            feedback = _feedback(receiver, subject.rsplit(".", 1)[1], data)
            if isinstance(feedback, Imported) and transfer not in self._ready_s:
                self._ready_s[transfer] = time.monotonic()
                if len(self._ready_s) == self._order.transfers:
                    self._complete.set()
            if feedback is not None:
                self._outbox.post(subjects.kv_feedback(SESSION, transfer), feedback)

        return take_in


class JoiningBus:
    """A `ChunkBus` over nats-py, which takes one buffer per message."""

    def __init__(self, bus: Bus, transfer: int) -> None:
        self._bus = bus
        self._transfer = transfer

    async def chunk(self, header: bytes, *payload: memoryview) -> None:
        await self._bus.publish(subjects.kv_chunk(SESSION, self._transfer), b"".join((header, *payload)))

    async def manifest(self, manifest: Manifest) -> None:
        await self._bus.send(subjects.kv_manifest(SESSION, self._transfer), manifest)

    async def probe(self, probe: CreditProbe) -> None:
        await self._bus.send(subjects.kv_probe(SESSION, self._transfer), probe)


async def connect(order: Order, name: str, tasks: Tasks) -> Bus | DataPlane:
    settings = BusSettings(url=order.url)
    if order.way in (Way.BATON, Way.INT8):
        return await DataPlane.connect(settings, name=name, spawn=tasks.start)
    return await Bus.connect(settings, name=name, spawn=tasks.start)


class BusyEngine:
    """A context in which an engine's thread computes steps without end, if `wanted`."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._step)

    def __enter__(self) -> None:
        if self._wanted:
            self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        if self._wanted:
            self._thread.join()

    def _step(self) -> None:
        while not self._over.is_set():
            compute_for(STEP_S)


def compute_slice(duration_s: float, layers: int, on_layer: OnLayer | None) -> float:
    """Take as long as a slice, and tell of layers as an engine does. Returns when it ended (monotonic)."""
    for layer in range(layers):
        compute_for(duration_s / layers)
        if on_layer is not None:
            on_layer(layer + 1)
    return time.monotonic()


def compute_for(duration_s: float) -> None:
    """Keep a core as busy as a model does: large products, outside the interpreter's lock."""
    ends_s = time.monotonic() + duration_s
    matrix = torch.ones(256, 256)
    while time.monotonic() < ends_s:
        matrix @ matrix


def _chunk_bus(connection: Bus | DataPlane, transfer: int) -> ChunkBus:
    if isinstance(connection, DataPlane):
        return HandoffBus(connection, SESSION, transfer)
    return JoiningBus(connection, transfer)


def _transfers(order: Order, lane: int) -> range:
    """Numbers of the transfers of one lane."""
    return range(lane, order.transfers, order.lanes)


def _feedback(receiver: Receiver, kind: str, data: bytes | memoryview) -> Feedback | None:
    match kind:
        case "chunk":
            return receiver.on_chunk(data)
        case "probe":
            return receiver.on_probe(decode(CreditProbe, data))
        case _:
            return receiver.on_manifest(decode(Manifest, data))
