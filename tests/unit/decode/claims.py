"""Claims and sessions for tests of the decode phase."""

from __future__ import annotations

import secrets

import msgspec

from services.decode.desk import ClaimDesk
from services.decode.session import DecodeSession
from shared.core import SamplingParams
from shared.engine.fake import FAKE_FINGERPRINT, FakeEngine, fake_spec
from shared.protocol.to_decode import Claim
from shared.protocol.to_gateway import HandoffReport
from shared.protocol.wire import pack_ids

SPEC = fake_spec(vocab_size=256)
REPORT = HandoffReport(worker="d0", visible_ms=1.0, payload_bytes=640, chunks=1)


def engine(kv_tokens: int = 1000) -> FakeEngine:
    return FakeEngine(SPEC, kv_tokens * SPEC.layout.token_bytes)


def desk(it: FakeEngine, batch_limit: int = 64, clock_s: float = 100.0) -> ClaimDesk:
    return ClaimDesk(it, "d0", batch_limit=batch_limit, window_bytes=1 << 20, clock=lambda: clock_s)


def claim(prompt_tokens: int = 10, **fields: object) -> Claim:
    """A claim of a new session."""
    made = Claim(
        session=secrets.token_hex(16),
        epoch=0,
        gateway="gateway",
        fingerprint=FAKE_FINGERPRINT,
        prompt_ids=pack_ids(range(prompt_tokens)),
        max_tokens=16,
        sampling=SamplingParams(temperature=0.0),
        deadline_ms=1000,
    )
    return msgspec.structs.replace(made, **fields)


def granted(**fields: object) -> DecodeSession:
    """A session as the desk makes it, on an engine of its own."""
    return desk(engine()).grant(claim(**fields))
