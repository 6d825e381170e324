"""An outsider publishes on the KV subjects, before, during and after transfers: tokens stay right, nothing breaks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from shared.bus.connection import Bus
from shared.core import KvEncoding, KvRegion
from shared.protocol import subjects
from shared.protocol.kv_chunk import HEADER_BYTES, KvChunkHeader, decode_chunk, encode_header
from shared.protocol.to_decode import Claim, CreditProbe, Manifest
from shared.protocol.to_prefill import Credit, Imported, Nack, TransferRefused
from shared.protocol.wire import decode, encode
from shared.runtime.tasks import Tasks

from .conftest import MakeFleet
from .engines import GatedEngine, engine
from .fleet import Fleet, colocated, eventually, token_ids
from .orders import claim
from .prompts import prompt

Attack = Callable[[bytes], list[bytes]]


def truncated(data: bytes) -> list[bytes]:
    return [data[:length] for length in (0, 1, HEADER_BYTES - 1, HEADER_BYTES, len(data) - 1)] + [data + b"\0"]


def corrupt(data: bytes) -> list[bytes]:
    def flipped(position: int) -> bytes:
        return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]

    return [flipped(position) for position in (0, 4, 30, HEADER_BYTES - 1, HEADER_BYTES, len(data) - 1)]


def duplicated(data: bytes) -> list[bytes]:
    return [data, data]


def foreign(data: bytes) -> list[bytes]:
    """Well-formed chunks with other bytes, of another session, epoch, transfer or model, or outside the sequence."""
    header, payload = decode_chunk(data)
    other = bytes(byte ^ 0xFF for byte in payload)
    region = header.region
    changes = [
        {"session": "0" * 32},
        {"epoch": header.epoch + 1},
        {"transfer": header.transfer ^ 1},
        {"fingerprint": "0" * 16},
        {"dtype": "bfloat16"},
        {"encoding": KvEncoding.INT8},
        {"region": KvRegion(0, 65535, region.token_start, region.token_stop)},
        {"region": KvRegion(region.layer_start, region.layer_stop, 1 << 31, (1 << 31) + region.tokens)},
        {"region": KvRegion(region.layer_start, region.layer_stop, region.token_stop, region.token_start)},
        {"region": KvRegion(region.layer_start, region.layer_stop + 1, region.token_start, region.token_stop)},
    ]
    return [encode_header(msgspec.structs.replace(header, **change), other) + other for change in changes]


def garbage(data: bytes) -> list[bytes]:
    noise = random.Random(len(data))
    return [noise.randbytes(length) for length in (3, HEADER_BYTES, 500)]


ATTACKS: dict[str, Attack] = {kind.__name__: kind for kind in (truncated, corrupt, duplicated, foreign, garbage)}


class Outsider:
    """Publishes what it likes; hears all KV messages and each claim."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._posts: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self._known: set[bytes] = set()
        self.published = 0

    async def answer_chunks(self, attack: Attack) -> None:
        """Publish what `attack` makes of each chunk, right behind it."""

        def heard(subject: str, data: bytes) -> None:
            if data not in self._known:
                self._known.add(data)
                for bad in attack(data):
                    self._known.add(bad)
                    self.post(subject, bad)

        await self.bus.listen("baton.v1.kv.*.*.chunk", heard)
        await self.bus.flush()

    def post(self, subject: str, data: bytes) -> None:
        self._posts.put_nowait((subject, data))
        self.published += 1

    async def publish_posts(self) -> None:
        """Task body."""
        while True:
            await self.bus.publish(*await self._posts.get())

    async def next_claim(self) -> asyncio.Future[Claim]:
        """The first claim that any decode worker gets from now on."""
        found: asyncio.Future[Claim] = asyncio.get_running_loop().create_future()

        def heard(_subject: str, data: bytes) -> None:
            if not found.done():
                found.set_result(decode(Claim, data))

        await self.bus.listen("baton.v1.decode.*.claim", heard)
        await self.bus.flush()
        return found


@pytest.fixture
async def attacker(outsider: Bus) -> AsyncIterator[Outsider]:
    async with Tasks("attacker") as tasks:
        attacker = Outsider(outsider)
        tasks.start(attacker.publish_posts(), name="posts")
        yield attacker


async def tokens_stay_right(fleet: Fleet) -> None:
    lengths = (1, 33, 100, 257, 400)
    answers = await asyncio.gather(*(fleet.generate(prompt(length), 12) for length in lengths))
    for length, deltas in zip(lengths, answers, strict=True):
        assert token_ids(deltas) == colocated(engine(), prompt(length), 12)[0], length


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_bad_chunks_during_a_transfer_change_nothing(make_fleet: MakeFleet, attacker: Outsider, attack: Attack):
    fleet = await make_fleet(chunk_bytes=1024, window_bytes=4096)
    await attacker.answer_chunks(attack)
    await tokens_stay_right(fleet)
    assert attacker.published > 20


async def test_old_chunks_again_and_in_another_order_change_nothing(make_fleet: MakeFleet, attacker: Outsider):
    heard: list[bytes] = []

    def replay(data: bytes) -> list[bytes]:
        heard.append(data)
        return [bytes(each) for each in reversed(heard[-6:])]

    fleet = await make_fleet(chunk_bytes=1024, window_bytes=4096)
    await attacker.answer_chunks(replay)
    await tokens_stay_right(fleet)


