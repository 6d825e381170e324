"""Runs for tests of the prefill phase."""

from __future__ import annotations

import secrets

import msgspec

from services.prefill.run import PrefillRun
from shared.core import SamplingParams
from shared.engine.fake import FAKE_FINGERPRINT
from shared.protocol.to_prefill import RunPrefill
from shared.protocol.wire import pack_ids


def order(prompt_tokens: int = 10, **fields: object) -> RunPrefill:
    """An order of a new session."""
    made = RunPrefill(
        session=secrets.token_hex(16),
        epoch=0,
        gateway="gateway",
        fingerprint=FAKE_FINGERPRINT,
        prompt_ids=pack_ids(range(prompt_tokens)),
        max_tokens=16,
        sampling=SamplingParams(temperature=0.0),
        deadline_ms=1000,
        decode="d0",
        transfer=1,
        credit_bytes=1 << 20,
    )
    return msgspec.structs.replace(made, **fields)


def run(prompt_tokens: int = 10, **fields: object) -> PrefillRun:
    return PrefillRun(order(prompt_tokens, **fields), now_s=100.0)
