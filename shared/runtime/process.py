"""The process itself: its CPU cores, and its life tied to its parent's. Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Sequence

from shared.errors import ConfigError

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def available_cores() -> tuple[int, ...]:
    """The CPU cores this process may use."""
    return tuple(sorted(os.sched_getaffinity(0)))


def pin_to(cores: Sequence[int]) -> None:
    """Let this process, and the threads it starts from now on, use only `cores`; none: all. Raises ConfigError."""
    if not cores:
        return
    try:
        os.sched_setaffinity(0, cores)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot use the cores {list(cores)}: {error}", param="cores") from error


def die_with_parent(parent_pid: int | None = None, with_signal: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """What a child runs between fork and exec so that the kernel ends it with the thread that started it."""
    expected_parent = parent_pid or os.getpid()

    def in_child() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(with_signal), 0, 0, 0)
        if os.getppid() != expected_parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return in_child
