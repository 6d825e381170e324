"""Break off an answer in the middle, and get the rest, from any gateway (pip install aiohttp).

usage: python examples/resume.py [http://127.0.0.1:8080 [http://another-gateway:8080]]
"""

import asyncio
import json
import sys

import aiohttp

QUESTION = [{"role": "user", "content": "Count from one to twenty."}]
BODY = {"messages": QUESTION, "max_tokens": 48, "temperature": 0, "stream": True, "resumable": True}


async def events(answer):
    """The chunks of a stream of server-sent events, each with its id: how many tokens have come with it."""
    last_id = ""
    async for line in answer.content:
        text = line.decode().strip()
        if text.startswith("id: "):
            last_id = text.removeprefix("id: ")
        elif text.startswith("data: ") and text != "data: [DONE]":
            yield last_id, json.loads(text.removeprefix("data: "))["choices"][0]["delta"]["content"]


async def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
    other = sys.argv[2] if len(sys.argv) > 2 else url
    async with aiohttp.ClientSession(raise_for_status=True) as http:
        async with http.post(f"{url}/v1/chat/completions", json=BODY) as answer:
            session = answer.headers["Baton-Session"]  # whoever has it can read the answer
            async for last_id, text in events(answer):
                print(text, end="", flush=True)
                if int(last_id) >= 8:
                    break  # the connection breaks
        print("[broken off]", end="")

        # A browser's EventSource on this address sends the header by itself when it connects again.
        headers = {"Last-Event-ID": last_id}
        async with http.get(f"{other}/v1/sessions/{session}/stream", headers=headers) as answer:
            async for _, text in events(answer):
                print(text, end="", flush=True)
        print()


asyncio.run(main())
