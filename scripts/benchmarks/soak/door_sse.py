"""A client of `/v1/completions` that streams. Log-probabilities are asked for: they name each token's text."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp

from benchmarks.soak.ends import RETRY_AFTER_S, Failed, Lost, Refused, Unanswered, ended_by
from benchmarks.soak.record import Record
from benchmarks.soak.request import LoadRequest

DONE = "[DONE]"
PREFIX = b"data: "
SESSION = "Baton-Session"
OK, ENDED = 200, 204


class SseDoor:
    """Use `ask`, any number at once."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def ask(self, url: str, request: LoadRequest, record: Record) -> None:
        """Return when the stream has ended well or the client has left it. Raises Refused, Lost, Failed."""
        answered = False
        try:
            async with self._open(url, request, record) as answer:
                if answer.status == ENDED:
                    record.finish()
                    return
                if answer.status != OK:
                    raise await _refusal(answer)
                answered = True
                record.session = answer.headers.get(SESSION, record.session)
                await self._read(answer.content, request, record)
        except aiohttp.ClientConnectorError as error:
            raise Refused(f"no gateway: {error}", RETRY_AFTER_S) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise (Lost if answered else Unanswered)(f"{type(error).__name__}: {error}") from error

    def _open(
        self, url: str, request: LoadRequest, record: Record
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if record.resumes:
            return self._http.get(f"{url}/v1/sessions/{record.session}/stream?after={len(record.tokens)}")
        body = {**request.question.body, "stream": True, "logprobs": 0, "resumable": request.resumable}
        return self._http.post(f"{url}/v1/completions", json=body)

    async def _read(self, content: aiohttp.StreamReader, request: LoadRequest, record: Record) -> None:
        async for line in content:
            if not line.startswith(PREFIX):
                continue
            data = line[len(PREFIX) :].strip().decode()
            if data == DONE:
                record.finish()
                return
            _take(json.loads(data), request, record)
            record.hop()
            if record.wants_to_leave:
                return
            if request.pause_s:
                await asyncio.sleep(request.pause_s)
        raise Lost("the stream ended without an end")


def _take(event: dict[str, Any], request: LoadRequest, record: Record) -> None:
    if "error" in event:
        error = event["error"]
        # An event says no moment to try again; it tells the client of a resumable session to ask for the rest.
        raise ended_by(error["code"], error["message"], 1000, begun=not request.resumable)
    record.session = record.session or event["id"]
    for choice in event["choices"]:
        record.take(choice["logprobs"]["tokens"])


async def _refusal(answer: aiohttp.ClientResponse) -> Refused | Failed:
    error = (await answer.json())["error"]
    after = answer.headers.get("Retry-After")
    return ended_by(error["code"], error["message"], None if after is None else int(after) * 1000, begun=False)
