"""A running Baton of real processes with the real model, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
import pytest
from beats import BeatWatch
from nats.aio.client import Client
from stack import Stack, running_stack


@pytest.fixture(scope="session")
def stack(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One prefill and one decode worker, bf16."""
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Client]:
    """A NATS connection to `stack`."""
    connection = await nats.connect(stack.nats_url)
    yield connection
    await connection.close()


@pytest.fixture
async def beats(client: Client) -> BeatWatch:
    """The workers of `stack`, as their beats tell."""
    watch = BeatWatch()
    await client.subscribe("baton.v1.beat.>", cb=watch.hear)
    await watch.at_rest()
    return watch
