"""A name for how a worker computes: workers of equal names give a sequence the same bits, others may round differently.

Carried in beats, so that a session moves between equals where it can. `torch_engine` calls it once.
"""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from shared.core import KvLayout
from shared.engine.cuda.kernels import PagedKernels
from shared.engine.runner import AnyKernels, Runner

_CPU_INFO = Path("/proc/cpuinfo")
# What the matrix products and the kernels choose their instructions by, the widest first.
_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "bf16", "asimd")


def arithmetic(
    runner: Runner, layout: KvLayout, device: torch.device, kernels: AnyKernels | None, threads: int = 1
) -> str:
    """Such as `bfloat16 llama native-products avx512_bf16 torch-2.13`. `threads` compute its linear layers."""
    dtype = getattr(torch, layout.dtype)
    if isinstance(kernels, PagedKernels):
        by = "paged"
    else:
        by = "native" if kernels is not None and kernels.supports(dtype, layout.head_dim) else "torch"
    if runner.own_products:
        by += "-products"
    elif threads > 1 and device.type == "cpu":
        by += f"-{threads}-threads"
    path = type(runner).__module__.rpartition(".")[2].removesuffix("_runner")
    release = ".".join(torch.__version__.split(".")[:2])
    return " ".join((layout.dtype, path, by, _processor(device), f"torch-{release}"))


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return f"sm_{''.join(map(str, torch.cuda.get_device_capability(device)))}"
    try:
        flags = set(_CPU_INFO.read_text(encoding="ascii", errors="replace").split("\n\n", 1)[0].split())
    except OSError:
        return platform.machine()
    return next((name for name in _INSTRUCTIONS if name in flags), platform.machine())
