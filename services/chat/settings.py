"""Settings of `baton chat`."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Meta

from shared.errors import ConfigError

STREAM_PATH = "/v1/stream"
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


class ChatSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to talk to, and how it shall answer."""

    url: Annotated[str, Meta(description="address of a gateway")] = "http://127.0.0.1:8080"
    model: Annotated[str, Meta(description="model to ask for; the served one if empty")] = ""
    system: Annotated[str, Meta(description="system message")] = ""
    max_tokens: Annotated[int, Meta(ge=1, description="the most tokens of one answer")] = 512
    temperature: Annotated[float, Meta(ge=0, le=2, description="0 is greedy")] = 0.7


def stream_url(url: str) -> str:
    """The WebSocket address of the gateway at `url`. Raises ConfigError."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise ConfigError(f"{url!r} is not the address of a gateway, which looks like http://host:8080", param="url")
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, parts.path.rstrip("/") + STREAM_PATH, "", ""))
