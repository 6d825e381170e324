"""Frames, requests and tokens for tests of the gateway's sessions."""

from __future__ import annotations

from collections.abc import Sequence

from services.gateway.generation import GenerationRequest
from shared.core import SampledToken, SamplingParams
from shared.protocol.to_gateway import TokenFrame
from shared.protocol.to_scheduler import Placed
from shared.protocol.wire import pack_ids


def frame(index: int, ids: Sequence[int] = (), epoch: int = 0, **fields: object) -> TokenFrame:
    return TokenFrame(session="s", epoch=epoch, index=index, ids=pack_ids(ids), **fields)  # type: ignore[arg-type]


def request(prompt_ids: Sequence[int] = (1, 2, 3), max_tokens: int = 16, **fields: object) -> GenerationRequest:
    return GenerationRequest(
        request_id="r",
        prompt_ids=tuple(prompt_ids),
        max_tokens=max_tokens,
        sampling=SamplingParams(temperature=0.0),
        **fields,  # type: ignore[arg-type]
    )


def placed(session: str = "0" * 32, epoch: int = 0) -> Placed:
    return Placed(session=session, epoch=epoch, prefill="p0", decode="d0", queue_ms=1.0)


def ids_of(tokens: Sequence[SampledToken]) -> list[int]:
    return [token.token_id for token in tokens]
