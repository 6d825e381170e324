"""The path over the NATS that people run in containers, where Docker runs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from shared.text.tokenizer import Tokenizer

from .engines import MODEL, engine
from .fleet import Fleet, FleetShape, colocated, token_ids
from .prompts import prompt

nats_container = pytest.importorskip("testcontainers.community.nats")


@pytest.fixture(scope="module")
def container_url() -> Iterator[str]:
    """The address of NATS in a container, or a skip that says why there is none."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        pytest.skip("Docker does not run here")
    with nats_container.NatsContainer() as server:
        yield server.nats_uri()


async def test_the_tokens_are_those_of_one_engine(container_url: str, tokenizer: Tokenizer):
    fleet = Fleet(container_url, MODEL, tokenizer, FleetShape(make_prefill=engine, make_decode=engine))
    await fleet.start()
    answer = await fleet.generate(prompt(500), 12)
    await fleet.stop()
    assert token_ids(answer) == colocated(engine(), prompt(500), 12)[0]
