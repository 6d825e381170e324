"""What of this machine's processors each worker gets: cores as a whole, as many for each.

Two hardware threads of one core share what computes, so they go to one worker. Asks the kernel; `supervisor` calls
`machine`, and `members` its `shares`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

Core = tuple[int, ...]
"""The CPUs, as the kernel numbers them, of one core."""

_CPUS = Path("/sys/devices/system/cpu")
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


class Share(msgspec.Struct, frozen=True):
    """One worker's: so many threads, on these CPUs; none: on any."""

    threads: int
    cpus: tuple[int, ...] = ()


class Machine(msgspec.Struct, frozen=True):
    """Cores that may be used, and how many CPUs' time in all (None: all of them)."""

    cores: tuple[Core, ...]
    quota: float | None = None

    def shares(self, workers: int, threads: int = 0) -> Iterator[Share]:
        """Of one of `workers` after the other, around the cores; with `threads` each, or as many as there are for it.

        Workers run on any core where one alone has more threads than there are cores, and where a quota says that the
        machine has other users, who may be bound to the same.
        """
        cores = self.cores if len(self.cores) >= workers else _cpus_apart(self.cores)
        count: float = len(cores)
        limited = self.quota is not None and self.quota < sum(map(len, self.cores))
        if self.quota is not None and limited:
            count = min(count, self.quota)
        each = threads or max(1, int(count / workers))
        around = itertools.cycle(cores)
        while True:
            taken = () if limited or each > len(cores) else tuple(itertools.islice(around, each))
            yield Share(each, tuple(cpu for core in taken for cpu in core))


def machine(allowed: Iterable[int]) -> Machine:
    """This one, as far as the CPUs `allowed` go."""
    return Machine(whole_cores(allowed), quota())


def _cpus_apart(cores: Sequence[Core]) -> tuple[Core, ...]:
    """Every CPU for itself: the first of each core before the second of any."""
    ranks = itertools.zip_longest(*cores)
    return tuple((cpu,) for rank in ranks for cpu in rank if cpu is not None)


def whole_cores(allowed: Iterable[int], cpus: Path = _CPUS) -> tuple[Core, ...]:
    """`allowed` CPUs by core. Where the kernel does not say, each is one."""
    usable = set(allowed)
    cores: dict[Core, None] = {}
    for cpu in sorted(usable):
        core = tuple(sorted(usable & _siblings(cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list")))
        cores[core or (cpu,)] = None
    return tuple(cores)


def quota(own_group: Path = _OWN_GROUP, groups: Path = _GROUPS) -> float | None:
    """How many CPUs' time the control groups (version 2) of this process leave it; None: no limit."""
    try:
        path = next(line[3:].strip() for line in own_group.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    folder = groups / path.lstrip("/")
    limits = [_limit(one / "cpu.max") for one in (folder, *folder.parents) if one.is_relative_to(groups)]
    return min((limit for limit in limits if limit is not None), default=None)


def _siblings(path: Path) -> set[int]:
    """The CPUs in a list such as `0,4` or `0-1`; none where it cannot be read."""
    try:
        spans = [part.split("-") for part in path.read_text().strip().split(",")]
        return {cpu for span in spans for cpu in range(int(span[0]), int(span[-1]) + 1)}
    except (OSError, ValueError):
        return set()


def _limit(path: Path) -> float | None:
    try:
        allowed_us, period_us = path.read_text().split()
        return int(allowed_us) / int(period_us)
    except (OSError, ValueError, ZeroDivisionError):
        return None
