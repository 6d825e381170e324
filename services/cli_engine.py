"""Builds the engine a worker's settings name. torch is imported only when that engine is the torch one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from services.cli_process import models_folder
from shared.engine.contract import Engine
from shared.engine.load_progress import LoadProgress
from shared.kv.int8 import Int8Codec
from shared.models.facts import read_model_facts
from shared.models.store import ModelFolder, resolve
from shared.runtime.process_settings import EngineKind, WorkerProcessSettings

if TYPE_CHECKING:
    from shared.engine.torch_engine import TorchEngine
_FAKE_BLOCK_TOKENS = 16


def engine_loader(
    settings: WorkerProcessSettings, *, kv_bytes: int, prefill_token_s: float = 0.0, step_s: float = 0.0
) -> Callable[[], Engine]:
    """What loads and warms up the engine, to be called on the engine's thread.

    Raises ModelNotFound or UnsupportedModel at once when the model's folder cannot be used.
    """
    model = resolve(settings.model, models_folder(settings))
    if settings.engine is EngineKind.FAKE:
        return lambda: _fake(settings, model, kv_bytes, prefill_token_s, step_s)
    return lambda: _torch(settings, model, kv_bytes)


def int8_loader(settings: WorkerProcessSettings) -> Callable[[], Int8Codec]:
    """What loads the codec of caches that travel as int8, to be called after the engine was loaded."""
    return Int8Codec if settings.engine is EngineKind.FAKE else lambda: _native_int8(settings)


def _native_int8(settings: WorkerProcessSettings) -> Int8Codec:
    from shared.engine import native  # noqa: PLC0415

    # The engine on the CPU has looked for them before, and said if there are none.
    kernels = native.load(models_folder(settings), told=settings.device == "cpu")
    return Int8Codec(None if kernels is None else kernels.int8)


def _torch(settings: WorkerProcessSettings, model: ModelFolder, kv_bytes: int) -> Engine:
    engine = _torch_engine(settings.device).load(
        model.path,
        name=model.name,
        dtype=settings.dtype,
        kv_bytes=kv_bytes,
        device=settings.device,
        threads=settings.engine_threads,
        runner=settings.runner,
        prefix_cache=settings.prefix_cache,
        progress=LoadProgress(model.name),
        cache=models_folder(settings),
    )
    engine.warm_up()
    return engine


def _torch_engine(device: str) -> type[TorchEngine]:
    if device == "cpu":
        from shared.engine.torch_engine import TorchEngine  # noqa: PLC0415

        return TorchEngine
    from shared.engine.cuda.engine import CudaEngine  # noqa: PLC0415

    return CudaEngine


def _fake(
    settings: WorkerProcessSettings, model: ModelFolder, kv_bytes: int, prefill_token_s: float, step_s: float
) -> Engine:
    from shared.engine.fake import FakeEngine, FakePace, FakePoison, fake_spec  # noqa: PLC0415

    facts = read_model_facts(model.path)
    spec = fake_spec(model.name, facts.vocab_size, facts.context_tokens)
    poison = FakePoison(crash=settings.fake_crash_token, error=settings.fake_error_token, hang=settings.fake_hang_token)
    pace = FakePace(prefill_token_s, step_s)
    return FakeEngine(spec, kv_bytes, pace, poison, block_tokens=_FAKE_BLOCK_TOKENS, prefix_cache=settings.prefix_cache)
