"""What the CUDA engine refuses, and what it leaves behind when it does."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import open_prompt, prefill_in, random_prompts

from shared.engine.cuda.engine import CudaEngine
from shared.errors import ConfigError


def test_a_step_beyond_the_capacity(engine: CudaEngine) -> None:
    (prompt,) = random_prompts([63])
    open_prompt(engine, "s", prompt, 1)
    prefill_in(engine, "s", [0, 63])
    engine.step(["s"])
    with pytest.raises(ValueError, match="capacity"):
        engine.step(["s"])
    engine.close("s")
    assert engine.usage().free_bytes == engine.usage().total_bytes


def test_a_gpu_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cuda:99"):
        CudaEngine.load(folder, name="tiny", dtype="bfloat16", kv_bytes=1 << 20, device="cuda:99")
