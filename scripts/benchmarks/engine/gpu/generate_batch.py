"""transformers' own continuous batching on the same shape, for comparison. Ends with one JSON object.

A step's time is the difference of two runs that differ in tokens generated alone, a prompt's of two that differ in its
length alone, so that starting and stopping the manager counts for neither.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
import transformers

from benchmarks.engine.gpu.shapes import SHAPES

CONTEXT = 300
PROMPT = 4096
FEW, MANY = 16, 80


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=list(SHAPES), required=True)
    shape = dict(SHAPES[parser.parse_args().shape])
    config = transformers.AutoConfig.for_model(shape.pop("model_type"), **shape)
    torch.set_default_device("cuda")
    torch.set_default_dtype(torch.bfloat16)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    torch.set_default_device("cpu")
    _seconds(model, 1, CONTEXT, FEW)
    found = {}
    for batch in (1, 32):
        spent = [_seconds(model, batch, CONTEXT, tokens) for tokens in (FEW, MANY)]
        found[f"generate_batch_decode_b{batch}_ms"] = 1000 * (spent[1] - spent[0]) / (MANY - FEW)
    spent = [_seconds(model, 1, tokens, 1) for tokens in (64, PROMPT)]
    found[f"generate_batch_prefill_{PROMPT}_ms"] = 1000 * (spent[1] - spent[0])
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))


def _seconds(model: object, batch: int, prompt: int, tokens: int) -> float:
    inputs = [[(index * 37 + row) % 30000 for index in range(prompt)] for row in range(batch)]
    settings = transformers.GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    torch.cuda.synchronize()
    start = time.perf_counter()
    answers = model.generate_batch(inputs, generation_config=settings)  # type: ignore[attr-defined]
    torch.cuda.synchronize()
    spent = time.perf_counter() - start
    # What fails inside is logged there, and would count as fast.
    if [len(one.generated_tokens) for one in answers.values()] != [tokens] * batch:
        raise SystemExit("generate_batch did not generate what was asked")
    return spent


if __name__ == "__main__":
    main()
