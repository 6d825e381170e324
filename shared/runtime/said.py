"""What a worker has said of late, to be said again where it was lost with a connection. Plain object, no I/O."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from shared.protocol.to_gateway import TokenFrame
from shared.protocol.to_worker import Repeat
from shared.protocol.wire import ID_BYTES

KEEP_S = 10.0
LIMIT = 1 << 13


class Said:
    """Token frames of the last `keep_s`, at most `limit`, of sessions that run and of those that have ended."""

    def __init__(self, keep_s: float = KEEP_S, limit: int = LIMIT, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_s = keep_s
        self._clock = clock
        self._frames: deque[tuple[float, TokenFrame]] = deque(maxlen=limit)

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame: TokenFrame) -> None:
        now_s = self._clock()
        self._frames.append((now_s, frame))
        while now_s - self._frames[0][0] > self._keep_s:
            self._frames.popleft()

    def again(self, repeat: Repeat) -> list[TokenFrame]:
        """What has tokens from the index on that each session waits for, or its end; as it was said."""
        wanted = {(one.session, one.epoch): one.next_index for one in repeat.sessions}
        return [frame for _, frame in self._frames if _lacks(wanted.get((frame.session, frame.epoch)), frame)]


def _lacks(next_index: int | None, frame: TokenFrame) -> bool:
    if next_index is None:
        return False
    return frame.finish is not None or frame.index + len(frame.ids) // ID_BYTES > next_index