def bad_messages(session: str, epoch: int) -> list[tuple[str, bytes]]:
    """Manifests, probes and feedback nobody should believe, each with its subject."""
    manifest = Manifest(
        session=session,
        epoch=epoch,
        transfer=1,
        prompt_tokens=1,
        chunks=1,
        payload_bytes=1 << 40,
        first_token=3,
        since_compute_ms=0.0,
    )
    kv, feedback = subjects.kv(session, epoch), subjects.kv_feedback(session, epoch)
    everything = KvRegion(0, 65535, 0, (1 << 32) - 1)
    return [
        *((f"{kv}.{kind}", data) for kind in ("manifest", "probe", "chunk", "nonsense") for data in garbage(b"x")),
        *((feedback, data) for data in garbage(b"x")),
        (subjects.kv_manifest(session, epoch), encode(manifest)),
        (subjects.kv_manifest(session, epoch), b""),
        (subjects.kv_manifest(session, epoch), encode(manifest)[:-3]),
        (subjects.kv_probe(session, epoch), encode(CreditProbe(transfer=1, published_bytes=1 << 50))),
        (subjects.kv_probe(session, epoch), encode(manifest)),
        (feedback, encode(Imported(transfer=1))),
        (feedback, encode(TransferRefused(transfer=1, reason="no"))),
        (feedback, encode(Credit(transfer=1, total_bytes=1 << 50))),
        (feedback, encode(Nack(transfer=1, missing=(everything,), credit_bytes=1 << 50))),
    ]


async def test_bad_messages_before_and_during_a_transfer_change_nothing(
    make_fleet: MakeFleet, attacker: Outsider, clients: Tasks
):
    prefill = GatedEngine()
    fleet = await make_fleet(make_prefill=lambda: prefill, chunk_tokens=50, chunk_bytes=1024, window_bytes=4096)
    prefill.prefill_gate.shut()
    claimed = await attacker.next_claim()
    client = clients.start(fleet.generate(prompt(300), 12), name="client")
    session = (await claimed).session
    await prefill.prefill_gate.reached.wait()
    chunks = ATTACKS["foreign"](_chunk_of(session))
    for subject, data in bad_messages(session, 0):
        attacker.post(subject, data)
    for data in chunks:
        attacker.post(subjects.kv_chunk(session, 0), data)
    await attacker.bus.flush()

    def during(data: bytes) -> list[bytes]:
        for subject, bad in bad_messages(session, 0):
            attacker.post(subject, bad)
        return []

    await attacker.answer_chunks(during)
    prefill.prefill_gate.open()
    assert token_ids(await client) == colocated(engine(), prompt(300), 12)[0]


def _chunk_of(session: str) -> bytes:
    spec = engine().spec
    region = KvRegion(0, spec.layout.layers, 0, 10)
    payload = bytes(region.size_bytes(spec.layout))
    header = KvChunkHeader(
        fingerprint=spec.fingerprint,
        session=session,
        epoch=0,
        transfer=7,
        chunk=0,
        dtype=spec.layout.dtype,
        region=region,
    )
    return encode_header(header, payload) + payload


async def test_the_manifest_too_early_and_too_often_changes_nothing(make_fleet: MakeFleet, attacker: Outsider):
    """Even by one who knows the transfer's secret number."""
    spec = engine().spec

    def early(data: bytes) -> list[bytes]:
        header, _ = decode_chunk(data)
        if header.chunk not in (0, 3, 8):
            return []
        manifest = Manifest(
            session=header.session,
            epoch=header.epoch,
            transfer=header.transfer,
            prompt_tokens=300,
            chunks=0,
            payload_bytes=0,
            first_token=spec.vocab_size,
            since_compute_ms=0.0,
        )
        attacker.post(subjects.kv_manifest(header.session, header.epoch), encode(manifest))
        known = msgspec.structs.replace(manifest, first_token=0)
        attacker.post(subjects.kv_manifest(header.session, header.epoch), encode(known))
        return []

    fleet = await make_fleet(chunk_tokens=50, chunk_bytes=1024, window_bytes=4096)
    await attacker.answer_chunks(early)
    async with fleet.freed_soon():
        deltas = await fleet.generate(prompt(300), 12)
    assert token_ids(deltas) == colocated(engine(), prompt(300), 12)[0]


async def test_messages_for_a_dead_session_reach_nobody(fleet: Fleet, attacker: Outsider):
    chunks: list[tuple[str, bytes]] = []
    await attacker.bus.listen("baton.v1.kv.>", lambda subject, data: chunks.append((subject, data)))
    await attacker.bus.flush()
    await fleet.generate(prompt(100), 4)
    await fleet.at_rest()
    for subject, data in chunks:
        attacker.post(subject, data)
    session = claim().session
    for subject, data in bad_messages(session, 0):
        attacker.post(subject, data)
    await attacker.bus.flush()
    await tokens_stay_right(fleet)


async def test_a_claim_under_attack_can_still_be_cancelled(make_fleet: MakeFleet, attacker: Outsider, clients: Tasks):
    fleet = await make_fleet(chunk_bytes=1024, window_bytes=4096, make_prefill=lambda: engine(prefill_token_s=0.001))
    await attacker.answer_chunks(lambda data: [*corrupt(data), *duplicated(data)])
    client = clients.start(fleet.generate(prompt(500), 12), name="client")
    await eventually(lambda: attacker.published > 0)
    client.cancel()
    await asyncio.wait([client])
    await fleet.at_rest(within_s=1)
