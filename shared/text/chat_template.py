"""Renders chat messages to the prompt text a model was trained on, by the template in its folder.

The same text as the transformers library's `apply_chat_template`. Knows no tokens and no HTTP; the gateway calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from shared.errors import InvalidRequest, UnsupportedModel
from shared.text.template_sandbox import template_environment, time_limit
from shared.text.tokenizer_files import DEFAULT_TEMPLATE, read_tokenizer_files

RENDER_TIMEOUT_S = 5.0
LARGEST_PROMPT_CHARACTERS = 16 << 20
_PARAM = "messages"
# What jinja raises, and what Python raises from inside a template: it may divide, index and call as it likes.
_RENDER_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
# Older and other names of a message's reasoning; templates read the first, some the second.
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """One model's chat template. `name` is the model's, for error messages; `source` None: the model has none."""

    def __init__(self, name: str, source: str | None, special_tokens: Mapping[str, str]) -> None:
        """Raises UnsupportedModel when the template is not valid jinja."""
        self._name = name
        self._special_tokens = dict(special_tokens)
        self._template: jinja2.Template | None = None
        if source is not None:
            try:
                self._template = template_environment().from_string(source)
            except (jinja2.TemplateError, RecursionError, SyntaxError) as error:
                raise UnsupportedModel(f"the chat template of {name} is broken: {error}") from error

    @classmethod
    def load(cls, folder: Path, name: str) -> ChatTemplate:
        """The template of the model in `folder`. Raises UnsupportedModel when its files or the template are broken."""
        files = read_tokenizer_files(folder)
        return cls(name, files.templates.get(DEFAULT_TEMPLATE), files.named)

    def render(self, messages: Sequence[Mapping[str, object]], *, add_generation_prompt: bool = True) -> str:
        """The prompt text of `messages` (plain JSON values), which already has the special tokens spelled out.

        `add_generation_prompt` ends it with the start of the assistant's answer. Raises InvalidRequest when there are
        no messages, the model has no template, or the template refuses them or fails.
        """
        if self._template is None:
            raise InvalidRequest(f"the model {self._name} has no chat template", param=_PARAM)
        if not messages:
            raise InvalidRequest("there must be at least one message", param=_PARAM)
        variables = self._special_tokens | {
            "messages": [_prepared(message) for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            with time_limit(RENDER_TIMEOUT_S):
                return _bounded(self._template, variables)
        except _RENDER_ERRORS as error:
            raise InvalidRequest(f"the chat template refuses these messages: {error}", param=_PARAM) from error


def _bounded(template: jinja2.Template, variables: Mapping[str, object]) -> str:
    pieces: list[str] = []
    characters = 0
    for piece in template.generate(variables):
        pieces.append(piece)
        characters += len(piece)
        if characters > LARGEST_PROMPT_CHARACTERS:
            raise ValueError(f"the prompt is longer than {LARGEST_PROMPT_CHARACTERS} characters")
    return "".join(pieces)


def _prepared(message: Mapping[str, object]) -> dict[str, object]:
    """`message` without empty fields, which many templates would print, and its reasoning under every name."""
    filled = {key: value for key, value in message.items() if value is not None}
    reasoning = next((filled[key] for key in _REASONING_FIELDS if key in filled), None)
    if reasoning is None:
        return filled
    return {"thinking": reasoning, **filled, "reasoning_content": reasoning}
