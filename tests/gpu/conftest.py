"""Tests that need a CUDA device. `scripts/gpu-check` runs them where nothing else of the project is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import save_tiny

from shared.engine.cuda.engine import CudaEngine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose widths are what GPU kernels like."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "head_dim": 32}
    return save_tiny("llama", tmp_path_factory.mktemp("llama"), max_position_embeddings=2048, **sizes)


@pytest.fixture(scope="session")
def eager(folder: Path, dtype: str) -> CudaEngine:
    """Without CUDA graphs."""
    return CudaEngine.load(folder, name="tiny", dtype=dtype, kv_bytes=256 << 20, device="cuda")


@pytest.fixture(scope="session")
def engine(folder: Path, dtype: str) -> CudaEngine:
    """Warm: with CUDA graphs."""
    warm = CudaEngine.load(folder, name="tiny", dtype=dtype, kv_bytes=256 << 20, device="cuda")
    warm.warm_up()
    return warm
