"""`scripts/bench engine`: prefill and decode of the default model over their floor, on one thread pinned to one core.

`--threads` takes more of both, for the engine and its floor.

Floor and engine take turns, so that whatever else the machine does hits both; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.engine.cases import Decode, Prefill
from benchmarks.engine.floor import Floor
from shared.engine.runner_kind import RunnerKind
from shared.engine.torch_engine import TorchEngine
from shared.models.catalogue import DEFAULT_MODEL
from shared.models.store import resolve
from shared.runtime.huge_pages import begin_anew_with_huge_pages
from shared.runtime.settings import cache_folder, process_environment

CONTEXT_TOKENS = 300
DECODE_ROUNDS = 24
PREFILL_ROUNDS = 5
WARM_UP_ROUNDS = 2
KV_BYTES = 512 << 20
SLICE_TOKENS = 256
BATCHES = (1, 8, 32)
PROMPTS = (256, 1024, 2048)


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians of one case. `ratio` is of the medians."""

    name: str
    floor_ms: float
    engine_ms: float

    @property
    def ratio(self) -> float:
        return self.engine_ms / self.floor_ms


def main() -> None:
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("--device", default="cpu")
    if device.parse_known_args()[0].device != "cpu":
        from benchmarks.engine.gpu.__main__ import main as on_a_gpu  # noqa: PLC0415 - another benchmark altogether

        on_a_gpu()
        return
    arguments = _arguments()
    begin_anew_with_huge_pages(process_environment())
    os.sched_setaffinity(0, _cores(arguments))
    cache = cache_folder(process_environment().get("BATON_CACHE_DIR", ""))
    folder = resolve(DEFAULT_MODEL, cache).path
    engine, load_s = _load(folder, cache, arguments)
    torch.set_num_threads(arguments.threads)
    floor = Floor(folder)
    torch.set_num_threads(1)
    clock = time.thread_time if arguments.cpu_time else time.perf_counter
    print(f"{engine.spec.name} in bf16, {_threads(arguments)}; loaded and warm in {load_s:.1f} s")
    print(f"{'':24} {'floor':>9} {'engine':>9} {'over floor':>11}")
    rows = []
    for case in _cases():
        rows.append(measure(case, engine, floor, clock))
        print(f"{rows[-1].name:24} {rows[-1].floor_ms:>6.1f} ms {rows[-1].engine_ms:>6.1f} ms {rows[-1].ratio:>10.2f}x")
    if arguments.json:
        print(json.dumps(_summary(rows, load_s)))


def measure(case: Prefill | Decode, engine: TorchEngine, floor: Floor, clock: Callable[[], float]) -> Measured:
    """Time `case` and its floor in turn."""
    rounds = DECODE_ROUNDS if isinstance(case, Decode) else PREFILL_ROUNDS
    warm_up = WARM_UP_ROUNDS if isinstance(case, Decode) else 1
    floors, engines = [], []
    case.prepare(engine)
    for _ in range(warm_up + rounds):
        floors.append(floor.seconds(*case.floor_rows, clock))
        engines.append(case.seconds(engine, clock))
    case.finish(engine)
    return Measured(case.name, 1000 * statistics.median(floors[warm_up:]), 1000 * statistics.median(engines[warm_up:]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench engine", description="The engine over its floor.")
    parser.add_argument("--device", choices=["cpu"], default="cpu", help="cuda is another benchmark: see its --help")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--core", type=int, help="the core to run on (default: the last one allowed)")
    parser.add_argument("--threads", type=int, default=1, help="threads and cores (default: 1)")
    parser.add_argument("--cpu-time", action="store_true", help="count one thread's CPU time, where others run as well")
    parser.add_argument("--runner", type=RunnerKind, choices=list(RunnerKind), default=RunnerKind.AUTO)
    parser.add_argument("--no-native", action="store_true", help="without native kernels")
    arguments = parser.parse_args()
    if not 1 <= arguments.threads <= len(os.sched_getaffinity(0)):
        parser.error("--threads: not that many cores")
    if arguments.threads > 1 and (arguments.core is not None or arguments.cpu_time):
        parser.error("--core and --cpu-time are for one thread")
    return arguments


def _cores(arguments: argparse.Namespace) -> set[int]:
    allowed = sorted(os.sched_getaffinity(0))
    return set(allowed[-arguments.threads :]) if arguments.core is None else {arguments.core}


def _threads(arguments: argparse.Namespace) -> str:
    return "one thread" if arguments.threads == 1 else f"{arguments.threads} threads"


def _load(folder: Path, cache: Path, arguments: argparse.Namespace) -> tuple[TorchEngine, float]:
    start = time.perf_counter()
    engine = TorchEngine.load(
        folder,
        name=DEFAULT_MODEL,
        dtype="bfloat16",
        kv_bytes=KV_BYTES,
        runner=arguments.runner,
        native_kernels=not arguments.no_native,
        threads=arguments.threads,
        cache=cache,
    )
    engine.warm_up()
    return engine, time.perf_counter() - start


def _cases() -> list[Prefill | Decode]:
    whole = [Prefill(tokens, slice_tokens=tokens) for tokens in PROMPTS]
    sliced = Prefill(1024, slice_tokens=SLICE_TOKENS)
    steps = DECODE_ROUNDS + WARM_UP_ROUNDS
    return [*whole, sliced, *(Decode(batch, CONTEXT_TOKENS, steps) for batch in BATCHES)]


def _summary(rows: list[Measured], load_s: float) -> dict[str, float]:
    summary = {"load_s": round(load_s, 2)}
    for row in rows:
        summary[f"{row.name}_over_floor"] = round(row.ratio, 3)
        summary[f"{row.name}_ms"] = round(row.engine_ms, 2)
        summary[f"{row.name}_floor_ms"] = round(row.floor_ms, 2)
    return summary


if __name__ == "__main__":
    main()
