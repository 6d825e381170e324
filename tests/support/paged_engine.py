"""The CUDA engine without CUDA: all of its host code on a CPU, with its kernels in plain torch calls, or in the
interpreter. For tests of everything but the GPU itself."""

from __future__ import annotations

import torch

from shared.core import KvLayout
from shared.engine.cuda.engine import CudaEngine
from shared.engine.cuda.kernels import PagedKernels
from shared.engine.cuda.torch_kernels import TorchKernels
from shared.engine.kv_memory import TORCH_DTYPES


class PagedEngine(CudaEngine):
    """See `CudaEngine`."""

    @staticmethod
    def _place(_device: str) -> torch.device:
        return torch.device("cpu")

    @staticmethod
    def _kernels(_layout: KvLayout, _native: object) -> PagedKernels:
        return TorchKernels()


class InterpretedEngine(PagedEngine):
    """With Triton's kernels, where they run in its interpreter."""

    @staticmethod
    def _kernels(layout: KvLayout, _native: object) -> PagedKernels:
        from shared.engine.cuda.triton_kernels import TritonKernels

        return TritonKernels(TORCH_DTYPES[layout.dtype], layout.head_dim)
