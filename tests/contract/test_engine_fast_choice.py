"""Which runner a model gets, and that the fused one needs nothing of transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import load_engine, open_prompt, prefill_in, random_prompts, save_tiny

from shared.engine.runner_kind import RunnerKind
from shared.errors import UnsupportedModel

_SERVE_WITHOUT_TRANSFORMERS = """
import sys
from pathlib import Path
sys.modules["transformers"] = None
from shared.core import SamplingParams
from shared.engine.contract import PrefillSlice, SequenceSpec
from shared.engine.torch_engine import TorchEngine
engine = TorchEngine.load(Path(sys.argv[1]), name="tiny", dtype="bfloat16", kv_bytes=16 << 20)
engine.warm_up()
sampling = SamplingParams(temperature=0.7, seed=1, logprobs=2)
engine.open(SequenceSpec(key="s", prompt_ids=[5, 6, 7], sampling=sampling, capacity_tokens=8))
engine.prefill([PrefillSlice("s", 0, 3)])
engine.step(["s"])
"""


def test_a_known_model_is_served_without_transformers(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", _SERVE_WITHOUT_TRANSFORMERS, str(folder)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("architecture", ["mistral", "gemma2"], ids=["sliding-window", "another-family"])
def test_what_the_fused_runner_does_not_know_goes_the_general_path(architecture: str, tmp_path: Path) -> None:
    folder = save_tiny(architecture, tmp_path)
    with pytest.raises(UnsupportedModel):
        load_engine(folder, runner=RunnerKind.FUSED)
    (prompt,) = random_prompts([40])
    tokens = []
    for runner in (RunnerKind.AUTO, RunnerKind.GENERAL):
        engine = load_engine(folder, runner=runner)
        open_prompt(engine, "s", prompt, 1)
        tokens.append(prefill_in(engine, "s", [0, 40]))
    assert tokens[0] == tokens[1]


def test_an_unknown_option_goes_the_general_path(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"mlp_bias"', '"embedding_multiplier": 3.0, "mlp_bias"'))
    load_engine(folder, runner=RunnerKind.AUTO)
    with pytest.raises(UnsupportedModel, match="embedding_multiplier"):
        load_engine(folder, runner=RunnerKind.FUSED)
