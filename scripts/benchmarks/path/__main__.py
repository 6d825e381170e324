"""`scripts/bench path`: measures, prints a table, and with `--json` one object as the last line."""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection

import aiohttp

from benchmarks.path.alone import Work, prompt, serve
from benchmarks.path.measured import Measured, median
from benchmarks.path.services import ask, running
from shared.runtime.huge_pages import begin_anew_with_huge_pages
from shared.runtime.settings import process_environment

VOCAB_SIZE = 49152
WARM_UP_ROUNDS = 2


def main() -> None:
    arguments = _arguments()
    # The engine alone shall have what workers have.
    begin_anew_with_huge_pages(process_environment())
    here, there = multiprocessing.get_context("spawn").Pipe()
    core = max(os.sched_getaffinity(0))
    engine = multiprocessing.get_context("spawn").Process(target=serve, args=(there, core), daemon=True)
    engine.start()
    here.recv()
    with tempfile.TemporaryDirectory() as log_dir, running(log_dir) as url:
        alone, through, stages = asyncio.run(_rounds(here, url, arguments))
    here.send(None)
    engine.join()
    _print(arguments, median(alone), median(through), stages)


async def _rounds(
    engine: Connection, url: str, arguments: argparse.Namespace
) -> tuple[list[Measured], list[Measured], list[Mapping[str, float]]]:
    """The engine and the services in turn, each with a prompt of its own."""
    alone, through, stages = [], [], []
    async with aiohttp.ClientSession() as client:
        for round_number in range(WARM_UP_ROUNDS + arguments.rounds):
            work = Work(tuple(prompt(arguments.prompt_tokens, VOCAB_SIZE, round_number)), arguments.max_tokens)
            engine.send(work)
            alone.append(await asyncio.to_thread(engine.recv))
            measured, reported = await ask(client, url, work, f"round {round_number}")
            through.append(measured)
            stages.append(reported)
    return alone[WARM_UP_ROUNDS:], through[WARM_UP_ROUNDS:], stages[WARM_UP_ROUNDS:]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench path", description="All services against the engine alone.")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--rounds", type=int, default=15, help="requests of each (default: 15)")
    parser.add_argument("--prompt-tokens", type=int, default=256, help="of each prompt (default: 256)")
    parser.add_argument("--max-tokens", type=int, default=64, help="of each answer (default: 64)")
    return parser.parse_args()


def _print(
    arguments: argparse.Namespace, alone: Measured, through: Measured, stages: Sequence[Mapping[str, float]]
) -> None:
    print(f"one client, {arguments.prompt_tokens} tokens in, {arguments.max_tokens} out; medians of {arguments.rounds}")
    print(f"{'':>24} {'TTFT':>9} {'ITL':>9}")
    for name, one in (("engine alone", alone), ("through all services", through)):
        print(f"{name:>24} {one.ttft_ms:>6.1f} ms {one.itl_ms:>6.2f} ms")
    ttft, itl = through.ttft_ms / alone.ttft_ms, through.itl_ms / alone.itl_ms
    print(f"{'ratio':>24} {ttft:>8.3f}x {itl:>8.3f}x")
    print("stages, ms: " + ", ".join(f"{name} {value:.1f}" for name, value in _medians(stages).items()))
    if arguments.json:
        print(json.dumps({"ttft_over_engine": round(ttft, 3), "itl_over_engine": round(itl, 3)}))


def _medians(stages: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = [name for name, value in stages[0].items() if name.endswith("_ms") and isinstance(value, float)]
    return {name[:-3]: statistics.median(one[name] for one in stages if name in one) for name in names}


if __name__ == "__main__":
    main()
