"""How an attempt of a client ends, other than well. Every door raises these, and `Load` decides what they mean."""

from __future__ import annotations


class Refused(Exception):
    """Not admitted; the client may try again after `retry_after_s`."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Lost(Exception):
    """The connection to the gateway, or the client's own to NATS, is gone, and the stream with it."""


class Unanswered(Lost):
    """The connection broke before a word of the answer: a gateway that stops may not have read the request."""


class Hopped(Lost):
    """The client dropped its connection on purpose."""


class Failed(Exception):
    """Admitted, and ended with an error."""


class Forgotten(Failed):
    """A resumable session that nobody knows any more."""


REFUSALS = ("overloaded", "kv_exhausted", "unavailable", "draining", "resume_unavailable")
FORGOTTEN = "session_not_found"
RETRY_AFTER_S = 1.0


def ended_by(code: str, message: str, retry_after_ms: int | None, *, begun: bool) -> Refused | Failed:
    """What an error of the gateway is: a refusal has a moment to try again.

    `begun`: there are tokens already, and the session cannot be resumed. Then nothing is a refusal.
    """
    if code in REFUSALS and not begun and retry_after_ms is not None:
        return Refused(f"{code}: {message}", retry_after_ms / 1000)
    if code == FORGOTTEN:
        return Forgotten(f"{code}: {message}")
    return Failed(f"{code}: {message}")
