"""Frames nobody waits for: of a session that is over, or of an epoch that is. Their sender works for nothing.

Plain object; `Sessions` asks it what to answer.
"""

from __future__ import annotations

from collections import OrderedDict

from shared.protocol.to_decode import Cancel
from shared.protocol.to_gateway import TokenFrame

REMEMBERED = 4096


class Strays:
    """Answers each worker once for each session and epoch; remembers the last `REMEMBERED`."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._told: OrderedDict[tuple[str, str, int], None] = OrderedDict()
        self._remembered = remembered

    def cancel_for(self, worker: str, frame: TokenFrame) -> Cancel | None:
        """What ends the work behind a stray `frame` of `worker`; None when it ends by itself, or was told."""
        told = (worker, frame.session, frame.epoch)
        if frame.finish is not None or not frame.ids or told in self._told:
            return None
        self._told[told] = None
        if len(self._told) > self._remembered:
            self._told.popitem(last=False)
        return Cancel(session=frame.session, epoch=frame.epoch, reason="its gateway does not wait for it")
