"""Whether this machine can run the engine on CUDA, and a clear refusal where it cannot. Asked once, at load."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

import torch

from shared.errors import ConfigError

_CAPABILITY = (8, 0)


def cuda_device(name: str) -> torch.device:
    """The device called `name`, `cuda` or `cuda:N`. Raises ConfigError where it or what it takes is not there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name} is not cpu, cuda or cuda:N") from error
    if device.type != "cuda":
        raise ConfigError(f"device {name} is not supported: cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        built = "finds no GPU it can use" if torch.version.cuda else "is built without CUDA"
        raise ConfigError(f"device {name} cannot be used: torch {torch.__version__} {built}")
    index = device.index or 0
    if index >= torch.cuda.device_count():
        raise ConfigError(f"device {name} is not there: this machine has {torch.cuda.device_count()}")
    if importlib.util.find_spec("triton") is None:
        raise ConfigError(f"device {name} needs Triton, which is not installed; it belongs to torch's CUDA builds")
    if torch.cuda.get_device_capability(index) < _CAPABILITY:
        raise ConfigError(f"device {name} is older than compute capability {'.'.join(map(str, _CAPABILITY))}")
    return torch.device("cuda", index)


@contextlib.contextmanager
def within_memory(what: str) -> Iterator[None]:
    """Raises ConfigError when the device has no memory for `what`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(f"{what} does not fit the device: {error}") from error


def wait_for(device: torch.device) -> None:
    """Until all that this thread has launched on `device` is done."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
