"""Run two generations at once on one WebSocket, and cancel one (pip install aiohttp).

usage: python examples/websocket.py [http://127.0.0.1:8080]
"""

import asyncio
import sys

import aiohttp


async def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/v1/stream") as ws:
        # The ids are ours; the parameters are those of the OpenAI API: "messages" make a chat, "prompt" a completion.
        chat = [{"role": "user", "content": "Name three colours."}]
        await ws.send_json({"type": "generate", "id": "colours", "messages": chat, "max_tokens": 32, "temperature": 0})
        await ws.send_json(
            {"type": "generate", "id": "endless", "prompt": "Once", "max_tokens": 500, "ignore_eos": True}
        )

        answers = {"colours": "", "endless": ""}
        running = set(answers)
        while running:
            event = await ws.receive_json()
            name = event.get("id")
            if event["type"] == "delta":
                answers[name] += event["text"]
                if name == "endless":  # after its first words we have enough
                    await ws.send_json({"type": "cancel", "id": name})
            elif event["type"] == "finished":
                print(f"{name} ({event['finish_reason']}): {answers[name]!r}")
                running.discard(name)
            elif event["type"] == "error":
                raise SystemExit(f"{event['code']}: {event['message']}")


asyncio.run(main())
