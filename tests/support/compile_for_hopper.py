"""Compiles every kernel exactly as the product launches it, for a Hopper GPU that need not be there.

Prints one JSON object: `anew`, how many were compiled again for batches of other sizes; and by kernel and shape, the
bytes of shared memory it takes, and the registers and spilled bytes that ptxas tells.

A process of its own, since Triton compiles only where its interpreter was never switched on.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)
os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp(prefix="baton-triton-")

import torch
import triton
from paged_cases import Shape, arena, scattered, slices, steps
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime.jit import JITFunction

from shared.engine.attention import AttentionKind
from shared.engine.cuda.jit import decode, prefill, rows, store
from shared.engine.cuda.kernels import Rope
from shared.engine.cuda.triton_kernels import TritonKernels

HOPPER = GPUTarget("cuda", 90, 32)
CPU = torch.device("cpu")
SHAPES = {
    "llama3-8b": Shape(32, 8, 128, torch.bfloat16),
    "smollm2": Shape(9, 3, 64, torch.bfloat16),
    "phi3": Shape(32, 32, 96, torch.bfloat16),
    "gemma2": Shape(8, 4, 256, torch.bfloat16),
    "llama3-8b-f32": Shape(32, 8, 128, torch.float32),
}


class NoGpu:
    """What Triton's compiler asks of a driver."""

    def get_current_target(self) -> GPUTarget:
        return HOPPER

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


def compiled_calls(report: dict[str, Any], name: str) -> None:
    """From now on, launching a kernel compiles it and writes what came of it to `report`."""

    def launcher(kernel: Any, grid: tuple[int, ...]) -> Any:
        def compile_only(*arguments: Any, **parameters: Any) -> None:
            result = kernel.warmup(*arguments, grid=grid, **parameters)
            variant = "+".join(name for name in ("SOFTCAP", "WINDOW", "NORM") if parameters.get(name))
            called = " ".join(filter(None, (name, kernel.fn.__name__, variant)))
            report[called] = {"shared": result.metadata.shared} | ptxas(result) | units(result)

        return compile_only

    JITFunction.__getitem__ = launcher


def ptxas(kernel: Any) -> dict[str, int]:
    """Registers and spilled bytes, from ptxas's own report."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(kernel.asm["ptx"])
        command = [get_ptxas(HOPPER.arch).path, "-v", "--gpu-name=sm_90a", str(source), "-o", f"{folder}/kernel.o"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, spilled = re.search(r"Used (\d+) registers", told), re.search(r"(\d+) bytes spill stores", told)
    assert registers is not None
    return {"registers": int(registers[1]), "spilled": int(spilled[1]) if spilled else 0}


def units(kernel: Any) -> dict[str, bool]:
    """Whether it multiplies in the matrix units of Hopper, and loads ahead of what it computes."""
    return {"wgmma": "wgmma.mma_async" in kernel.asm["ptx"], "ahead": "cp.async.commit_group" in kernel.asm["ptx"]}


def variants() -> int:
    """How many kernels have been compiled."""
    kernels = [one for module in (decode, prefill, rows, store) for one in vars(module).values()]
    return sum(len(one.device_caches[0][0]) for one in kernels if isinstance(one, JITFunction))


def calls_of(shape: Shape, tokens: int = 100) -> None:
    """Every kernel, on a small batch of `shape`."""
    generator = torch.Generator().manual_seed(1)
    spaces, blocks = scattered([tokens, 70], generator)
    memory = arena(shape, blocks, CPU)
    kernels = TritonKernels(shape.dtype, shape.head_dim)
    pages = slices([(spaces[0], 0, tokens), (spaces[1], 60, 70)], 2, kernels.tile_tokens, CPU)
    width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    count = tokens + 12
    qkv = torch.zeros((count, width), dtype=shape.dtype)
    angles = torch.zeros((128, shape.head_dim // 2), dtype=shape.dtype)
    norm = torch.zeros(shape.head_dim, dtype=shape.dtype)
    kernels.rope_store(memory[1], qkv, pages, Rope(angles, angles, norm, norm, 1e-5))
    kernels.rope_store(memory[1], qkv, pages, Rope(angles, angles))
    key = torch.zeros((shape.kv_heads, count, shape.head_dim), dtype=shape.dtype)
    kernels.store(memory[1], key, key, pages)
    query = qkv.view(count, -1, shape.head_dim)[:, : shape.heads]
    for kind in (AttentionKind(0.1, softcap=50.0), AttentionKind(0.1, window=4096), AttentionKind(0.1)):
        kernels.attend(memory[1], query, pages, kind)
        kernels.attend(memory[1], query[:2], steps(spaces, [tokens, 70], 0, CPU), kind)
    hidden = torch.zeros((count, 4096), dtype=shape.dtype)
    kernels.add_rms_norm(hidden, hidden, hidden[0], 1e-5)
    kernels.silu_mul(torch.zeros((count, 2 * 14336), dtype=shape.dtype))


def main() -> None:
    triton.runtime.driver.set_active(NoGpu())
    report: dict[str, Any] = {}
    for name, shape in SHAPES.items():
        compiled_calls(report, name)
        calls_of(shape)
    report["anew"] = -variants()
    for tokens in (1, 64, 1000, 1024):
        calls_of(shape, tokens)
    report["anew"] += variants()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
