"""Every NATS subject Baton uses, in one place.

Session and epoch stand in the KV subjects, so that a sender of an old epoch talks to nobody. Token frames are batched
per gateway (one message per decode step) and carry session and epoch inside, where the gateway fences them.
"""

from __future__ import annotations

import re

from shared.core import Role
from shared.errors import ConfigError
from shared.protocol.wire import NAME_PATTERN

ROOT = "baton.v1"
GENERATE = f"{ROOT}.generate"
CANCEL_GENERATION = f"{GENERATE}.cancel.*"
PLACE = f"{ROOT}.scheduler.place"
CANCEL_PLACEMENT = f"{ROOT}.scheduler.cancel"
QUARANTINE = f"{ROOT}.quarantine"
BEATS = f"{ROOT}.beat.>"
JOURNAL = f"{ROOT}.journal"
TAKEN_OVER = f"{ROOT}.gateway.takenover"
GATEWAY_QUEUE = "gateway"
SCHEDULER_QUEUE = "scheduler"

_NAME = re.compile(NAME_PATTERN)


def check_name(name: str) -> str:
    """`name`, if it may be one token of a subject. Raises ConfigError otherwise."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"worker id {name!r} must be 1 to 64 of A-Z a-z 0-9 _ -")
    return name


def cancel_generation(request: str) -> str:
    """Where whoever was told may end a client's request; every gateway listens on `CANCEL_GENERATION`."""
    return f"{GENERATE}.cancel.{request}"


def run(worker: str) -> str:
    return f"{ROOT}.prefill.{worker}.run"


def claim(worker: str) -> str:
    return f"{ROOT}.decode.{worker}.claim"


def cancel(role: Role, worker: str) -> str:
    return f"{ROOT}.{role.value}.{worker}.cancel"


def repeat(role: Role, worker: str) -> str:
    """Where a worker is asked to say again what was lost."""
    return f"{ROOT}.{role.value}.{worker}.repeat"


def beat(role: Role, worker: str) -> str:
    return f"{ROOT}.beat.{role.value}.{worker}"


def tokens(gateway: str) -> str:
    return f"{ROOT}.tokens.{gateway}"


def taken(gateway: str) -> str:
    """Where a gateway hears which scheduler has its question."""
    return f"{ROOT}.taken.{gateway}"


def held(gateway: str) -> str:
    """Where a gateway is asked which of its sessions a worker still holds by right."""
    return f"{ROOT}.held.{gateway}"


def kv(session: str, epoch: int) -> str:
    """Where a decode worker receives one session's chunks and manifest: subscribe to `kv(...) + ".*"`."""
    return f"{ROOT}.kv.{session}.{epoch}"


def kv_chunk(session: str, epoch: int) -> str:
    return f"{kv(session, epoch)}.chunk"


def kv_manifest(session: str, epoch: int) -> str:
    return f"{kv(session, epoch)}.manifest"


def kv_probe(session: str, epoch: int) -> str:
    return f"{kv(session, epoch)}.probe"


def kv_feedback(session: str, epoch: int) -> str:
    """Where a prefill worker receives credit, NACKs and the end of one session's transfer."""
    return f"{ROOT}.kvback.{session}.{epoch}"


def journal(session: str) -> str:
    """Where what is known of one resumable session is kept: `journal_...` are its parts."""
    return f"{JOURNAL}.{session}"


def journal_request(session: str) -> str:
    return f"{journal(session)}.request"


def journal_owner(session: str) -> str:
    return f"{journal(session)}.owner"


def journal_tokens(session: str) -> str:
    return f"{journal(session)}.tokens"
