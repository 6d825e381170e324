"""`scripts/bench engine --device cuda`: decode steps and prefill on a GPU against bytes and operations.

Times are of the engine's own public calls, from the host, sampling and the way of the tokens included. Floors are what
the issue names (4.3 TB/s, 790 TFLOP/s) and, beside them, what this very device does in a copy and a matrix product.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import torch

from benchmarks.engine.gpu import limits
from benchmarks.engine.gpu.attention import attention_ms
from benchmarks.engine.gpu.shapes import SHAPES, random_engine
from shared.core import SamplingParams
from shared.engine.contract import PrefillSlice, SequenceSpec
from shared.engine.cuda.engine import CudaEngine
from shared.engine.llama_config import LlamaConfig, read_config
from shared.errors import ConfigError

GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)
CONTEXT = 300
STEPS = 60
WARM_UPS = 10
PROMPT = 4096
PREFILLS = 7
BESIDE_S = 110


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    measured_ms: float
    floor_ms: float
    device_floor_ms: float

    def text(self) -> str:
        over, over_device = self.measured_ms / self.floor_ms, self.measured_ms / self.device_floor_ms
        return (
            f"{self.name:16} {self.measured_ms:9.2f} ms {self.floor_ms:9.2f} ms {over:7.2f}x"
            f" {self.device_floor_ms:9.2f} ms {over_device:7.2f}x"
        )


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    config = read_config(SHAPES[options.shape])
    start = time.perf_counter()
    try:
        engine = random_engine(options.shape, options.kv_gib << 30, options.device)
    except ConfigError as error:
        sys.exit(f"scripts/bench engine: {error}")
    ready_s = time.perf_counter() - start
    device = torch.device(options.device)
    copy, matrix = limits.copy_rate(device), limits.matrix_rate(device)
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    print(f"{options.shape} with random weights, made and warm in {ready_s:.1f} s")
    print(f"this device: copy {copy / 1e12:.2f} TB/s, bf16 product {matrix / 1e12:.0f} TFLOP/s")
    print(f"{'':16} {'engine':>12} {'floor':>12} {'over':>8} {'its own':>12} {'over':>8}")
    rows = [_decode(engine, config, batch, copy) for batch in (1, 8, 32)]
    rows.append(_prefill(engine, config, matrix))
    summary = _summary(rows, ready_s, copy, matrix) | attention_ms(config, PROMPT, device)
    if options.profile:
        _profile(engine)
    if options.beside:
        del engine
        torch.cuda.empty_cache()
        summary |= _beside(options.shape)
    if options.json:
        print(json.dumps(summary))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench engine --device cuda", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-3.1-8b")
    parser.add_argument("--kv-gib", type=int, default=8, help="GiB of KV memory")
    parser.add_argument("--beside", action="store_true", help="transformers' own generate_batch as well")
    parser.add_argument("--profile", action="store_true", help="what takes the time of a step and of a prompt")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args(arguments)


def _decode(engine: CudaEngine, config: LlamaConfig, batch: int, copy: float) -> Row:
    keys = [f"{batch}-{index}" for index in range(batch)]
    for key in keys:
        _open(engine, key, CONTEXT, WARM_UPS + STEPS + 1)
        engine.prefill([PrefillSlice(key, 0, CONTEXT)])
    spent = []
    for _ in range(WARM_UPS + STEPS):
        start = time.perf_counter()
        engine.step(keys)
        spent.append(time.perf_counter() - start)
    for key in keys:
        engine.close(key)
    size = limits.decode_bytes(config, batch, CONTEXT + WARM_UPS + STEPS // 2)
    return _row(f"decode_b{batch}", spent[WARM_UPS:], size / limits.BYTES_PER_S, size / copy)


def _prefill(engine: CudaEngine, config: LlamaConfig, matrix: float) -> Row:
    spent = []
    for _ in range(PREFILLS):
        _open(engine, "prompt", PROMPT, 1)
        start = time.perf_counter()
        engine.prefill([PrefillSlice("prompt", 0, PROMPT)])
        spent.append(time.perf_counter() - start)
        engine.close("prompt")
    work = limits.prefill_flops(config, PROMPT)
    return _row(f"prefill_{PROMPT}", spent[2:], work / limits.FLOPS_PER_S, work / matrix)


def _row(name: str, spent_s: list[float], floor_s: float, device_floor_s: float) -> Row:
    row = Row(name, 1000 * statistics.median(spent_s), 1000 * floor_s, 1000 * device_floor_s)
    print(row.text(), flush=True)
    return row


def _open(engine: CudaEngine, key: str, tokens: int, more: int) -> None:
    prompt = [(index * 37) % engine.spec.vocab_size for index in range(tokens)]
    engine.open(SequenceSpec(key=key, prompt_ids=prompt, sampling=GREEDY, capacity_tokens=tokens + more))


def _profile(engine: CudaEngine) -> None:
    """Where the time goes, kernel by kernel, of four steps at batch 1 and of one prompt."""
    _open(engine, "profiled", PROMPT, 8)
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    for name in ("prompt", "steps"):
        with torch.profiler.profile(activities=activities) as profile:
            if name == "prompt":
                engine.prefill([PrefillSlice("profiled", 0, PROMPT)])
            else:
                for _ in range(4):
                    engine.step(["profiled"])
        print(
            name, profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=12, max_name_column_width=48)
        )
    engine.close("profiled")


def _summary(rows: list[Row], ready_s: float, copy: float, matrix: float) -> dict[str, float]:
    summary = {"ready_s": ready_s, "copy_tb_s": copy / 1e12, "matrix_tflop_s": matrix / 1e12}
    for row in rows:
        summary[f"{row.name}_ms"] = row.measured_ms
        summary[f"{row.name}_over_floor"] = row.measured_ms / row.floor_ms
        summary[f"{row.name}_over_device_floor"] = row.measured_ms / row.device_floor_ms
    summary["prefill_matrix_rate"] = 1 / summary[f"prefill_{PROMPT}_over_floor"]
    return {name: round(value, 4) for name, value in summary.items()}


def _beside(shape: str) -> dict[str, float]:
    """transformers' generate_batch, in a process of its own: it may not be there, or not return."""
    command = [sys.executable, "-m", "benchmarks.engine.gpu.generate_batch", "--shape", shape]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=BESIDE_S)
    except subprocess.CalledProcessError as error:
        print(f"generate_batch failed: {' | '.join(error.stderr.splitlines()[-3:])}")
        return {}
    except subprocess.TimeoutExpired:
        print(f"generate_batch was not done after {BESIDE_S} s")
        return {}
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    for name, value in found.items():
        print(f"transformers generate_batch: {name} {value:.2f}")
    return found


if __name__ == "__main__":
    main()
