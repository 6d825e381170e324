"""Where the output of the child processes goes: to the terminal with the name in front, or to a file for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO

from services.local.child import OnLine
from shared.errors import ConfigError


class Output:
    """`log_dir` empty: lines go to `print_line`."""

    def __init__(self, log_dir: str, print_line: Callable[[str], None]) -> None:
        self._folder = Path(log_dir).expanduser() if log_dir else None
        self._print_line = print_line
        self._files: dict[str, IO[str]] = {}

    def of(self, name: str) -> OnLine:
        """What hears the lines of one process. Raises ConfigError when its file cannot be opened."""
        if self._folder is None:
            return lambda line: self._print_line(f"[{name}] {line}")
        file = self._files[name] = self._open(self._folder, name)
        return lambda line: print(line, file=file)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _open(self, folder: Path, name: str) -> IO[str]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return (folder / f"{name}.log").open("a", buffering=1, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write logs to {folder}: {error}", param="log_dir") from error
