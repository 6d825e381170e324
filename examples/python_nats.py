"""Ask Baton over NATS with nothing but nats-py and msgpack (pip install nats-py msgpack).

usage: python examples/python_nats.py [nats://127.0.0.1:4222]
"""

import asyncio
import sys

import msgpack
import nats

SUBJECT = "baton.v1.generate"


def request(**params) -> bytes:
    """A request is a map with the protocol version and the parameters of the OpenAI API."""
    return msgpack.packb({"v": 1, **params})


async def stream(nc: nats.NATS, **params) -> None:
    """Print the answer as it comes: one message per event, on an inbox of our own."""
    inbox = await nc.subscribe(nc.new_inbox())
    await nc.publish(SUBJECT, request(**params), reply=inbox.subject)
    while True:
        # While there is nothing to say the gateway sends "waiting" events, so that five silent seconds mean it is gone.
        message = await inbox.next_msg(timeout=5)
        event = (message.headers or {}).get("Baton-Event")
        if event is None:
            raise SystemExit("no gateway is connected to this NATS server")
        body = msgpack.unpackb(message.data)
        if event == "delta":
            print(body["text"], end="", flush=True)
        elif event == "finished":
            print(f"\n[{body['finish_reason']}, {body['usage']['completion_tokens']} tokens]")
            break
        elif event == "error":
            raise SystemExit(f"{message.headers['Baton-Error']}: {body['message']}")
    await inbox.unsubscribe()  # to unsubscribe or disconnect earlier would have cancelled the generation


async def ask(nc: nats.NATS, **params) -> str:
    """The whole answer as one message: an ordinary NATS request."""
    message = await nc.request(SUBJECT, request(stream=False, **params), timeout=60)
    body = msgpack.unpackb(message.data)
    if "Baton-Error" in message.headers:
        raise SystemExit(f"{message.headers['Baton-Error']}: {body['message']}")
    return body["text"]


async def main() -> None:
    nc = await nats.connect(sys.argv[1] if len(sys.argv) > 1 else "nats://127.0.0.1:4222")
    messages = [{"role": "user", "content": "Name three colours."}]
    await stream(nc, messages=messages, max_tokens=32, temperature=0)
    print(await ask(nc, prompt="The capital of France is", max_tokens=8, temperature=0))
    await nc.close()


asyncio.run(main())
