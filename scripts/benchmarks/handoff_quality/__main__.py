"""`scripts/bench handoff_quality`: int8 against exact with the default model; `--json` ends with one object."""

from __future__ import annotations

import argparse
import json
import statistics

from benchmarks.handoff_quality.compare import Compared, Tap, compare
from benchmarks.handoff_quality.prompts import prompts
from shared.engine.torch_engine import TorchEngine
from shared.models.catalogue import DEFAULT_MODEL
from shared.models.store import resolve
from shared.runtime.settings import cache_folder, process_environment
from shared.text.chat_template import ChatTemplate
from shared.text.tokenizer import Tokenizer

KV_BYTES = 512 << 20


def main() -> None:
    arguments = _arguments()
    cache = cache_folder(process_environment().get("BATON_CACHE_DIR", ""))
    folder = resolve(DEFAULT_MODEL, cache).path
    engine = TorchEngine.load(folder, name=DEFAULT_MODEL, dtype=arguments.dtype, kv_bytes=KV_BYTES, cache=cache)
    tap = engine._runner = Tap(engine._runner)
    tokenizer, template = Tokenizer.load(folder), ChatTemplate.load(folder, DEFAULT_MODEL)
    rows = []
    for prompt in prompts()[: arguments.prompts]:
        text = template.render([{"role": "user", "content": prompt}])
        rows.append(compare(engine, tap, tokenizer.encode(text, add_special_tokens=False), arguments.steps))
    summary = _summary(rows, arguments.steps)
    print(f"{DEFAULT_MODEL}, {arguments.dtype}: int8 against exact hand-off, greedy, up to {arguments.steps} steps")
    for name, value in summary.items():
        print(f"{name:32} {value}")
    if arguments.json:
        print(json.dumps(summary))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench handoff_quality", description="What int8 costs in quality.")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--steps", type=int, default=32, help="tokens after the first one, while both sides agree")
    parser.add_argument("--dtype", default="bfloat16")
    return parser.parse_args()


def _summary(rows: list[Compared], steps: int) -> dict[str, float]:
    firsts = [row.mean_errors[0] for row in rows]
    compared = sum(row.steps for row in rows)
    return {
        "prompts": len(rows),
        "prompt_tokens_min": min(row.prompt_tokens for row in rows),
        "prompt_tokens_max": max(row.prompt_tokens for row in rows),
        "bytes_over_exact": round(sum(row.int8_bytes for row in rows) / sum(row.exact_bytes for row in rows), 4),
        "first_step_top1_agreement": round(statistics.mean(row.agreed > 0 for row in rows), 4),
        "first_step_logit_error_mean": round(statistics.mean(firsts), 4),
        "first_step_logit_error_max": round(max(row.max_errors[0] for row in rows), 4),
        "steps_compared": compared,
        "top1_agreement": round(sum(row.agreed for row in rows) / compared, 4),
        "logit_error_mean": round(statistics.mean(error for row in rows for error in row.mean_errors), 4),
        "logit_error_max": round(max(error for row in rows for error in row.max_errors), 4),
        "logit_spread": round(statistics.mean(spread for row in rows for spread in row.spreads), 4),
        "answers_equal_to_the_end": round(statistics.mean(row.agreed == steps for row in rows), 4),
        "agreed_steps_median": statistics.median(row.agreed for row in rows),
    }


if __name__ == "__main__":
    main()
