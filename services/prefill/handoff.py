"""The way of one transfer's messages onto the bus: `shared.kv.sender.ChunkBus` over the KV connection."""

from __future__ import annotations

from shared.bus.data_plane.connection import DataPlane
from shared.protocol import subjects
from shared.protocol.to_decode import CreditProbe, Manifest


class HandoffBus:
    """Publishes for one session and epoch."""

    def __init__(self, bus: DataPlane, session: str, epoch: int) -> None:
        self._bus = bus
        self._chunks = subjects.kv_chunk(session, epoch)
        self._manifests = subjects.kv_manifest(session, epoch)
        self._probes = subjects.kv_probe(session, epoch)

    async def chunk(self, header: bytes, *payload: memoryview) -> None:
        await self._bus.publish_parts(self._chunks, header, *payload)

    async def manifest(self, manifest: Manifest) -> None:
        await self._bus.send(self._manifests, manifest)

    async def probe(self, probe: CreditProbe) -> None:
        await self._bus.send(self._probes, probe)
