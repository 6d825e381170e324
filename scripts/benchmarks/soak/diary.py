"""What happened when, for the one who looks for a cause: a line each, beside the logs of the processes."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

LONG_START_S = 10.0
LONG_PAUSE_S = 3.0


class Diary:
    """Writes `soak.log` into the folder of the logs. Times are those of the other logs."""

    def __init__(self, log_dir: Path) -> None:
        self._file = (log_dir / "soak.log").open("w", buffering=1)

    def note(self, what: str) -> None:
        moment_s = time.time()
        clock = time.strftime("%H:%M:%S", time.gmtime(moment_s))
        print(f"{clock}.{int(moment_s % 1 * 1000):03}Z {what}", file=self._file)

    def note_pauses(self, session: str, moments_s: list[float]) -> None:
        """The long ones among the moments of a stream that has just ended."""
        now_s = time.monotonic()
        for number, (earlier, later) in enumerate(itertools.pairwise(moments_s)):
            if later - earlier > (LONG_PAUSE_S if number else LONG_START_S):
                self.note(f"{session}: {later - earlier:.1f} s for piece {number}, until {now_s - later:.1f} s ago")

    def close(self) -> None:
        self._file.close()
