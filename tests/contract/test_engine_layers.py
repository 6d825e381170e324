"""What an engine tells of layers while it computes: they are in the cache by then, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import ARCHITECTURES, GREEDY, load_engine, random_prompts, save_tiny

from shared.core import KvRegion
from shared.engine.contract import Engine, PrefillSlice, SequenceSpec
from shared.engine.fake import FakeEngine, fake_spec
from shared.engine.runner_kind import RunnerKind

PROMPTS = dict(zip("abc", random_prompts([40, 23, 1]), strict=True))
CALLS = (
    [PrefillSlice("a", 0, 17), PrefillSlice("b", 0, 5)],
    [PrefillSlice("a", 17, 40), PrefillSlice("b", 5, 23), PrefillSlice("c", 0, 1)],
)


def check_layers(engine: Engine) -> None:
    """A call of slices that end no prompt, and one of slices that do."""
    layers = engine.spec.layout.layers
    told: list[int] = []
    seen: list[tuple[str, KvRegion, bytes]] = []
    for key, prompt in PROMPTS.items():
        capacity_tokens = len(prompt) + 1
        engine.open(SequenceSpec(key=key, prompt_ids=prompt, sampling=GREEDY, capacity_tokens=capacity_tokens))
    for slices in CALLS:

        def on_layer(done: int, slices: list[PrefillSlice] = slices) -> None:
            told.append(done)
            for part in slices:
                region = KvRegion(done - 1, done, part.start, part.stop)
                seen.append((part.key, region, b"".join(engine.export_kv_parts(part.key, region))))

        engine.prefill(slices, on_layer)

    assert told == [*range(1, layers + 1)] * len(CALLS)
    for key, region, content in seen:
        assert any(content)
        assert content == bytes(engine.export_kv(key, region))


@pytest.mark.parametrize("runner", [RunnerKind.AUTO, RunnerKind.GENERAL])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "gpt_neox", "gpt2"])
def test_the_torch_engine(tmp_path: Path, architecture: str, runner: RunnerKind) -> None:
    assert architecture in ARCHITECTURES
    check_layers(load_engine(save_tiny(architecture, tmp_path), runner=runner))


def test_the_fake_engine() -> None:
    spec = fake_spec()
    check_layers(FakeEngine(spec, 1000 * spec.layout.token_bytes))
