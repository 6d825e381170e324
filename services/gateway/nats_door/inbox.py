"""Reply subjects: which may be answered, and where to look whether the requester still listens. No I/O.

Knows how NATS clients name inboxes, nothing of generations. The door and its answers call it.
"""

from __future__ import annotations

import re

from shared.protocol.subjects import ROOT

_TOKEN = re.compile(r"[^\s.*>]+")
_INTERNAL = (f"{ROOT}.", "$")


def answerable(reply: str) -> bool:
    """Whether `reply` is an inbox: a plain subject that is neither Baton's own nor the NATS system's.

    Else a request could make the gateway speak to workers, or to JetStream, with the gateway's rights.
    """
    return not reply.startswith(_INTERNAL) and all(_TOKEN.fullmatch(token) for token in reply.split("."))


def beside_inbox(reply: str, probe: str) -> str | None:
    """A subject beside `reply` that a client with one inbox for all its requests hears, and ignores.

    Client libraries answer `request()` from one wildcard subscription, `_INBOX.<client>.*`, and drop what no request
    waits for. None where `reply` is not of that form.
    """
    tokens = reply.split(".")
    if len(tokens) < 3:
        return None
    return ".".join([*tokens[:-1], probe])
