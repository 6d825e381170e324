"""A chat request's messages as plain roles and texts; everything else in them is refused by name.

Knows no template and no tokens. `params.py` calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from services.gateway.openai.param_bodies import MessageBody
from services.gateway.openai.param_check import shown
from shared.errors import InvalidRequest

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TOOL_ROLES = ("tool", "function")
_EMPTY_FIELDS = ("name", "tool_calls", "tool_call_id", "function_call", "refusal", "audio")


class ChatMessage(msgspec.Struct, frozen=True):
    """One turn. `role` is system, user or assistant: open models know no developer, its messages are the system's."""

    role: str
    content: str


def read_messages(messages: Sequence[MessageBody]) -> tuple[ChatMessage, ...]:
    """Raises InvalidRequest, which names the place, for no messages, other roles and other content than text."""
    if not messages:
        raise InvalidRequest("messages must hold at least one message", param="messages")
    return tuple(_read_message(message, f"messages[{index}]") for index, message in enumerate(messages))


def _read_message(message: MessageBody, where: str) -> ChatMessage:
    role = _ROLES.get(message.role)
    if role is None:
        reason = "tools are not supported" if message.role in _TOOL_ROLES else f"it must be one of {', '.join(_ROLES)}"
        raise InvalidRequest(f"{where}.role {shown(message.role)!r} is refused: {reason}", param=f"{where}.role")
    for field in _EMPTY_FIELDS:
        if getattr(message, field) not in (None, []):
            raise InvalidRequest(f"{where}.{field} is not supported; leave it out", param=f"{where}.{field}")
    return ChatMessage(role, _read_content(message.content, f"{where}.content"))


def _read_content(content: str | list[dict[str, Any]] | None, where: str) -> str:
    """Text parts are joined by line breaks, as vLLM does for templates that take a string."""
    if content is None:
        raise InvalidRequest(f"{where} is required: a string or a list of text parts", param=where)
    if isinstance(content, str):
        return content
    return "\n".join(_read_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _read_part(part: dict[str, Any], where: str) -> str:
    kind = part.get("type")
    if kind != "text":
        given = f", not {shown(kind)!r}" if isinstance(kind, str) else ""
        raise InvalidRequest(f"{where}.type must be 'text'{given}", param=f"{where}.type")
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidRequest(f"{where}.text must be a string", param=f"{where}.text")
    for field in part:
        if field not in ("type", "text"):
            raise InvalidRequest(
                f"{where}.{shown(field)} is not supported; leave it out", param=f"{where}.{shown(field)}"
            )
    return text
