"""Shows how far a pull is: a bar on a terminal, plain lines elsewhere. `pull.py` reports to it, the CLI makes one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TaskID, TextColumn, TransferSpeedColumn

_PLAIN_STEP = 0.25


class PullProgress(Protocol):
    """What a pull tells of itself."""

    def stage(self, title: str, total_bytes: int | None = None) -> None:
        """A new stage begins; `total_bytes` is about how much it will read or write, if known."""

    def reached(self, done_bytes: int) -> None:
        """So much of the present stage is done."""


class _PlainLines:
    """One line per stage, and one per quarter of a stage whose size is known."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._title = ""
        self._total_bytes: int | None = None
        self._next = _PLAIN_STEP

    def stage(self, title: str, total_bytes: int | None = None) -> None:
        self._title, self._total_bytes, self._next = title, total_bytes, _PLAIN_STEP
        self._console.print(title, highlight=False)

    def reached(self, done_bytes: int) -> None:
        if not self._total_bytes or done_bytes < self._next * self._total_bytes or self._next >= 1:
            return
        self._next = done_bytes / self._total_bytes // _PLAIN_STEP * _PLAIN_STEP + _PLAIN_STEP
        self._console.print(
            f"{self._title}: {done_bytes / 1e6:.0f} of {self._total_bytes / 1e6:.0f} MB", highlight=False
        )


class _Bar:
    """A bar for the present stage; finished stages stay above it."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def stage(self, title: str, total_bytes: int | None = None) -> None:
        self.close()
        self._task = self._bars.add_task(title, total=total_bytes)

    def reached(self, done_bytes: int) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=done_bytes)

    def close(self) -> None:
        if self._task is not None:
            completed = max(self._bars.tasks[-1].completed, 1)
            self._bars.update(self._task, total=completed, completed=completed)


@contextlib.contextmanager
def show_progress(console: Console) -> Iterator[PullProgress]:
    """Progress on `console` while the block runs."""
    if not console.is_terminal:
        yield _PlainLines(console)
        return
    columns = (
        SpinnerColumn(finished_text="*"),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        bar = _Bar(bars)
        yield bar
        bar.close()
