"""One cache handed over within one engine, through a sender and a receiver as the services use them, without a bus."""

from __future__ import annotations

from collections.abc import Sequence

from services.decode.settings import DecodeSettings
from services.prefill.settings import PrefillSettings
from shared.core import KvEncoding
from shared.engine.torch_engine import TorchEngine
from shared.kv.receiver import Receiver, TransferIdentity
from shared.kv.sender import Sender, TransferTarget
from shared.protocol.to_decode import CreditProbe, Manifest
from shared.protocol.to_prefill import Feedback

SESSION = "ab" * 16
PREFILL = PrefillSettings(id="bench")
DECODE = DecodeSettings(id="bench")


async def hand_over(engine: TorchEngine, source: str, sink: str, slices: Sequence[int], encoding: KvEncoding) -> int:
    """Copy the cache of `source` to `sink`; `slices` are where prefill's calls ended. Returns the bytes of payload."""
    tokens = slices[-1]
    receiver = Receiver(
        engine,
        sink,
        engine.spec,
        TransferIdentity(session=SESSION, epoch=0, transfer=0),
        prompt_tokens=tokens,
        cached_tokens=0,
        window_bytes=DECODE.window_bytes,
        accepts=tuple(KvEncoding),
    )
    target = TransferTarget(
        session=SESSION,
        epoch=0,
        transfer=0,
        credit_bytes=DECODE.window_bytes,
        prompt_tokens=tokens,
        chunk_bytes=PREFILL.chunk_bytes,
        encoding=encoding,
    )
    bus = _Direct(receiver)
    bus.sender = sender = Sender(engine, source, engine.spec, target, bus)
    start = 0
    for stop in slices:
        sender.computed(start, stop)
        start = stop
    sender.finish(first_token=0)
    await sender.send()
    return receiver.payload_bytes


class _Direct:
    """A `ChunkBus` that is the receiver itself."""

    sender: Sender

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    async def chunk(self, header: bytes, *payload: memoryview) -> None:
        self._answer(self._receiver.on_chunk(b"".join((header, *payload))))

    async def manifest(self, manifest: Manifest) -> None:
        self._answer(self._receiver.on_manifest(manifest))

    async def probe(self, probe: CreditProbe) -> None:
        self._answer(self._receiver.on_probe(probe))

    def _answer(self, feedback: Feedback | None) -> None:
        if feedback is not None:
            self.sender.on_feedback(feedback)
