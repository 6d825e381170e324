"""Claims and runs as a scheduler would send them."""

from __future__ import annotations

import secrets

import msgspec

from shared.core import SamplingParams
from shared.engine.fake import FAKE_FINGERPRINT
from shared.protocol.to_decode import Claim, ClaimGranted
from shared.protocol.to_prefill import RunPrefill
from shared.protocol.wire import pack_ids

from .fleet import GATEWAY
from .prompts import prompt


def claim(prompt_tokens: int = 100, max_tokens: int = 16, **fields: object) -> Claim:
    """A claim of a new session; `fields` replace what it says."""
    made = Claim(
        session=secrets.token_hex(16),
        epoch=0,
        gateway=GATEWAY,
        fingerprint=FAKE_FINGERPRINT,
        prompt_ids=pack_ids(prompt(prompt_tokens)),
        max_tokens=max_tokens,
        sampling=SamplingParams(temperature=0.0),
        deadline_ms=30_000,
    )
    return msgspec.structs.replace(made, **fields)


def run_for(claim: Claim, grant: ClaimGranted, **fields: object) -> RunPrefill:
    """The run that fulfils a granted claim."""
    made = RunPrefill(
        session=claim.session,
        epoch=claim.epoch,
        gateway=claim.gateway,
        fingerprint=claim.fingerprint,
        prompt_ids=claim.prompt_ids,
        max_tokens=claim.max_tokens,
        sampling=claim.sampling,
        deadline_ms=claim.deadline_ms,
        decode=grant.worker,
        transfer=grant.transfer,
        credit_bytes=grant.credit_bytes,
    )
    return msgspec.structs.replace(made, **fields)
