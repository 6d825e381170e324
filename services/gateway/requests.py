"""From a parsed call to `GenerationRequest`s: the checks that need the served model and its tokenizer.

Knows the model's name, vocabulary and context, nothing of HTTP, WebSocket or NATS. Every door calls it, so that the
same call means the same tokens everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from services.gateway.generation import GenerationRequest, ServedModel
from services.gateway.openai.chat_messages import ChatMessage
from services.gateway.openai.params import Call, ChatCall, CompletionCall
from services.gateway.text_encoding import PromptEncoder, TextEncoder
from shared.core import SamplingParams
from shared.errors import ContextExceeded, InvalidRequest, ModelNotFound
from shared.protocol.journal import Rendering

SEED_LIMIT = 2**63


class ChatRenderer(Protocol):
    """A conversation to the text the model was trained on; a `shared.text` chat template is one."""

    def render(self, messages: Sequence[Mapping[str, object]], *, add_generation_prompt: bool) -> str:
        """`add_generation_prompt` opens the assistant's turn. Raises InvalidRequest for what the template refuses."""


class RequestBuilder:
    """Turns calls into one `GenerationRequest` per prompt and choice, prompt by prompt.

    Request `i` is choice `i % n` of prompt `i // n`. Raises ModelNotFound, ContextExceeded and InvalidRequest.
    """

    def __init__(
        self,
        model: ServedModel,
        tokenizer: TextEncoder,
        chat_template: ChatRenderer,
        *,
        deadline_s: float = 600.0,
        sequence_limit: int = 256,
    ) -> None:
        self._model = model
        self._encoder = PromptEncoder(tokenizer, model.context_tokens)
        self._chat_template = chat_template
        self._deadline_s = deadline_s
        self._sequence_limit = sequence_limit

    @property
    def model(self) -> ServedModel:
        return self._model

    def check_model(self, name: str | None) -> None:
        """Raises ModelNotFound unless `name` is the served model. None means whatever is served."""
        if name is not None and name != self._model.name:
            raise ModelNotFound(f"model {name!r} is not served here; {self._model.name!r} is", param="model")

    async def completion(self, call: CompletionCall, *, request_id: str) -> list[GenerationRequest]:
        """The requests of a `/v1/completions` call."""
        self.check_model(call.model)
        if len(call.prompts) * call.n > self._sequence_limit:
            raise InvalidRequest(
                f"{len(call.prompts)} prompts x n={call.n} are more than {self._sequence_limit} sequences", param="n"
            )
        prompts = [await self.prompt_ids(prompt) for prompt in call.prompts]
        return self._requests(call, prompts, "prompt", request_id)

    async def chat(self, call: ChatCall, *, request_id: str) -> list[GenerationRequest]:
        """The requests of a `/v1/chat/completions` call."""
        self.check_model(call.model)
        return self._requests(call, [await self.chat_ids(call.messages)], "messages", request_id)

    async def prompt_ids(self, prompt: str | Sequence[int], *, add_special_tokens: bool = True) -> tuple[int, ...]:
        """Token ids of one prompt, which may be token ids already; never empty, all inside the vocabulary."""
        if isinstance(prompt, str):
            ids = await self._encoder.encode(prompt, add_special_tokens=add_special_tokens, param="prompt")
        else:
            ids = tuple(prompt)
            self.check_ids(ids, param="prompt")
        if not ids:
            raise InvalidRequest("the prompt is empty", param="prompt")
        return ids

    async def chat_ids(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool = True) -> tuple[int, ...]:
        """Token ids of a conversation, up to the opening of the assistant's turn."""
        plain = [{"role": message.role, "content": message.content} for message in messages]
        text = self._chat_template.render(plain, add_generation_prompt=add_generation_prompt)
        return await self._encoder.encode(text, add_special_tokens=False, param="messages")

    def check_ids(self, ids: Collection[int], *, param: str) -> None:
        """Raises InvalidRequest for a token id outside the vocabulary."""
        for token_id in (min(ids), max(ids)) if ids else ():
            if not 0 <= token_id < self._model.vocab_size:
                raise InvalidRequest(
                    f"token id {token_id} is outside the vocabulary of {self._model.vocab_size}", param=param
                )

    def _requests(
        self, call: Call, prompts: Sequence[tuple[int, ...]], param: str, request_id: str
    ) -> list[GenerationRequest]:
        self._check_sampling(call.sampling)
        single = len(prompts) * call.n == 1
        requests: list[GenerationRequest] = []
        for ids in prompts:
            max_tokens = self._max_tokens(call, len(ids), param)
            for choice in range(call.n):
                requests.append(
                    GenerationRequest(
                        request_id=request_id if single else f"{request_id}-{len(requests)}",
                        prompt_ids=ids,
                        max_tokens=max_tokens,
                        sampling=_nth_choice(call.sampling, choice),
                        stop=call.stop,
                        cache_salt=call.cache_salt,
                        deadline_s=self._deadline_s,
                        resumable=call.resumable,
                        rendering=_rendering(call, request_id),
                    )
                )
        return requests

    def _max_tokens(self, call: Call, prompt_tokens: int, param: str) -> int:
        context = self._model.context_tokens
        wanted = 1 if call.max_tokens is None else call.max_tokens
        if prompt_tokens + wanted > context:
            raise ContextExceeded(
                f"the model's context is {context} tokens: the prompt's {prompt_tokens} and"
                f" {wanted} to generate are {prompt_tokens + wanted}",
                param=param,
            )
        max_tokens = context - prompt_tokens if call.max_tokens is None else wanted
        if call.sampling.min_tokens > max_tokens:
            raise InvalidRequest(
                f"min_tokens {call.sampling.min_tokens} is more than the {max_tokens} tokens to generate",
                param="min_tokens",
            )
        return max_tokens

    def _check_sampling(self, sampling: SamplingParams) -> None:
        self.check_ids(sampling.logit_bias, param="logit_bias")
        self.check_ids(sampling.stop_token_ids, param="stop_token_ids")


def _rendering(call: Call, request_id: str) -> Rendering:
    """How an HTTP client gets the answer, if it comes for it: whichever door asked."""
    chat = isinstance(call, ChatCall)
    return Rendering(
        chat=chat,
        response_id=f"{'chatcmpl' if chat else 'cmpl'}-{request_id}",
        created_unix_s=int(time.time()),
        include_usage=call.include_usage,
        usage_in_chunks=call.continuous_usage_stats,
    )


def _nth_choice(sampling: SamplingParams, choice: int) -> SamplingParams:
    """The sampling of the `choice`-th answer to one prompt: its own seed, so that the answers differ."""
    if choice == 0:
        return sampling
    return msgspec.structs.replace(sampling, seed=(sampling.seed + choice) % SEED_LIMIT)
