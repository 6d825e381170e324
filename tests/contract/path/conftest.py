"""Fleets of fake engines, and a tokenizer that knows their vocabulary."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from shared.bus.connection import Bus
from shared.bus.settings import BusSettings
from shared.runtime.tasks import Tasks
from shared.text.tokenizer import Tokenizer

from .engines import MODEL, engine
from .fleet import Fleet, FleetShape

MakeFleet = Callable[..., Awaitable[Fleet]]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Byte-level: one token for each of the 256 bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)


@pytest.fixture
async def make_fleet(nats_url: str, tokenizer: Tokenizer) -> AsyncIterator[MakeFleet]:
    """Starts fleets of fake engines. At the end each is stopped, and must have nothing left behind."""
    fleets: list[Fleet] = []

    async def make(**shape: object) -> Fleet:
        shape = {"make_prefill": engine, "make_decode": engine} | shape
        fleet = Fleet(nats_url, MODEL, tokenizer, FleetShape(**shape))  # type: ignore[arg-type]
        fleets.append(fleet)
        await fleet.start()
        return fleet

    yield make
    for fleet in fleets:
        await fleet.stop()


@pytest.fixture
async def fleet(make_fleet: MakeFleet) -> Fleet:
    """One worker of each phase."""
    return await make_fleet()


@pytest.fixture
async def outsider(nats_url: str) -> AsyncIterator[Bus]:
    """One more client of the same NATS, part of no service."""
    async with Tasks("outsider") as tasks:
        bus = await Bus.connect(BusSettings(url=nats_url), name="outsider", spawn=tasks.start)
        yield bus
        await bus.close()


@pytest.fixture
async def clients() -> AsyncIterator[Tasks]:
    """Owns the tasks of clients."""
    async with Tasks("clients") as tasks:
        yield tasks
