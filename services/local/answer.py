"""One answer over the gateway's WebSocket, as it comes."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp
import msgspec

from shared.errors import ErrorInfo, Unavailable, error_from
from shared.protocol.to_client import AnyEvent, Delta, Failed, Finished

_EVENTS: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


async def stream_answer(http_url: str, prompt: str, max_tokens: int, show: Callable[[str], None]) -> Finished:
    """Ask `prompt` as a chat's first message; `show` gets the text piece by piece. Raises BatonError."""
    request = {
        "type": "generate",
        "id": "quickstart",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{http_url}/v1/stream") as socket:
        await socket.send_json(request)
        async for message in socket:
            match _EVENTS.decode(message.data):
                case Delta(text=text):
                    show(text)
                case Failed() as failed:
                    raise error_from(ErrorInfo(code=failed.code, message=failed.message))
                case Finished() as finished:
                    return finished
    raise Unavailable("the gateway closed the connection before the answer was complete")
