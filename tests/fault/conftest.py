"""Fleets of real processes. Each module of tests breaks one of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from stack import Stack

from .scene import Scene, fleet, scene_of


@pytest.fixture(scope="module")
def two_by_two(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two prefill and two decode workers."""
    with fleet(tmp_path_factory.mktemp("logs"), "--prefill", "2", "--decode", "2") as stack:
        yield stack


@pytest.fixture
async def scene(two_by_two: Stack, model_folder: Path) -> AsyncIterator[Scene]:
    """The two by two, at rest before and after."""
    async with scene_of(two_by_two, model_folder) as scene:
        yield scene
