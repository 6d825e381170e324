"""Which sessions were cancelled up to which epoch, so that a message that comes late finds the door shut."""

from __future__ import annotations

from collections import OrderedDict

from shared.errors import Cancelled

REMEMBERED = 65536


class Fences:
    """Remembers the last `REMEMBERED` cancelled sessions."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._epochs: OrderedDict[str, int] = OrderedDict()
        self._remembered = remembered

    def raise_fence(self, session: str, epoch: int) -> None:
        """Shut out `session` in `epoch` and every older one."""
        self._epochs[session] = max(epoch, self._epochs.pop(session, epoch))
        if len(self._epochs) > self._remembered:
            self._epochs.popitem(last=False)

    def check(self, session: str, epoch: int) -> None:
        """Raises Cancelled when `epoch` of `session` is shut out."""
        if epoch <= self._epochs.get(session, -1):
            raise Cancelled(f"session {session} epoch {epoch} was cancelled")
