"""The shapes OpenAI clients read: what completions and chat have in common.

Knows field names only. Fields that are null in OpenAI's answers are null here; fields that are absent are UNSET.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from services.gateway.generation import Timings


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Tokens counted. A prompt counts once, however many choices it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | UnsetType = UNSET


class BatonTimings(Timings, frozen=True, kw_only=True, omit_defaults=True):
    """Baton's own addition beside `usage`: the timeline of the first choice, and of each when there are several."""

    choices: tuple[Timings, ...] = ()


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer or one streamed chunk; `choices` are those of the endpoint."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: Sequence[msgspec.Struct]
    usage: Usage | UnsetType | None = UNSET
    baton: BatonTimings | UnsetType = UNSET
