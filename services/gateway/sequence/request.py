"""A client's parameters as the request for one sequence.

Knows calls and requests, nothing of sockets or subjects. `SequenceRun` calls it.
"""

from __future__ import annotations

from typing import Any

from services.gateway.generation import GenerationRequest
from services.gateway.openai.params import ChatCall, CompletionCall, parse_chat, parse_completion
from services.gateway.requests import RequestBuilder
from shared.errors import InvalidRequest


async def sequence_request(builder: RequestBuilder, params: dict[str, Any], *, request_id: str) -> GenerationRequest:
    """The one request of `params`: a chat if they have `messages`, else a completion.

    Raises InvalidRequest, ContextExceeded and ModelNotFound; InvalidRequest too where they mean several sequences.
    """
    if "messages" in params:
        chat = parse_chat(params)
        _check_one(chat, prompts=1)
        requests = await builder.chat(chat, request_id=request_id)
    else:
        completion = parse_completion(params)
        _check_one(completion, prompts=len(completion.prompts))
        requests = await builder.completion(completion, request_id=request_id)
    return requests[0]


def _check_one(call: ChatCall | CompletionCall, *, prompts: int) -> None:
    if call.n != 1:
        raise InvalidRequest("n must be 1: one generation is one sequence, start several", param="n")
    if prompts != 1:
        raise InvalidRequest("one generation has one prompt, start several", param="prompt")
