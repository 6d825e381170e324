"""Use the official openai SDK, unchanged (pip install openai).

usage: python examples/openai_sdk.py [http://127.0.0.1:8080]
"""

import sys

from openai import OpenAI

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
with OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
    model = client.models.list().data[0].id

    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Name three colours."}],
        max_completion_tokens=32,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        for choice in chunk.choices:  # the last chunk has the usage and no choices
            print(choice.delta.content or "", end="", flush=True)
        if chunk.usage:
            print(f"\n[{chunk.usage.completion_tokens} tokens]")

    completion = client.completions.create(model=model, prompt="The capital of France is", max_tokens=8, temperature=0)
    print(completion.choices[0].text)
