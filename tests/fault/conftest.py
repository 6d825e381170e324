"""Fleets of real processes. Most tests break the same one, which heals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from stack import Stack

from .scene import Scene, fleet, scene_of

Measured = Callable[[float], None]
Noted = Callable[[str], None]
_measured: list[str] = []
_noted: list[str] = []


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Takes the longest pause of a stream in seconds, to be shown after the run."""
    return lambda pause_s: _measured.append(f"{pause_s:5.2f} s  {request.node.name}")


@pytest.fixture
def noted(request: pytest.FixtureRequest) -> Noted:
    """Takes a line with other numbers, to be shown after the run."""
    return lambda line: _noted.append(f"{request.node.name}: {line}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _measured:
        terminalreporter.section("longest pause of a stream")
        terminalreporter.write("\n".join(_measured) + "\n")
    if _noted:
        terminalreporter.section("other numbers")
        terminalreporter.write("\n".join(_noted) + "\n")


@pytest.fixture(scope="session")
def two_by_two(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two prefill and two decode workers."""
    with fleet(tmp_path_factory.mktemp("logs"), "--prefill", "2", "--decode", "2") as stack:
        yield stack


@pytest.fixture
async def scene(two_by_two: Stack, model_folder: Path) -> AsyncIterator[Scene]:
    """The two by two, at rest before and after."""
    async with scene_of(two_by_two, model_folder) as scene:
        yield scene
