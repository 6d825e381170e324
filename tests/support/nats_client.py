"""A client as strangers write it: nats-py and plain msgpack, nothing of Baton."""

from __future__ import annotations

from typing import Any

import msgpack
from nats.aio.client import Client


async def whole_answer(client: Client, **parameters: Any) -> dict[str, Any]:
    """One request, answered as a whole: the body of the `finished` message."""
    request = msgpack.packb({"v": 1, "stream": False, **parameters})
    reply = await client.request("baton.v1.generate", request, timeout=100)
    assert reply.headers is not None
    body: dict[str, Any] = msgpack.unpackb(reply.data)
    assert reply.headers["Baton-Event"] == "finished", body
    return body
