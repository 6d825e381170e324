"""Sees to it that the model is there before processes that need it start."""

from __future__ import annotations

from rich.console import Console

from services.local.settings import UpSettings
from shared.errors import ModelNotFound
from shared.models.progress import show_progress
from shared.models.pull import pull
from shared.models.store import ModelFolder, resolve
from shared.runtime.settings import cache_folder


def fetch_model(settings: UpSettings) -> ModelFolder:
    """The model's folder; it is pulled, with its progress on stderr, when it is not there yet. Raises BatonError."""
    cache = cache_folder(settings.cache_dir)
    try:
        return resolve(settings.model, cache)
    except ModelNotFound:
        with show_progress(Console(stderr=True)) as progress:
            return pull(settings.model, cache, progress)
